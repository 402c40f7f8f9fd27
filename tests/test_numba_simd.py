"""The vectors for Numba, lane by lane, at this processor's width and at others."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from microgpt_fast.backends import numba_simd as simd

pytestmark = pytest.mark.slow

DTYPES = [np.float32, np.float64]
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
ROWS = 4


def width(dtype):
    return simd.VECTOR_BYTES // np.dtype(dtype).itemsize


def normal(dtype, n, seed=0):
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def unset(dtype, n):
    return np.full(n, np.nan, dtype)


@njit
def arithmetic(out, x, y):
    n = simd.lanes(x)
    a, b = simd.load(x, 0), simd.load(y, 0)
    product = a
    product *= b
    product += 1
    simd.store(out, 0, a + b)
    simd.store(out, n, a - b)
    simd.store(out, 2 * n, product)
    simd.store(out, 3 * n, a / b)
    simd.store(out, 4 * n, 2 - a * 3)
    simd.store(out, 5 * n, simd.fma(a, 2.0, b))
    simd.store(out, 6 * n, simd.maximum(a, b))
    simd.store(out, 7 * n, simd.maximum(a, 0))
    simd.store(out, 8 * n, simd.where(a > b, a, 0))
    simd.store(out, 9 * n, simd.where(a <= 0, 1, b))
    simd.store(out, 10 * n, simd.zeros(x) + simd.lane_numbers(x))
    return simd.sum_lanes(a), simd.max_lanes(a), a[1]


@EVERY_DTYPE
def test_arithmetic(dtype):
    n = width(dtype)
    a, b, out = normal(dtype, n), normal(dtype, n, 1), unset(dtype, 11 * n)
    total, largest, second = arithmetic(out, a, b)
    wanted = [a + b, a - b, a * b + 1, a / b, 2 - a * 3, 2 * a + b, np.maximum(a, b), np.maximum(a, 0),
              np.where(a > b, a, 0), np.where(a <= 0, 1, b), np.arange(n)]  # fmt: skip
    np.testing.assert_allclose(out.reshape(11, n), wanted, rtol=0, atol=16 * np.finfo(dtype).eps)
    np.testing.assert_allclose(total, a.sum(), atol=n * np.finfo(dtype).eps)
    assert largest == a.max() and second == a[1]


@njit
def functions(exps, logs, roots, x):
    n = simd.lanes(x)
    for i in range(0, x.size, n):
        v = simd.load(x, i)
        simd.store(exps, i, simd.exp(v))
        simd.store(logs, i, simd.log(v))
        simd.store(roots, i, simd.sqrt(v))


def units_off(got, wanted, smallest=0.0):
    """Largest error in units of the last place of the wanted number, of at least `smallest`."""
    unit = np.spacing(np.maximum(abs(wanted), smallest).astype(got.dtype))
    return (np.abs(got.astype(wanted.dtype) - wanted) / unit).max()


@EVERY_DTYPE
def test_functions_are_within_their_stated_errors(dtype):
    precise = np.float64 if dtype == np.float32 else np.longdouble
    x = (np.random.default_rng(0).random(16 * 4096) * 2 - 1).astype(dtype)
    out, nothing = np.empty_like(x), np.empty_like(x)
    with np.errstate(all="ignore"):
        arguments = x * dtype(87 if dtype == np.float32 else 708)
        functions(out, nothing, nothing, arguments)
        assert units_off(out, np.exp(arguments.astype(precise))) <= 1.5
        positive = np.exp(arguments)
        functions(nothing, out, np.empty_like(x), positive)
        assert units_off(out, np.log(positive.astype(precise)), 1.0) <= 2
        functions(nothing, np.empty_like(x), out, positive)
        assert np.array_equal(out, np.sqrt(positive))


@EVERY_DTYPE
def test_exp_of_what_has_no_normal_exponential(dtype):
    n = width(dtype)
    special = np.array([-np.inf, -1e4, 0, 1e4, np.inf, np.nan], dtype)
    arguments = np.tile(special, n)
    out, nothing = unset(dtype, arguments.size), unset(dtype, arguments.size)
    with np.errstate(all="ignore"):
        functions(out, nothing, np.empty_like(nothing), arguments)
    np.testing.assert_array_equal(out, np.tile(np.array([0, 0, 1, np.inf, np.inf, np.nan], dtype), n))


@njit
def partial(out, x, count):
    n = simd.lanes(x)
    simd.store(out, 0, simd.load_partial(x, 0, count))
    simd.store_partial(out, n, simd.zeros(x) + 7, count)


@EVERY_DTYPE
def test_partial_loads_and_stores_touch_nothing_else(dtype):
    n = width(dtype)
    for count in range(n + 1):
        x, out = normal(dtype, max(count, 1))[:count], unset(dtype, 2 * n)
        partial(out, x, count)
        assert np.array_equal(out[:count], x) and not out[count:n].any()
        assert (out[n : n + count] == 7).all() and np.isnan(out[n + count :]).all()


@njit
def tiles(out, sums, x, ld, last, count):
    n = simd.lanes(x)
    p, q = simd.pointer(x, x), simd.pointer(out, out)
    q += 0
    tile = simd.load_tile(p, ld, last, ROWS) * simd.broadcast_column(p, ld, last, ROWS)
    tile += simd.broadcast_row(simd.load(p, 0), ROWS) + simd.zero_tile(p, ROWS)
    simd.store_tile(q, n, last, tile)
    corner = simd.load_tile_partial(p, ld, last, count, ROWS)
    simd.store_tile_partial(q + ROWS * n, n, last, corner, count)
    simd.store(sums, 0, simd.sum_rows(tile))
    simd.store(sums, ROWS * n, simd.max_rows(tile))


@EVERY_DTYPE
def test_tiles_repeat_their_last_row_and_do_not_store_it_twice(dtype):
    n = width(dtype)
    ld = n + 3
    for last in range(ROWS):
        for count in (1, n - 1, n):
            rows = np.minimum(np.arange(ROWS), last)
            x = normal(dtype, last * ld + n)  # nothing lies behind the last row
            matrix = np.stack([x[r * ld : r * ld + n] for r in rows])
            out, sums = unset(dtype, 2 * ROWS * n), unset(dtype, 2 * ROWS * n)
            tiles(out, sums, x, ld, last, count)
            tile = matrix * matrix[:, :1] + x[:n]
            got, corner = out.reshape(2, ROWS, n)
            close = dict(rtol=0, atol=32 * n * np.finfo(dtype).eps)
            np.testing.assert_allclose(got[: last + 1], tile[: last + 1], **close)
            assert np.isnan(got[last + 1 :]).all() and np.isnan(corner[last + 1 :]).all()
            assert np.array_equal(corner[: last + 1, :count], matrix[: last + 1, :count])
            assert np.isnan(corner[:, count:]).all()
            sums, largest = sums.reshape(2, ROWS, n)
            np.testing.assert_allclose(sums, np.repeat(tile.sum(axis=1), n).reshape(ROWS, n), **close)
            np.testing.assert_allclose(largest, np.repeat(tile.max(axis=1), n).reshape(ROWS, n), **close)


@njit
def transposed(out, x, ld, last, count):
    n = simd.lanes(x)
    memory = simd.stack(x, 256)
    simd.store(memory, 0, simd.load_transposed(x, ld, last, count))
    for i in range(n * n):
        out[i] = memory[i]


@EVERY_DTYPE
def test_transposition(dtype):
    n = width(dtype)
    ld = n + 1
    for last in (0, n // 2, n - 1):
        for count in (1, n):
            x, out = normal(dtype, last * ld + count), unset(dtype, n * n)
            transposed(out, x, ld, last, count)
            wanted = np.zeros((n, n), dtype)
            for r in range(n):
                wanted[:count, r] = x[min(r, last) * ld :][:count]
            assert np.array_equal(out.reshape(n, n), wanted)


@njit
def of_none(like, nothing):
    return simd.is_null(simd.pointer(nothing, like)), simd.is_null(simd.pointer(like, like))


def test_none_is_the_address_0():
    assert of_none(np.zeros(1), None) == (True, False)


@njit
def halve(out, x, flush):
    before = simd.denormals_flush() if flush else np.int32(0)
    for i in range(x.size):
        out[i] = x[i] * 0.5
    if flush:
        simd.denormals_restore(before)


@EVERY_DTYPE
def test_denormal_numbers_count_as_0_in_between_only(dtype):
    smallest = np.full(100, np.finfo(dtype).tiny)
    for flush in (False, True, False):
        out = unset(dtype, 100)
        halve(out, smallest, flush)
        assert (out == (0 if flush and simd.X86 else smallest / 2)).all()


NEEDS_AVX2 = pytest.mark.skipif(simd.VECTOR_BYTES < 32, reason="needs AVX2")


@pytest.mark.thorough
@pytest.mark.skipif(
    not simd.X86 or "NUMBA_CPU_FEATURES" in os.environ, reason="needs an x86-64 processor's own features"
)
@pytest.mark.parametrize(
    ("features", "bytes_wide"), [("", 16), pytest.param("+avx,+avx2,+fma", 32, marks=NEEDS_AVX2)]
)
def test_narrower_vectors_pass_these_tests_too(features, bytes_wide):
    settings = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    settings["EXPECTED_VECTOR_BYTES"] = str(bytes_wide)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif("EXPECTED_VECTOR_BYTES" not in os.environ, reason="only where the width is chosen")
def test_the_width_is_the_one_asked_for():
    assert simd.VECTOR_BYTES == int(os.environ["EXPECTED_VECTOR_BYTES"])
