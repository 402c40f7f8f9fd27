"""Which path computes a model: what each serves, and where the choice is shown."""

import json

import pytest

import microgpt_fast as mg
from microgpt_fast import backends, cli
from microgpt_fast.cli import parse
from microgpt_fast.cli.commands import info
from microgpt_fast.config import GPTConfig

NAMES = ["anna", "bob", "hannah"]


@pytest.fixture
def compiled():
    return pytest.importorskip("microgpt_fast.backends.cython_backend")


@pytest.mark.parametrize(
    "sizes, narrow",
    [
        ({}, True),
        (dict(n_embd=32, n_head=2), True),
        (dict(activation="relu2", n_layer=3), True),
        (dict(n_head=16), False),  # heads of one element
        (dict(n_embd=32, n_head=1), False),
        (dict(n_embd=48), False),
    ],
)
def test_narrow_models_have_a_path_of_their_own(compiled, sizes, narrow):
    pytest.importorskip("numba")
    config = GPTConfig(27, **sizes)
    for name in ("cython", "numba"):
        assert backends.load(name).path_of(config) == ("narrow" if narrow else "general")
    assert compiled.path_of(config, "exact") == "exact"
    assert backends.load("numpy").path_of(config) == "composed"


def test_engines_models_and_trainers_tell_their_path(compiled):
    assert mg.Trainer(NAMES, num_steps=1).path == "exact"
    assert mg.Trainer(NAMES, num_steps=1, numerics="fast").path == "narrow"
    assert mg.Trainer(NAMES, num_steps=1, dtype="float32", n_embd=64).path == "general"
    assert mg.Trainer(NAMES, num_steps=1, backend="numpy").model.path == "composed"
    for option in ({"grad_clip": 1}, {"gradient_accumulation_steps": 2}, {"shards": 1}):
        assert mg.Trainer(NAMES, num_steps=1, numerics="fast", **option).path == "general"
        parsed = parse(["info", *(f"--{name}={value}" for name, value in option.items()), "--numerics=fast"])
        assert info.path(parsed) == "general"
    assert compiled.Engine(GPTConfig(27, n_embd=64), "float32").path == "general"


def test_what_no_path_serves_is_composed_from_the_backends_kernels(compiled, monkeypatch):
    """A backend whose own paths refuse a model still trains it, and computes the same to rounding."""
    from types import SimpleNamespace

    from microgpt_fast.backends.engines import engine_of

    kernels = {name: getattr(compiled, name) for name in dir(compiled) if not name.startswith("_")}
    refusing = SimpleNamespace(**kernels, __name__=compiled.__name__)
    refusing.path_of = lambda config, numerics="fast", dtype=None: "composed"
    config = GPTConfig(5, n_layer=2, n_embd=12, n_head=3, block_size=4)
    assert engine_of(refusing, config, "float64").path == "composed"
    assert engine_of(compiled, config, "float64").path == "general"


@pytest.mark.parametrize(
    "options, path",
    [
        ((), "exact"),
        (("--dtype", "float32"), "narrow"),
        (("--dtype", "float32", "--n-embd", "64"), "general"),
        (("--preset", "laptop-1min"), "general"),
        (("--dtype", "bfloat16"), "mixed"),
        (("--backend", "numpy"), "composed"),
    ],
)
def test_info_and_the_first_line_of_training_name_the_path(compiled, options, path, capsys, tmp_path):
    assert cli.main(["info", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == path
    (tmp_path / "names").write_text("\n".join(NAMES) + "\n")
    if "--preset" not in options:
        assert cli.main(["train", "--data", str(tmp_path / "names"), "--num-steps", "1", *options]) == 0
        assert capsys.readouterr().err.startswith(f"microgpt-fast: training on the {path} path (")
