"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

import numpy as np

from ._call import call


def rope_forward(x, positions, *, base=10_000.0, out=None, backend="auto"):
    """y = x, the pairs (x_i, x_(i + D/2)) of each head's row turned by the angle positions_n * base^(-2i / D).

    Parameters
    ----------
    x : [N, H, D]
        D is even.
    positions : int32 [N]
    base : float
    out : [N, H, D], optional
        Overwritten with the result.
    backend : str or module

    Returns
    -------
    y : [N, H, D]

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`; ValueError also for an odd D.
    """
    return _turned("rope_forward", dict(x=x, positions=positions), base, out, backend)


def rope_backward(dy, positions, *, base=10_000.0, out=None, backend="auto"):
    """dx = dy turned the other way.

    Parameters
    ----------
    dy : [N, H, D]
        The loss's derivative with respect to y.
    positions, base
        As in the forward.
    out : [N, H, D], optional
        Overwritten with the result.
    backend : str or module

    Returns
    -------
    dx : [N, H, D]

    Raises
    ------
    TypeError, ValueError
        See `rope_forward`.
    """
    return _turned("rope_backward", dict(dy=dy, positions=positions), base, out, backend)


def _turned(kernel, inputs, base, out, backend):
    rows = next(iter(inputs.values()))
    D = (getattr(rows, "shape", None) or np.shape(rows) or (0,))[-1]
    if D % 2:
        raise ValueError(f"rope turns pairs of a head's elements: D must be even, not {D}")
    return call(kernel, inputs, out=out, backend=backend, base=base)
