"""Indices beyond 2^31 elements, in address space that no memory stands behind until it is written to."""

import mmap
import shutil
import subprocess
import sys

import numpy as np
import pytest

import microgpt_fast
from microgpt_fast import ops
from microgpt_fast.checking.cases import CASES

APART = 2**30 + 7  # elements from row to row: the third row begins beyond 2^31


def sparse(elements, dtype):
    """A flat array of zeros, far larger than memory."""
    if sys.platform != "linux":
        pytest.skip("needs Linux's MAP_NORESERVE")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        memory = mmap.mmap(-1, elements * np.dtype(dtype).itemsize, flags=flags)
    except OSError as error:
        pytest.skip(f"this system does not give out that much address space: {error}")
    return np.frombuffer(memory, dtype)


def far_apart(arrays):
    """The arrays side by side in rows that lie `APART` elements from each other."""
    rows = len(arrays[0])
    memory, first, views = sparse(rows * APART, arrays[0].dtype), 0, []
    for array in arrays:
        width = array[0].size
        view = memory.reshape(rows, APART)[:, first : first + width].reshape(array.shape)
        view[...] = array
        views.append(view)
        first += width
    return views


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_embedding_of_more_than_4_gigabytes(backend, dtype):
    C = 64
    V = 2**31 // C + 9
    table = sparse(V * C, dtype).reshape(V, C)
    tokens = np.array([V - 1, 0, V - 2, V - 1])
    table[V - 2 :] = [[2], [3]]
    positions = np.ones((1, C), dtype)
    x = ops.embedding_forward(tokens, [0, 0, 0, 0], table, positions, backend=backend)
    assert np.array_equal(x[:, 5], [4, 1, 3, 4])
    ops.embedding_backward(x, tokens, [0, 0, 0, 0], out=(table, positions), backend=backend)
    assert np.array_equal(table[[0, 1, V // 2, V - 3, V - 2, V - 1], 63], [1, 0, 0, 0, 5, 11])
    for wrong in (V, 2**31, 2**32):
        with pytest.raises(IndexError, match=f"is {wrong}, not in the vocabulary of size {V}"):
            ops.embedding_forward([wrong], [0], table, positions, backend=backend)


@pytest.mark.parametrize("kernel", ["gemm_nn", "gemm_nt", "gemm_tn"])
def test_gemm(backend, kernel):
    near = CASES[kernel].arguments(np.float32, M=3, N=3, K=3)
    far = CASES[kernel].arguments(np.float32, M=3, N=3, K=3)
    far["a"], far["b"], far["c"] = far_apart([near["a"], near["b"], near["c"]])
    far["ld_a"] = far["ld_b"] = far["ld_c"] = APART
    CASES[kernel].run(backend, near)
    CASES[kernel].run(backend, far)
    assert np.isfinite(far["c"]).all()
    np.testing.assert_allclose(far["c"], near["c"], rtol=1e-6)


@pytest.mark.parametrize("kernel", ["attention_forward", "attention_backward"])
def test_attention(backend, kernel):
    near = CASES[kernel].arguments(np.float32, lengths=(1, 3), H=2, D=3)
    far = dict(near)
    of_qkv = [name for name in ("q", "k", "v", "dq", "dk", "dv") if name in near]
    of_o = [name for name in ("o", "d_o") if name in near]
    far.update(zip(of_qkv, far_apart([near[name] for name in of_qkv])))
    far.update(zip(of_o, far_apart([near[name] for name in of_o])))
    far["ld_qkv"] = far["ld_o"] = APART
    CASES[kernel].run(backend, near)
    results = {name: near[name].copy() for name in CASES[kernel].outputs}
    CASES[kernel].run(backend, far)
    for name, result in results.items():
        assert np.isfinite(far[name]).all()
        np.testing.assert_allclose(far[name], result, rtol=1e-5, atol=1e-6, err_msg=name)


def test_attention_decode(backend):
    lengths, T_max, H, D = (1, 5, 3), 2**28 + 1, 2, 2
    near = CASES["attention_decode"].arguments(np.float32, lengths=lengths, T_max=5, H=H, D=D)
    caches = []
    for name in ("k_cache", "v_cache"):
        caches.append(sparse(3 * T_max * H * D, np.float32).reshape(3, T_max, H, D))
        caches[-1][:, :5] = near[name]
    wanted = ops.attention_decode(near["q"], near["k_cache"], near["v_cache"], lengths, backend=backend)
    o = ops.attention_decode(near["q"], *caches, lengths, backend=backend)
    assert np.isfinite(o).all() and np.array_equal(o, wanted)


@pytest.mark.parametrize("bits", [32, 64])
def test_no_index_of_the_core_is_narrowed(bits):
    """clang finds every conversion of a 64-bit number to 32 bits that is not written out as a cast."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang")
    run = subprocess.run(
        [
            "clang",
            "-std=gnu11",
            "-fsyntax-only",
            "-Werror=shorten-64-to-32",
            "-I",
            microgpt_fast.get_include(),
            "-I",
            microgpt_fast.get_sources(),
            f"-DREAL_BITS={bits}",
            "-DMGF_TABLE=table",
            f"{microgpt_fast.get_sources()}/variant.c",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.returncode == 0, run.stderr
