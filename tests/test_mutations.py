"""The suite sees a defect in the C core: each of these, planted in a copy, turns a check red.

A defect is (file, what it breaks: kernels with a case in cases.py, or gpt_update; text that is there exactly
once; text instead). The copies are compiled for the plainest instruction set, float64, without optimisation.
"""

import ctypes
import platform
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from test_kernels import assert_close
from test_update import CONFIGS, assert_update

import microgpt_fast
from microgpt_fast.backends import numpy_backend as twin
from microgpt_fast.checking.cases import CASES
from microgpt_fast.native.signatures import read_signatures

pytestmark = pytest.mark.thorough

DEFECTS = {
    "positions off by one": (
        "kernels/embedding.h",
        ["embedding_forward"],
        "wpe + positions[i] * C, C);",
        "wpe + (positions[i] + 1) % T * C, C);",
    ),
    "embedding gradient overwritten by the last row": (
        "kernels/embedding.h",
        ["embedding_backward"],
        "add_rows(position, position, dx + i * C, C);",
        "for (ptrdiff_t c = 0; c < C; c++) position[c] = dx[i * C + c];",
    ),
    "a limit that is itself allowed": (
        "kernels/embedding.h",
        ["embedding_forward"],
        "tokens[i] >= V ||",
        "tokens[i] > V ||",
    ),
    "rmsnorm without eps": (
        "kernels/rmsnorm.h",
        ["rmsnorm_forward"],
        " + splat((real)eps)",
        "",
    ),
    "rmsnorm's backward without its second term": (
        "kernels/rmsnorm.h",
        ["rmsnorm_backward"],
        "r * g - load_n(x_row + c, n) * factor",
        "r * g",
    ),
    "rmsnorm's gain forgotten in the inner product": (
        "kernels/rmsnorm.h",
        ["rmsnorm_backward"],
        "load_n(dy_row + c, n) * load_n(gain + c, n) * load_n(x_row + c, n)",
        "load_n(dy_row + c, n) * load_n(x_row + c, n)",
    ),
    "a gradient scaled by -0.12": (
        "kernels/rmsnorm.h",
        ["rmsnorm_backward"],
        "if (base) d +=",
        "d *= splat((real)-0.12);\n            if (base) d +=",
    ),
    "dx overwritten where it accumulates": (
        "kernels/linear.h",
        ["linear_backward"],
        "C, O, C, accumulate_dx)",
        "C, O, C, 0)",
    ),
    "dv of the last block of queries alone": (
        "kernels/attention.h",
        ["attention_backward"],
        "gemm(0, ADD, keys, D, b.rows, p, QUERIES, plain(y, ld_y), x, ld);",
        "gemm(0, STORE, keys, D, b.rows, p, QUERIES, plain(y, ld_y), x, ld);",
    ),
    "dk dropped across positions": (
        "kernels/attention.h",
        ["attention_backward"],
        "add_to_keys(dk + k * h.ld, h.ld, ds,",
        "if (k + keys > q) add_to_keys(dk + k * h.ld, h.ld, ds,",
    ),
    "delta left out": (
        "kernels/attention.h",
        ["attention_backward"],
        "(load(ds + i * QUERIES) - delta)",
        "load(ds + i * QUERIES)",
    ),
    "the future seen": (
        "kernels/attention.h",
        ["attention_forward", "attention_backward"],
        "lane_numbers() < isplat((integer)(first + i - b.first));",
        "lane_numbers() < isplat((integer)(first + i - b.first - 1));",
    ),
    "attention's softmax without its maximum": (
        "kernels/attention.h",
        ["attention_forward"],
        "vec p = vexp(load(s + i * QUERIES) - shift);",
        "vec p = vexp(load(s + i * QUERIES));",
    ),
    "what was summed before a block not rescaled": (
        "kernels/attention.h",
        ["attention_forward"],
        "*total = *total * factor + sum;",
        "*total = *total + sum;",
    ),
    "slopes of the wrong sign": (
        "kernels/attention.h",
        ["attention_forward", "attention_backward"],
        "- splat(slope) * __builtin",
        "+ splat(slope) * __builtin",
    ),
    "a decoder that forgets the newest key": (
        "kernels/attention.h",
        ["attention_decode"],
        "h.slope * (real)(h.n - 1 - k - i)",
        "(k + i == h.n - 1 ? (real)1 : h.slope * (real)(h.n - 1 - k - i))",
    ),
    "rope's gradient turned forth": (
        "kernels/rope.h",
        ["rope_backward"],
        "D, base, -1);",
        "D, base, 1);",
    ),
    "rope's pairs of neighbours": (
        "kernels/rope.h",
        ["rope_forward", "rope_backward"],
        "b = x[at + half];",
        "b = x[at + (i + 1 < half ? 1 : half)];",
    ),
    "relu's derivative 1 at 0": (
        "base/activation.h",
        ["mlp_backward"],
        "blend(h > (vec){0}, splat(1),",
        "blend(h >= (vec){0}, splat(1),",
    ),
    "relu2's derivative without its 2": (
        "base/activation.h",
        ["mlp_backward"],
        "relu(h) * (d + d)",
        "relu(h) * d",
    ),
    "the second block of the hidden layer dropped": (
        "kernels/mlp.h",
        ["mlp_forward"],
        "MLP_COLUMNS, F, f > 0)",
        "MLP_COLUMNS, F, 0)",
    ),
    "cross-entropy without its maximum": (
        "kernels/cross_entropy.h",
        ["cross_entropy_forward"],
        "total += exp_lanes(row + j, largest, lanes_left(j, V));",
        "total += exp_lanes(row + j, (vec){0}, lanes_left(j, V));",
    ),
    "cross-entropy's target not subtracted": (
        "kernels/cross_entropy.h",
        ["cross_entropy_backward"],
        "d[target] -= weight;",
        "",
    ),
    "Adam without bias correction of m": (
        "kernels/adam.h",
        ["adamw_step"],
        "lr * root / c1",
        "lr * root",
    ),
    "Adam's eps not corrected with v": (
        "kernels/adam.h",
        ["adamw_step"],
        "eps * root",
        "eps",
    ),
    "weight decay of the wrong sign": (
        "kernels/adam.h",
        ["adamw_step"],
        "1 - lr * weight_decay",
        "1 + lr * weight_decay",
    ),
    "a gradient clipped by the inverse factor": (
        "gpt/update.h",
        ["gpt_update"],
        "? max_norm / norm : 1",
        "? norm / max_norm : 1",
    ),
    "a gradient clipped before it is divided": (
        "gpt/update.h",
        ["gpt_update"],
        "norm_of(grads, table.count, pool) / divisor",
        "norm_of(grads, table.count, pool)",
    ),
    "the norm's first part alone": (
        "gpt/update.h",
        ["gpt_update"],
        "i < NORM_PARTS; i++",
        "i < 1; i++",
    ),
    "the gradient not cleared": (
        "gpt/update.h",
        ["gpt_update"],
        "if (a->clear)",
        "if (!a->clear)",
    ),
    "the last lanes of a tile's edge": (
        "base/gemm.h",
        ["gemm_nn", "gemm_nt", "gemm_tn", "linear_forward"],
        "partial ? (int)(columns % VL) : VL",
        "partial ? (int)(columns % VL) - 1 : VL",
    ),
    "a K block overwritten instead of added": (
        "base/gemm.h",
        ["gemm_nt"],
        "part.adds = t.adds || k",
        "part.adds = t.adds",
    ),
    "the first K block drops what it is to be added to": (
        "base/gemm.h",
        ["gemm_nt"],
        "part.adds = t.adds || k",
        "part.adds = k > 0",
    ),
}
# What is compiled for 16 vector registers alone
if platform.machine() in ("x86_64", "AMD64"):
    DEFECTS |= {
        "the first rows of a transposed A copied again": (
            "base/gemm.h",
            ["gemm_tn"],
            "t.a + k * t.ld_a + i, t.ld_a",
            "t.a + k * t.ld_a, t.ld_a",
        ),
        "the first columns of a far B copied again": (
            "base/gemm.h",
            ["gemm_nn", "gemm_tn"],
            "b.data + k * b.ld + j, b.ld",
            "b.data + k * b.ld, b.ld",
        ),
        "a row's second panel read from the first": (
            "base/tile.h",
            ["gemm_nn"],
            "j / TILE_VECTORS * t->panel",
            "j / TILE_VECTORS * 0",
        ),
    }

SEEN = [*CASES, "gpt_update"]


class Function:
    """A function of a compiled table, called with arrays as the backends' are."""

    def __init__(self, signature, pointer):
        real = ctypes.c_double
        kinds = {
            "ptrdiff_t": ctypes.c_ssize_t,
            "int": ctypes.c_int,
            "double": real,
            "int64_t": ctypes.c_int64,
        }
        types = [ctypes.c_void_p if a.is_pointer else kinds[a.ctype] for a in signature.arguments]
        self.function = ctypes.CFUNCTYPE(kinds.get(signature.result), *types)(pointer)

    def __call__(self, *arguments):
        return self.function(*[a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments])


def compiled(csrc, library):
    """The kernels and gpt_update of a copy of the core, as a backend has them."""
    sources = [csrc / name for name in ("variant.c", "narrow.c", "random.c", "threads.c")]
    subprocess.run(
        [
            "cc",
            "-std=gnu11",
            "-O0",
            "-w",
            "-fPIC",
            "-shared",
            "-I",
            microgpt_fast.get_include(),
            "-I",
            csrc,
            "-DREAL_BITS=64",
            "-DMGF_TABLE=table",
            *sources,
            "-lm",
            "-lpthread",
            "-o",
            library,
        ],
        check=True,
    )
    signatures = read_signatures()
    table = (ctypes.c_void_p * len(signatures)).in_dll(ctypes.CDLL(library), "table")
    functions = {s.name: Function(s, pointer) for s, pointer in zip(signatures, table) if s.name in SEEN}
    core = SimpleNamespace(**functions)
    core.Engine = lambda config, dtype: SimpleNamespace(update=update_of(core, config))
    return core


def update_of(core, config):
    """gpt_update of a compiled core as a method of Engine."""
    sizes = config.n_layer, config.n_embd, config.n_head, config.block_size, config.vocab_size, *[0] * 12
    shape = np.array(sizes, np.intp)  # mgf_config, with zeros behind its sizes

    def update(params, m, v, grads, lr, adam, step, divisor, max_norm):
        return core.gpt_update(params, m, v, grads, lr, np.array(adam), step, divisor, max_norm, shape, None)

    return update


def red(kernels, name):
    """Whether its check fails: for a kernel its case, at any size, with too large scores for exp or indices."""
    if name == "gpt_update":
        config = CONFIGS["several-items"]
        try:
            assert_update(kernels.Engine(config, "float64").update, config, "float64", 3, 0.3)
        except AssertionError:
            return True
        return False
    case = CASES[name]
    for size in case.sizes:
        for scale in (1, 1000) if name in ("attention_forward", "cross_entropy_forward") else (1,):
            arguments, wanted = (case.arguments(np.float64, seed=7, **size) for _ in range(2))
            for a in (arguments, wanted):
                for large in {"q", "logits"} & a.keys():
                    a[large][...] *= scale
            result, expected = case.run(kernels, arguments), case.run(twin, wanted)
            try:
                assert result == expected
                for output in case.outputs:
                    if wanted[output] is not None:
                        got, want, scale = arguments[output], wanted[output], case.scale(output, wanted)
                        assert_close(got, want, np.float64, case.bound, output, scale)
            except AssertionError:
                return True
    if "tokens" in arguments:
        arguments["V"] -= (
            1  # a smaller vocabulary, so that the table still has the row that is not to be read
        )
        arguments["tokens"][0] = arguments["V"]
        return case.run(kernels, arguments) != 0
    return False


@pytest.fixture(scope="module")
def compiler():
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler, cc")


def test_without_a_defect_all_is_green(compiler, tmp_path):
    kernels = compiled(shutil.copytree(microgpt_fast.get_sources(), tmp_path / "csrc"), tmp_path / "table.so")
    assert not [name for name in SEEN if red(kernels, name)]


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_turns_the_case_red(compiler, tmp_path, defect):
    file, names, text, instead = DEFECTS[defect]
    csrc = shutil.copytree(microgpt_fast.get_sources(), tmp_path / "csrc")
    source = (csrc / file).read_text()
    assert source.count(text) == 1, f"{file} has changed: plant this defect anew"
    (csrc / file).write_text(source.replace(text, instead))
    kernels = compiled(csrc, tmp_path / "table.so")
    assert [name for name in names if not red(kernels, name)] == []
