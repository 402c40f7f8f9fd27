"""An element of a product is one chain of multiply-adds: the same bits, however its matrix is cut."""

import numpy as np
import pytest

from microgpt_fast import ops

# M, N, K, and elements between the rows: near, and far apart. The last columns of 16, 24 and 28 are one whole vector of
# some instruction set, where a single row is a single chain.
SIZES = [(60, 21, 37, 0), (60, 16, 37, 0), (60, 24, 37, 0), (60, 28, 37, 0), (131, 150, 301, 700)]


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture
def compiled(backend):
    if not backend.HAS_EXACT:
        pytest.skip("a promise of the compiled backend")
    return backend


def rows(random, n, width, apart, dtype):
    """[n, width], whose rows lie width + apart elements from each other."""
    return random.normal(size=(n, width + apart)).astype(dtype)[:, :width]


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("M, N, K, apart", SIZES)
@pytest.mark.parametrize("kernel", ["gemm_nn", "gemm_nt", "gemm_tn"])
def test_an_element_has_the_same_bits_in_every_part_of_the_product(
    compiled, dtype, kernel, M, N, K, apart, accumulate
):
    random = np.random.default_rng(3)
    a = rows(random, *((K, M) if kernel == "gemm_tn" else (M, K)), apart, dtype)
    b = rows(random, *((N, K) if kernel == "gemm_nt" else (K, N)), apart, dtype)
    c = random.normal(size=(M, N)).astype(dtype)

    def product(first, end, columns):
        part = a[:, first:end] if kernel == "gemm_tn" else a[first:end]
        of_b = b[:columns] if kernel == "gemm_nt" else b[:, :columns]
        out = c[first:end, :columns].copy()
        return getattr(ops, kernel)(part, of_b, out=out, accumulate=accumulate, backend=compiled)

    whole = product(0, M, N)
    for first, end, columns in [(0, 1, N), (0, 7, N), (7, M, N), (M - 49, M, N), (0, M, N - 3), (0, M, 1)]:
        assert np.array_equal(product(first, end, columns), whole[first:end, :columns]), (first, end, columns)
