"""A model as a C file and as a Python file: they write what Python writes, whatever the model's characters are."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast.cli import main
from microgpt_fast.config import GPTConfig, UsageError
from microgpt_fast.export import programs, served

pytestmark = pytest.mark.slow  # C compilers, and several trainings
HOSTILE = (
    "\"quote' \\back\\\n*/ /* ??/ ??' %s {x} @BOS@\n</script><!-- & \u2028\u2029 \x00\x01\x7f\x85 🦄 한글\n"
)
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
STRICT = ["-std=c11", "-O2", "-pedantic", "-Wall", "-Wextra", "-Werror"]


def trained(text, **options):
    options = {"num_steps": 60, "learning_rate": 0.003, "dtype": "float32", **options}
    return mg.train([text] if options.get("data_mode") == "stream" else text.split("\n"), **options).model


MODELS = {
    "lines": lambda: mg.train(num_steps=200, dtype="float32").model,
    "stream": lambda: trained(HOSTILE, data_mode="stream", n_layer=2, n_embd=12, n_head=3, block_size=7),
    "bytes": lambda: trained(HOSTILE, data_mode="stream", tokenizer="byte", activation="gelu", block_size=1),
    "bos first": lambda: trained("안녕\n감사🦄\n\\??/*/", bos="first", activation="silu", n_head=1),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


def greedy(model, count, prompt=""):
    [text] = mg.generate(model, 1, temperature=0, max_new_tokens=count, prompt=prompt)
    return text


@pytest.fixture(scope="module")
def compiled(model, tmp_path_factory):
    """The C program of a model, by every compiler there is, with AddressSanitizer by the first that has it."""
    if not COMPILERS:
        pytest.skip("needs gcc or clang")
    folder = tmp_path_factory.mktemp("program")
    source = folder / "model.c"
    source.write_text(programs.c_program(model), encoding="utf-8")
    made = []
    for name in COMPILERS:
        for extra in ([], ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g"]):
            out = folder / f"{name}{len(extra)}"
            run = subprocess.run(
                [name, *STRICT, *extra, source, "-o", out, "-lm"], capture_output=True, text=True
            )
            if run.returncode and extra and "asan" in run.stderr:  # the sanitizer's library is not installed
                continue
            assert run.returncode == 0, run.stderr
            made.append(out)
    return made


def test_the_c_program_writes_pythons_text(model, compiled):
    for program in compiled:
        out = subprocess.run([program, "", "0", "40"], check=True, capture_output=True).stdout
        assert model.tokenizer.kind == "byte" or out == greedy(model, 40).encode() + b"\n"
        if model.tokenizer.kind == "byte":
            assert out.decode(errors="replace") == greedy(model, 40) + "\n"
        prompt = model.tokenizer.decode([i for i in range(model.config.vocab_size) if i % 2][-3:])
        prompt = "".join(char for char in prompt if char != "\0" and char.isprintable())
        out = subprocess.run([program, prompt, "0", "40"], check=True, capture_output=True).stdout
        assert out.decode(errors="replace") == greedy(model, 40, prompt) + "\n"


def test_the_c_program_tests_itself(model, compiled):
    for program in compiled:
        run = subprocess.run([program, "--self-test"], capture_output=True, text=True)
        assert run.returncode == 0 and run.stdout.startswith("self-test passed"), run.stdout


def test_the_c_program_samples_and_refuses(model, compiled):
    program = compiled[-1]
    draws = {
        subprocess.run([program, "", "1", "9", str(seed)], capture_output=True).stdout for seed in range(6)
    }
    assert len(draws) > 1
    for wrong in (["", "-1"], ["", "warm"], ["", "1", "2", "3", "4"], ["", "nan"]):
        run = subprocess.run([program, *wrong], capture_output=True, text=True)
        assert run.returncode == 2 and run.stderr.count("\n") == 1
    if model.tokenizer.kind == "char":
        run = subprocess.run([program, "\U0001f40d"], capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (2, "") and "does not know" in run.stderr


def test_a_self_test_finds_a_wrong_weight(model, tmp_path):
    if not COMPILERS:
        pytest.skip("needs gcc or clang")
    text = programs.c_program(model)
    start = text.index("weights[] = {") + 14
    end = text.index(",", start)
    if model.tokenizer.bos:  # wte begins with another token's row: take that of bos
        numbers = text[start : text.index("}", start)].split(",")
        numbers[model.tokenizer.bos * model.config.n_embd] = "9.f"
        text = text[:start] + ",".join(numbers) + text[text.index("}", start) :]
    else:
        text = f"{text[:start]}9.f{text[end:]}"
    (tmp_path / "model.c").write_text(text, encoding="utf-8")
    subprocess.run([COMPILERS[0], tmp_path / "model.c", "-o", tmp_path / "model", "-lm"], check=True)
    run = subprocess.run([tmp_path / "model", "--self-test"], capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout.startswith("self-test failed")


def test_the_python_program_writes_pythons_text(model, tmp_path):
    program = tmp_path / "model.py"
    program.write_text(programs.python_program(model), encoding="utf-8")

    def run(*arguments):
        command = [sys.executable, "-I", program, *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True).stdout.decode(errors="replace")

    assert run("--temperature", 0, "--max-new-tokens", 40) == greedy(model, 40) + "\n"
    several = mg.generate(model, 3, temperature=0.8, seed=7, max_new_tokens=20)
    drawn = run("--temperature", 0.8, "--max-new-tokens", 20, "--num-samples", 3, "--seed", 7)
    assert drawn == "\n".join(several) + "\n"


def test_float64_weights_keep_their_bits(tmp_path):
    model = mg.train(num_steps=20).model
    program = tmp_path / "model.py"
    program.write_text(programs.python_program(model), encoding="utf-8")
    out = subprocess.run(
        [sys.executable, program, "--num-samples", "5"], check=True, capture_output=True, text=True
    )
    assert out.stdout.splitlines() == mg.generate(model, 5)


def test_what_cannot_be_run_is_refused_by_name(monkeypatch):
    @dataclass(frozen=True)
    class WiderConfig(GPTConfig):
        rope: bool = False

    model = mg.train(["ab"], num_steps=0).model
    model.config = WiderConfig(model.config.vocab_size)
    served.check(model, "a page")
    model.config = WiderConfig(model.config.vocab_size, rope=True)
    with pytest.raises(UsageError, match="a page cannot run a model with rope True"):
        served.check(model, "a page")
    model.config = GPTConfig(model.config.vocab_size)
    model.tokenizer = None
    with pytest.raises(UsageError, match="needs a model with a tokenizer"):
        programs.c_program(model)


def test_weights_that_are_not_finite_are_refused():
    model = mg.train(["ab"], num_steps=0).model
    model.parameters[3] = 1e39  # finite in float64
    with pytest.raises(UsageError, match="not finite in float32"):
        programs.c_program(model)
    model.parameters[3] = np.nan
    with pytest.raises(UsageError, match="did its training diverge"):
        programs.python_program(model)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    mg.save(mg.train(["ab"], num_steps=2).model, path)
    return path


def test_the_command(saved, tmp_path, capsys):
    for ending in (".c", ".PY"):
        assert main(["export", str(saved), "--to", str(tmp_path / f"m{ending}")]) == 0
        assert capsys.readouterr().out.endswith("kB\n")
    assert "int main" in (tmp_path / "m.c").read_text() and "argparse" in (tmp_path / "m.PY").read_text()


@pytest.mark.parametrize(
    "name, reason",
    [("model.exe", "must end in"), ("no/model.c", "No such file"), ("folder.c", "Is a directory")],
)
def test_a_file_that_cannot_be_written_is_one_line(saved, tmp_path, capsys, name, reason):
    (tmp_path / "folder.c").mkdir()
    assert main(["export", str(saved), "--to", str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and reason in err and name in err
    assert sorted(os.listdir(tmp_path)) == ["folder.c", "model.safetensors"]


def test_a_model_that_cannot_be_read_is_one_line(tmp_path, capsys):
    assert main(["export", str(tmp_path / "none"), "--to", str(tmp_path / "m.c")]) == 2
    assert "No such file" in capsys.readouterr().err
