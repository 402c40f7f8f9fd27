"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from ._call import call


def rmsnorm_forward(x, gain=None, *, eps=1e-5, out=None, backend="auto"):
    """y = x * rstd (* gain) with rstd = (mean(x^2) + eps)^(-1/2), row by row.

    Parameters
    ----------
    x : [N, C]
    gain : [C], optional
    eps : float
    out : ([N, C] or None, [N] or None), optional
        Overwritten with y and rstd.
    backend : str or module

    Returns
    -------
    y : [N, C]
    rstd : [N]
        Needed by `rmsnorm_backward`.

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    """
    return call("rmsnorm_forward", dict(x=x, gain=gain), out=out, backend=backend, eps=eps)


def rmsnorm_backward(dy, x, rstd, gain=None, *, accumulate_dx=False, out=None, backend="auto"):
    """dx = rstd * g - x * rstd^3 / C * sum(x * g) with g = dy (* gain), dgain += sum of dy * x * rstd.

    Parameters
    ----------
    dy, x : [N, C]
        The loss's derivative with respect to y, and the input of the forward.
    rstd : [N]
        From `rmsnorm_forward`.
    gain : [C], optional
        As in the forward.
    accumulate_dx : bool
        Add to dx, as after a residual connection, instead of overwriting it.
    out : ([N, C] or None, [C] or None), optional
        dx, overwritten unless `accumulate_dx`, and dgain, added to.
    backend : str or module

    Returns
    -------
    dx : [N, C]
    dgain : [C], or None without a gain

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    """
    return call(
        "rmsnorm_backward",
        dict(dy=dy, x=x, rstd=rstd, gain=gain),
        out=out,
        backend=backend,
        without=("dgain",) if gain is None else (),
        added=("dx",) if accumulate_dx else (),
        accumulate_dx=int(bool(accumulate_dx)),
    )
