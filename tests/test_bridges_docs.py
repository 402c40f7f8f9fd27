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
    [chapter] = re.findall(rf"^##+ {heading}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
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


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_training_loops_learn(library, tmp_path):
    pytest.importorskip(library)
    text = run(tmp_path, str(ROOT / "examples" / f"{library}_training" / "train.py"), "40")
    first, last = (float(loss) for loss in re.findall(r"loss ([\d.]+)", text))
    assert last < first - 0.5 and len(text.splitlines()) == 7
