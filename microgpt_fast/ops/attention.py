"""Causal multi-head attention over packed documents (Vaswani et al. 2017, arXiv:1706.03762).

On the compiled and the Numba backend, memory grows with the length, not with its square (Dao et al. 2022,
arXiv:2205.14135).
"""

import numpy as np

from ._call import as_array, call, check_overlap, contiguous, row_stride


def attention_forward(q, k, v, cu_seqlens=None, *, scale=None, slopes=None, out=None, backend="auto"):
    """o_i = sum_j p[i, j] v_j with p = softmax(s), for every head.

    s[i, j] = scale * q_i . k_j - slope_h * (i - j) for j <= i in the same document, and lse_i = log sum_j exp
    s[i, j].

    q, k and v are not copied if their rows are contiguous and equally far apart, as in three views of one array
    [N, 3, H, D].

    Parameters
    ----------
    q, k, v : [N, H, D]
    cu_seqlens : int32 [B + 1], optional
        Document b has the rows cu_seqlens[b] .. cu_seqlens[b + 1] - 1; None means one document of N rows.
    scale : float, optional
        D ** -0.5 if not given.
    slopes : [H], optional
        Slopes of a bias that grows with the distance (ALiBi: Press et al. 2021, arXiv:2108.12409).
    out : ([N, H, D] or None, [N, H] or None), optional
        Overwritten with o and lse.
    backend : str or module

    Returns
    -------
    o : [N, H, D]
    lse : [N, H]
        Needed by `attention_backward`.

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`; ValueError also for cu_seqlens that do not cover the N rows in order.
    """

    def arrange(arrays, outputs, sizes):
        stride = _share_stride(arrays)
        arrays["slopes"] = contiguous(arrays["slopes"])
        return dict(
            ld_qkv=stride, ld_o=sizes["H"] * sizes["D"], **_constants(cu_seqlens, scale, sizes, outputs)
        )

    inputs = dict(q=q, k=k, v=v, slopes=slopes)
    options = dict(cu_seqlens=cu_seqlens, scale=scale)
    return call("attention_forward", inputs, out=out, backend=backend, arrange=arrange, **options)


def attention_backward(
    d_o, o, lse, q, k, v, cu_seqlens=None, *, scale=None, slopes=None, out=None, backend="auto"
):
    """The loss's derivatives with respect to q, k and v; delta_i = d_o_i . o_i.

    ds[i, j] = p[i, j] * (d_o_i . v_j - delta_i), dq_i = scale * sum_j ds[i, j] k_j,
    dk_j = scale * sum_i ds[i, j] q_i, dv_j = sum_i p[i, j] d_o_i; p is computed again from lse.

    Parameters
    ----------
    d_o, o : [N, H, D]
        The loss's derivative with respect to o, and o itself.
    lse : [N, H]
        From `attention_forward`.
    q, k, v, cu_seqlens, scale, slopes
        As in the forward.
    out : ([N, H, D], [N, H, D], [N, H, D], [N, H]), each or None, optional
        Overwritten with dq, dk, dv and delta. Here dq, dk and dv may be three views of one array [N, 3, H, D], if
        all three are given. Without `out` they are such views if q, k and v are.
    backend : str or module

    Returns
    -------
    dq, dk, dv, delta : [N, H, D], [N, H, D], [N, H, D], [N, H]

    Raises
    ------
    TypeError, ValueError
        See `attention_forward`.
    """
    names = ("dq", "dk", "dv")

    def arrange(arrays, outputs, sizes):
        N, H, D = (sizes[name] for name in "NHD")
        given = [outputs[name] for name in names if outputs[name] is not None]
        if given:
            strides = {row_stride(array) for array in given}
            stride = strides.pop()
            if strides or stride is None or (len(given) < 3 and stride != H * D):
                found = ", ".join(f"{array.shape} with strides {array.strides}" for array in given)
                raise ValueError(
                    "out for dq, dk and dv must be contiguous, or views of one array [N, 3, H, D], "
                    f"not {found}"
                )
        else:
            stride = _common_stride(arrays)
            if stride == 3 * H * D and H * D:
                outputs.update(zip(names, np.moveaxis(np.empty((N, 3, H, D), arrays["q"].dtype), 1, 0)))
            else:
                stride = H * D
        _share_stride(arrays, stride)
        for name in ("d_o", "o", "lse", "slopes"):
            arrays[name] = contiguous(arrays[name])
        return dict(ld_qkv=stride, ld_o=H * D, **_constants(cu_seqlens, scale, sizes, outputs))

    inputs = dict(d_o=d_o, o=o, lse=lse, q=q, k=k, v=v, slopes=slopes)
    options = dict(strided=names, arrange=arrange, cu_seqlens=cu_seqlens, scale=scale)
    return call("attention_backward", inputs, out=out, backend=backend, **options)


def attention_decode(q, k_cache, v_cache, lengths, *, scale=None, slopes=None, out=None, backend="auto"):
    """`attention_forward` for the last of lengths[b] positions, whose keys and values are in the caches.

    Parameters
    ----------
    q : [B, H, D]
        One query per document.
    k_cache, v_cache : [B, T_max, H, D]
        Positions 0 .. lengths[b] - 1 are read, including the query's own.
    lengths : int32 [B]
        From 1 to T_max.
    scale : float, optional
        D ** -0.5 if not given.
    slopes : [H], optional
    out : [B, H, D], optional
        Overwritten with the result.
    backend : str or module

    Returns
    -------
    o : [B, H, D]

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    IndexError
        For a length out of range.
    """

    def arrange(arrays, outputs, sizes):
        lengths, T_max = arrays["lengths"], sizes["T_max"]
        outside = (lengths < 1) | (lengths > T_max)
        if outside.any():
            b = int(outside.argmax())
            raise IndexError(f"lengths[{b}] is {lengths[b]}, not in 1 .. {T_max}, the size of the cache")
        for name, array in arrays.items():
            arrays[name] = contiguous(array)
        return dict(scale=_scale(scale, sizes))

    inputs = dict(q=q, k_cache=k_cache, v_cache=v_cache, lengths=lengths, slopes=slopes)
    return call("attention_decode", inputs, out=out, backend=backend, arrange=arrange, scale=scale)


def _scale(scale, sizes):
    if sizes["D"] < 1:
        raise ValueError("heads must have at least one element: D is 0")
    return sizes["D"] ** -0.5 if scale is None else scale


def _constants(cu_seqlens, scale, sizes, outputs):
    """cu_seqlens, B and scale, as the kernels take them; no output may overlap cu_seqlens."""
    N = sizes["N"]
    offsets = as_array("cu_seqlens", [0, N] if cu_seqlens is None else cu_seqlens, np.int32)
    if offsets.dtype.kind not in "iu":
        raise TypeError(f"cu_seqlens must be of an integer dtype, preferably int32, not {offsets.dtype}")
    if offsets.ndim != 1 or not len(offsets) or N >= 2**31:
        raise ValueError(
            f"cu_seqlens must have shape [B + 1] and rows must be fewer than 2^31, not {offsets.shape} and {N} rows"
        )
    if offsets[0] != 0 or offsets[-1] != N or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(
            f"cu_seqlens of shape {offsets.shape} must rise from 0 to {N}, the rows of q; "
            f"it has {_brief(offsets)}"
        )
    check_overlap(outputs, {"cu_seqlens": offsets})
    offsets = contiguous(offsets.astype(np.int32, copy=False))
    return dict(cu_seqlens=offsets, B=len(offsets) - 1, scale=_scale(scale, sizes))


def _brief(values):
    shown = ", ".join(str(value) for value in values[:8])
    return shown + (f", ..., {values[-1]}" if len(values) > 8 else "")


def _common_stride(arrays):
    """The distance between rows, if it is the same in q, k and v; else None."""
    strides = {row_stride(arrays[name]) for name in "qkv"}
    return strides.pop() if len(strides) == 1 else None


def _share_stride(arrays, stride=None):
    """Make the distance between rows the same in q, k and v: `stride`, or what they have, or a row's length."""
    common = _common_stride(arrays)
    if common is not None and stride in (None, common):
        return common
    N, H, D = arrays["q"].shape
    stride = H * D if stride is None else stride
    for name in "qkv":
        if row_stride(arrays[name]) != stride:
            rows = np.empty((N, stride), arrays[name].dtype)[:, : H * D].reshape(N, H, D)
            rows[...] = arrays[name]
            arrays[name] = rows
    return stride
