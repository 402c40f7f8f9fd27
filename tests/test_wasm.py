"""The C core compiled for WebAssembly, with the page's JavaScript, run in Node.js: it trains as Python does."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import parameters
from microgpt_fast.config import GPTConfig, UsageError
from microgpt_fast.export import wasm

TESTS = Path(__file__).parent
WEB = Path(mg.__file__).parent / "web"
BUILTIN = Path(mg.__file__).parent / "datasets" / "us_census_1990_first_names.txt"


def node(script, *arguments):
    """The JSON that a script of tests/web prints."""
    if not shutil.which("node"):
        pytest.skip("needs Node.js")
    run = subprocess.run(
        ["node", TESTS / "web" / script, *map(str, arguments)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="session")
def core_file(built_core, tmp_path_factory):
    path = tmp_path_factory.mktemp("core") / "core.wasm"
    path.write_bytes(built_core)
    return path


@pytest.mark.slow
def test_it_imports_nothing_and_is_small(built_core):
    import gzip

    assert len(gzip.compress(built_core, 9)) < 200_000
    assert b"wasi_snapshot" not in built_core


@pytest.mark.slow
def test_the_default_job_has_pythons_losses_and_samples(core_file):
    out = node("train.mjs", core_file, BUILTIN, "{}")
    run = mg.train(BUILTIN, dtype="float32")
    np.testing.assert_allclose(out["losses"], run.losses, atol=1e-4, rtol=0)
    assert out["samples"] == mg.generate(run.model, random=run.random)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        dict(n_layer=2, n_embd=32, n_head=2, activation="gelu"),
        dict(n_layer=2, n_embd=40, n_head=5, block_size=7, activation="relu2"),
        dict(n_layer=2, n_embd=24, n_head=3, block_size=33, data_mode="stream", seed=-(2**70)),
    ],
    ids=str,
)
def test_other_jobs_too(core_file, options):
    options = {**options, "num_steps": 60, "learning_rate": 1e-3}
    out = node("train.mjs", core_file, BUILTIN, json.dumps(options, default=str))
    run = mg.train(BUILTIN, dtype="float32", **options)
    np.testing.assert_allclose(out["losses"], run.losses, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_trained_model_is_a_file_that_python_loads(core_file, tmp_path):
    text, file = tmp_path / "text", tmp_path / "model.safetensors"
    text.write_text("안녕\n감사 🦄\n\\\"'\u0085x\n", encoding="utf-8")
    node("train.mjs", core_file, text, '{"num_steps": 30, "learning_rate": 0.001}', file)
    model, run = mg.load(file), mg.train(text, dtype="float32", num_steps=30, learning_rate=1e-3)
    assert model.config == run.model.config and model.tokenizer.chars == run.model.tokenizer.chars
    np.testing.assert_allclose(model.parameters, run.model.parameters, atol=1e-4)
    assert model.train_config.num_steps == 30 and model.train_config.learning_rate == 1e-3


@pytest.mark.slow
def test_float64_too(built_core64, tmp_path):
    core = tmp_path / "core.wasm"
    core.write_bytes(built_core64)
    out = node("train.mjs", core, BUILTIN, '{"dtype": "float64"}')
    run = mg.train(BUILTIN, numerics="fast")
    np.testing.assert_allclose(out["losses"], run.losses, rtol=1e-9)
    assert out["samples"] == mg.generate(run.model, random=run.random)


def test_the_table_of_parameters_is_pythons():
    config = GPTConfig(27, n_layer=2, n_embd=24, n_head=3)
    table = node("parameters.mjs", json.dumps(vars(config)))
    assert [(p["name"], [p["rows"], p["columns"]], p["offset"]) for p in table] == [
        (p.name, list(p.shape), p.offset) for p in parameters.parameters_of(config)
    ]


def test_without_a_compiler_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(tmp_path))
    monkeypatch.delenv("MICROGPT_FAST_WASM_CC", raising=False)
    monkeypatch.setattr(wasm, "find_spec", lambda name: None)
    monkeypatch.setattr(wasm, "SHIPPED", tmp_path)
    with pytest.raises(UsageError, match=r"pip install 'microgpt-fast\[web\]'"):
        wasm.core()
    monkeypatch.setenv("MICROGPT_FAST_WASM_CC", "no-such-compiler --target=wasm32")
    with pytest.raises(UsageError, match="no-such-compiler"):
        wasm.core()


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_it_is_compiled_once_and_a_file_that_others_could_have_written_is_not_trusted(
    monkeypatch, tmp_path, capsys
):
    compiler, calls = tmp_path / "cc", tmp_path / "calls"
    compiler.write_text(
        f'#!/bin/sh\necho >>{calls}\nfor out; do :; done\nprintf "\\0asm\\1\\0\\0\\0x" >"$out"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MICROGPT_FAST_WASM_CC", str(compiler))
    monkeypatch.setattr(wasm, "SHIPPED", tmp_path)

    def times():
        assert wasm.core() == wasm.MAGIC + b"x"
        return len(calls.read_text())

    assert (times(), times()) == (1, 1)
    [entry] = (tmp_path / "cache" / "wasm").glob("*.wasm")
    entry.write_bytes(entry.read_bytes()[:-20])
    assert (times(), times()) == (2, 2)
    entry.chmod(0o666)
    assert (times(), times()) == (3, 3)
    assert capsys.readouterr().err.count("cannot be trusted") == 2
    assert not list((tmp_path / "cache" / "wasm").glob("*.tmp"))


@pytest.mark.skipif(os.name != "posix", reason="needs false")
def test_a_compiler_that_fails_is_one_line(monkeypatch, tmp_path):
    from microgpt_fast.messages import MachineError

    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(tmp_path))
    monkeypatch.setenv("MICROGPT_FAST_WASM_CC", "false")
    monkeypatch.setattr(wasm, "SHIPPED", tmp_path)
    with pytest.raises(
        MachineError, match="cannot compile the C core for WebAssembly with false: exit code 1"
    ):
        wasm.core()
