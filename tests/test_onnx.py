"""A model as an ONNX file computes what Python does, in onnxruntime."""

import sys

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast.cli import main
from microgpt_fast.config import UsageError
from microgpt_fast.export.onnx import onnx_program

MODELS = [
    dict(),
    dict(n_layer=3, n_embd=30, n_head=5, block_size=7, activation="relu2"),
    dict(n_layer=2, n_embd=8, n_head=1, activation="gelu", block_size=1),
    dict(n_layer=2, n_embd=128, n_head=2, block_size=64, activation="silu", dtype="float64"),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", MODELS, ids=str)
def test_logits(options):
    pytest.importorskip("onnx", reason="needs onnx")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    model = mg.train(num_steps=20, **{"dtype": "float32", **options}).model
    session = runtime.InferenceSession(onnx_program(model), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    for length in {1, 2, model.config.block_size}:
        ids = random.integers(0, model.config.vocab_size, min(length, model.config.block_size))
        [logits] = session.run(None, {"tokens": ids})
        np.testing.assert_allclose(logits, model.logits(ids), atol=1e-5, rtol=1e-5)


def test_without_onnx_the_command_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    model = mg.train(["ab"], num_steps=0).model
    with pytest.raises(UsageError, match="pip install onnx"):
        onnx_program(model)
    mg.save(model, tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--to", str(tmp_path / "model.onnx")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_the_command(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    mg.save(mg.train(["ab"], num_steps=0).model, tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--to", str(tmp_path / "model.onnx")]) == 0
    assert [value.name for value in onnx.load(tmp_path / "model.onnx").graph.output] == ["logits"]
