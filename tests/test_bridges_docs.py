"""docs/bridges.md and the examples of other libraries run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import microgpt_fast

ROOT = Path(__file__).parent.parent
PACKAGE = Path(microgpt_fast.__file__).parent.parent


def run(folder, *command):
    env = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def examples(heading):
    """The Python of one chapter of docs/bridges.md."""
    text = (ROOT / "docs" / "bridges.md").read_text(encoding="utf-8")
    [chapter] = re.findall(rf"^###? {heading}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", chapter, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "library"),
    [
        ("Arrays of any library", "torch"),
        ("PyTorch", "torch"),
        ("JAX", "jax"),
        ("ctypes", "ctypes"),
        ("cffi", "cffi"),
    ],
    ids=lambda name: name,
)
def test_examples_in_the_text_run(heading, library, tmp_path):
    pytest.importorskip(library)
    if "kernel_addresses" in examples(heading):
        pytest.importorskip("microgpt_fast.backends.cython_backend")
    assert examples(heading)
    run(tmp_path, "-c", examples(heading))


def test_a_checkpoint_of_nanogpt(tmp_path):
    """Refused as it is; the recipe of the text brings every matrix over."""
    torch = pytest.importorskip("torch")
    sizes = dict(vocab_size=5, n_layer=2, n_embd=4, n_head=2, block_size=3, bias=False, dropout=0.0)
    config = microgpt_fast.GPTConfig(5, n_layer=2, n_embd=4, n_head=2, block_size=3)
    torch.manual_seed(0)
    state = {"lm_head.weight": torch.randn(5, 4), "transformer.wpe.weight": torch.randn(3, 4)}
    state["transformer.wte.weight"] = state["lm_head.weight"]
    for i in range(2):
        shapes = {"attn.c_attn": (12, 4), "attn.c_proj": (4, 4), "mlp.c_fc": (16, 4), "mlp.c_proj": (4, 16)}
        state |= {f"transformer.h.{i}.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
        state[f"transformer.h.{i}.ln_1.weight"] = torch.ones(4)
    state = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    torch.save({"model": state, "model_args": sizes}, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match="ckpt.pt: not a model file but a pickle, as torch.save"):
        microgpt_fast.load(tmp_path / "ckpt.pt")
    scope = {}
    exec("import torch, microgpt_fast, microgpt_fast.torch\n" + examples("State dicts[^\n]*"), scope)
    named = scope["from_nanogpt"](tmp_path / "ckpt.pt").original_names()
    assert named.keys() == config.shapes().keys()
    qkv = state["_orig_mod.transformer.h.1.attn.c_attn.weight"]
    assert torch.equal(torch.cat([named[f"layer1.attn_w{letter}"] for letter in "qkv"]), qkv)
    assert torch.equal(named["layer0.mlp_fc2"], state["_orig_mod.transformer.h.0.mlp.c_proj.weight"])
    assert torch.equal(named["wte"], named["lm_head"])


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_training_loops_learn(library, tmp_path):
    pytest.importorskip(library)
    text = run(tmp_path, str(ROOT / "examples" / f"{library}_training" / "train.py"), "40")
    first, last = (float(loss) for loss in re.findall(r"loss ([\d.]+)", text))
    assert last < first - 0.5 and len(text.splitlines()) == 7
