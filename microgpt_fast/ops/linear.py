"""A linear map without bias; weights are [out, in]."""

from ._call import call


def linear_forward(x, w, *, out=None, backend="auto"):
    """y = x w^T.

    Parameters
    ----------
    x : [N, C]
    w : [O, C]
    out : [N, O], optional
        Overwritten with the result.
    backend : str or module

    Returns
    -------
    y : [N, O]

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    """
    return call("linear_forward", dict(x=x, w=w), out=out, backend=backend)


def linear_backward(dy, x, w, *, with_dx=True, with_dw=True, accumulate_dx=False, out=None, backend="auto"):
    """dx = dy w and dw += dy^T x.

    Parameters
    ----------
    dy : [N, O]
        The loss's derivative with respect to y.
    x, w : [N, C], [O, C]
        The inputs of the forward.
    with_dx, with_dw : bool
        False leaves out this product.
    accumulate_dx : bool
        Add to dx instead of overwriting it.
    out : ([N, C] or None, [O, C] or None), optional
        dx, overwritten unless `accumulate_dx`, and dw, added to.
    backend : str or module

    Returns
    -------
    dx : [N, C] or None
    dw : [O, C] or None

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    """
    unwanted = [name for name, wanted in (("dx", with_dx), ("dw", with_dw)) if not wanted]
    return call(
        "linear_backward",
        dict(dy=dy, x=x, w=w),
        out=out,
        backend=backend,
        without=unwanted,
        added=("dx",) if accumulate_dx else (),
        accumulate_dx=int(bool(accumulate_dx)),
    )
