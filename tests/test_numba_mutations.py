"""The suite sees a defect in the Numba backend: each of these, planted in a copy, turns a check red.

A defect is (what it breaks: kernels with a case in cases.py, gpt_update, or the steps of narrow models; text
that is there exactly once; text instead). Compiled for float64, without optimisation.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

import microgpt_fast

pytestmark = pytest.mark.thorough

STEPS = ["narrow"]
DEFECTS = {
    "positions off by one": (
        ["embedding_forward"],
        "wte + tokens[i] * C, wpe + positions[i] * C, C)",
        "wte + tokens[i] * C, wpe + (positions[i] + 1) % T * C, C)",
    ),
    "rmsnorm's backward without its second term": (
        ["rmsnorm_backward"],
        "d = g * r - load_partial(row, c, count) * factor",
        "d = g * r",
    ),
    "a gradient scaled by -0.12": (
        ["rmsnorm_backward"],
        "factor = total * (r if",
        "r *= -0.12\n        factor = total * (r if",
    ),
    "dk and dv from one query of a block only": (
        ["attention_backward"],
        "gemm(ADD, whole, D, rows, p, n, 1, y,",
        "gemm(ADD, whole, D, 1, p, n, 1, y,",
    ),
    "dk and dv of the last block of queries alone": (
        ["attention_backward"],
        "gemm(ADD, whole, D, rows, p, n, 1, y, ld_y, x, ld)",
        "gemm(STORE, whole, D, rows, p, n, 1, y, ld_y, x, ld)",
    ),
    "relu's derivative 1 at 0 and below": (
        ["mlp_backward"],
        "return where(h > 0, d, d * 0)",
        "return where(h > -1, d, d * 0)",
    ),
    "cross-entropy's target not subtracted": (
        ["cross_entropy_backward"],
        "out[targets[i]] -= dlosses[i]",
        "pass",
    ),
    "Adam without bias correction of m": (
        ["adamw_step"],
        "lr * root / (1 - beta1**step)",
        "lr * root",
    ),
    "a gradient clipped by the inverse factor": (
        ["gpt_update"],
        "max_norm / norm if",
        "norm / max_norm if",
    ),
    "narrow: dk of the last block of queries alone": (
        STEPS,
        "store(dk, i, add_heads(load_row(dk + i), ds, queries))",
        "store(dk, i, add_heads(zero_row(dk), ds, queries))",
    ),
    "narrow: the second rmsnorm's backward forgotten": (
        STEPS,
        "d = norm_backward(s, dh, load_rows(h2 + row, C), load_statistics(y + at.rstd2 + i))",
        "d = dh",
    ),
    "narrow: a gradient scaled by -0.12": (
        STEPS,
        "store(d_o, row, product(zero_rows(s), C, dx1 + row, C, wo, C))",
        "store(d_o, row, -0.12 * product(zero_rows(s), C, dx1 + row, C, wo, C))",
    ),
}

CHECK = """
import sys
sys.path[:0] = sys.argv[1:3]
import microgpt_fast
from microgpt_fast.backends import numba_backend
assert microgpt_fast.__file__.startswith(sys.argv[1])

def red(name):
    if name != "narrow":
        from test_mutations import red
        return red(numba_backend, name)
    from test_numba_narrow import JOBS, assert_parity
    try:
        assert_parity(JOBS["large-vocabulary"])
    except AssertionError:
        return True
    return False

print([name for name in sys.argv[3:] if red(name)])
"""


def red_ones(folder, names, text="", instead=""):
    """Which checks fail with a copy of the package in which a text is replaced."""
    package = Path(microgpt_fast.__file__).parent
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    copy = shutil.copytree(package, folder / "microgpt_fast", ignore=ignore)
    jitted = [*copy.glob("backends/numba_*.py"), *copy.glob("backends/numba_*/*.py")]
    sources = {path: path.read_text() for path in jitted}
    if text:
        assert sum(source.count(text) for source in sources.values()) == 1, f"plant this defect anew: {text}"
        for path, source in sources.items():
            path.write_text(source.replace(text, instead))
    (folder / "cache").mkdir()
    settings = dict(NUMBA_OPT="0", NUMBA_CACHE_DIR=str(folder / "cache"))
    command = [sys.executable, "-W", "ignore", "-c", CHECK, str(folder), str(Path(__file__).parent), *names]
    run = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_without_a_defect_all_is_green(tmp_path):
    kernels = {name: None for names, *_ in DEFECTS.values() for name in names}
    assert red_ones(tmp_path, kernels) == "[]"


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_turns_a_check_red(tmp_path, defect):
    names, text, instead = DEFECTS[defect]
    assert red_ones(tmp_path, names, text, instead) == str(names)
