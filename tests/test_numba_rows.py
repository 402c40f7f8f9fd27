"""Rows of constant width for Numba, shape by shape."""

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from microgpt_fast.backends import numba_rows as r
from microgpt_fast.backends.numba_simd import VECTOR_BYTES, store

pytestmark = pytest.mark.slow

CASES = [(np.float32, 16, 4), (np.float64, 32, 16), (np.float64, 16, 8)]


def _pointer_of(C, D):
    def pointer_to(array):
        return r.rows_pointer(array, C, D)

    pointer_to.__qualname__ = f"pointer_to_{C}_{D}"
    return njit(pointer_to)


POINTER = {(C, D): _pointer_of(C, D) for _, C, D in CASES}


def run(function, C, D, *arrays):
    """The jitted function on pointers to the arrays."""
    pointer_to, inner = POINTER[C, D], njit(function)
    if len(arrays) == 2:
        return njit(lambda x, y: inner(pointer_to(x), pointer_to(y)))(*arrays)
    return njit(lambda x, y, z: inner(pointer_to(x), pointer_to(y), pointer_to(z)))(*arrays)


def normal(dtype, *shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1]}-{case[2]}")
def shapes(request):
    dtype, C, D = request.param
    R = max(1, 8 * VECTOR_BYTES // np.dtype(dtype).itemsize // C)
    return dtype, C, D, R


def sizes(out, x):
    store(out, 0, r.zero_row(x) + r.row_width(x))
    store(out, r.row_width(x), r.zero_row(x) + r.tile_height(x))
    store(out, 2 * r.row_width(x), r.zero_row(x) + r.head_width(x))
    store(out, 3 * r.row_width(x), r.row_in_head(x))


def test_sizes(shapes):
    dtype, C, D, R = shapes
    out = np.full((4, C), np.nan, dtype)
    run(sizes, C, D, out, out)
    wanted = [np.full(C, C), np.full(C, R), np.full(C, D), np.arange(C) % D]
    np.testing.assert_array_equal(out, wanted)


def tiles(out, x):
    C, R, ld = r.row_width(x), r.tile_height(x), r.row_width(x) + 3
    tile = r.load_rows(x, ld)
    store(out, 0, tile)
    store(out, R * C, r.repeat(r.load_row(x + 1), tile))
    store(out, 2 * R * C, r.load_column(x + 2, ld))
    store(out, 3 * R * C, r.spread(r.load_statistics(x + 1), tile))
    store(out, 4 * R * C, r.spread(r.sum_of_rows(x, tile), tile))
    store(out, 5 * R * C, r.spread(r.max_of_rows(x, tile), tile))
    r.store_rows(out + 6 * R * C, ld, tile)
    store(out, 8 * R * C + 3 * R, r.zero_rows(x))


def test_tiles(shapes):
    dtype, C, D, R = shapes
    x = normal(dtype, R, C + 3)
    out = np.full(9 * R * C + 3 * R, np.nan, dtype)
    run(tiles, C, D, out, x)
    got = out[: 6 * R * C].reshape(6, R, C)
    rows, flat = x[:, :C], x.ravel()
    np.testing.assert_array_equal(got[0], rows)
    np.testing.assert_array_equal(got[1], np.broadcast_to(flat[1 : C + 1], (R, C)))
    np.testing.assert_array_equal(got[2], np.broadcast_to(x[:, 2:3], (R, C)))
    np.testing.assert_array_equal(got[3], np.broadcast_to(flat[1 : R + 1, None], (R, C)))
    sums = np.broadcast_to(rows.sum(axis=1, keepdims=True), (R, C))
    np.testing.assert_allclose(got[4], sums, atol=20 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(got[5], np.broadcast_to(rows.max(axis=1, keepdims=True), (R, C)))
    stored = out[6 * R * C : 7 * R * C + 3 * R].reshape(R, C + 3)
    np.testing.assert_array_equal(stored[:, :C], rows)
    assert np.isnan(stored[:, C:]).all()  # what lies between rows is not written
    assert not out[-R * C :].any()


def transposed(out, x):
    r.store_rows_transposed(out, r.tile_height(x) + 2, r.load_rows(x, r.row_width(x)))


def test_a_tile_stored_transposed(shapes):
    dtype, C, D, R = shapes
    x, out = normal(dtype, R, C), np.full((C, R + 2), np.nan, dtype)
    run(transposed, C, D, out, x)
    np.testing.assert_array_equal(out[:, :R], x.T)
    assert np.isnan(out[:, R:]).all()


def heads(out, x, y):
    C, D = r.row_width(x), r.head_width(x)
    columns, row = r.load_columns(x), r.load_row(y)
    r.store_columns(out, columns)
    store(out, D * C, columns)
    store(out, 2 * D * C, r.load_heads(x))
    scores = r.dot_columns(columns, row)
    store(out, 3 * D * C, scores)
    store(out, 3 * D * C + C, r.add_heads(row, scores, r.load_heads(x)))
    r.store_columns(out + (3 * D + 2) * C, r.add_to_columns(r.zero_columns(x), scores, row))


def test_heads(shapes):
    dtype, C, D, _ = shapes
    H = C // D
    x, y = normal(dtype, D, C), normal(dtype, C, seed=1)
    out = np.full((4 * D + 2, C), np.nan, dtype)
    run(heads, C, D, out, x, y)
    tolerance = dict(rtol=0, atol=100 * np.finfo(dtype).eps * D)
    np.testing.assert_array_equal(out[:D], x)
    by_head = x.reshape(D, H, D)  # [row, head, element]
    np.testing.assert_array_equal(out[D : 2 * D].reshape(D, H, D), by_head.transpose(2, 1, 0))
    np.testing.assert_array_equal(out[2 * D : 3 * D], x)
    scores = np.einsum("rhe,he->hr", by_head, y.reshape(H, D))
    np.testing.assert_allclose(out[3 * D].reshape(H, D), scores, **tolerance)
    added = y.reshape(H, D) + np.einsum("hr,rhe->he", scores, by_head)
    np.testing.assert_allclose(out[3 * D + 1].reshape(H, D), added, **tolerance)
    products = np.einsum("hr,he->rhe", scores, y.reshape(H, D))
    np.testing.assert_allclose(out[3 * D + 2 :].reshape(D, H, D), products, **tolerance)


def test_types_of_different_constants_are_different():
    from numba.core.types import float32

    assert r.Rows(float32, 16, 4) == r.Rows(float32, 16, 4) != r.Rows(float32, 16, 8)
    assert r.Rows(float32, 32, 8).R * 2 == r.Rows(float32, 16, 8).R or r.Rows(float32, 32, 8).R == 1
