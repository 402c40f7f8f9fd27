"""Matrix products from register tiles."""

from ._call import call, contiguous, row_stride


def gemm_nn(a, b, *, accumulate=False, out=None, backend="auto"):
    """c = a b, or c += a b.

    a and b may be columns cut out of larger arrays; they are not copied as long as each row is contiguous.

    Parameters
    ----------
    a, b : [M, K], [K, N]
    accumulate : bool
        Add to c instead of overwriting it.
    out : [M, N], optional
        c.
    backend : str or module

    Returns
    -------
    c : [M, N]

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    """
    return _gemm("gemm_nn", a, b, accumulate, out, backend)


def gemm_nt(a, b, *, accumulate=False, out=None, backend="auto"):
    """c = a b^T, or c += a b^T, for a [M, K] and b [N, K]; otherwise as in `gemm_nn`."""
    return _gemm("gemm_nt", a, b, accumulate, out, backend)


def gemm_tn(a, b, *, accumulate=False, out=None, backend="auto"):
    """c = a^T b, or c += a^T b, for a [K, M] and b [K, N]; otherwise as in `gemm_nn`."""
    return _gemm("gemm_tn", a, b, accumulate, out, backend)


def _gemm(kernel, a, b, accumulate, out, backend):
    return call(
        kernel,
        dict(a=a, b=b),
        out=out,
        backend=backend,
        added=("c",) if accumulate else (),
        arrange=_rows,
        accumulate=int(bool(accumulate)),
    )


def _rows(arrays, outputs, sizes):
    """The row strides of a, b and c; a and b are copied only if their rows are not contiguous."""
    for name in "ab":
        if row_stride(arrays[name]) is None:
            arrays[name] = contiguous(arrays[name])
    return dict(ld_a=row_stride(arrays["a"]), ld_b=row_stride(arrays["b"]), ld_c=sizes["N"])
