"""The feed-forward block: two linear maps with an activation between them."""

from ..config import ACTIVATIONS
from ._call import call


def mlp_forward(x, w1, w2, *, activation="relu", out=None, backend="auto"):
    """h = x w1^T and y = f(h) w2^T.

    Parameters
    ----------
    x : [N, C]
    w1, w2 : [F, C], [C, F]
    activation : str
        f: one of `config.ACTIVATIONS`; docs/kernels.md has the formulas.
    out : ([N, C] or None, [N, F] or None), optional
        Overwritten with y and h.
    backend : str or module

    Returns
    -------
    y : [N, C]
    h : [N, F]
        The values before the activation, which `mlp_backward` needs.

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`; ValueError also for an unknown activation.
    """
    inputs = dict(x=x, w1=w1, w2=w2)
    return call("mlp_forward", inputs, out=out, backend=backend, activation=_number(activation))


def mlp_backward(dy, h, x, w1, w2, *, activation="relu", out=None, backend="auto"):
    """dh = (dy w2) f'(h), dx = dh w1, dw1 += dh^T x and dw2 += dy^T f(h); for relu, f'(0) = 0.

    Parameters
    ----------
    dy : [N, C]
        The loss's derivative with respect to y.
    h : [N, F]
        From `mlp_forward`.
    x, w1, w2 : [N, C], [F, C], [C, F]
        The inputs of the forward.
    activation : str
        As in the forward.
    out : ([N, C], [F, C], [C, F], [N, F]), each or None, optional
        dx and dh, overwritten; dw1 and dw2 between them, added to.
    backend : str or module

    Returns
    -------
    dx, dw1, dw2, dh : [N, C], [F, C], [C, F], [N, F]

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`; ValueError also for an unknown activation.
    """
    inputs = dict(dy=dy, h=h, x=x, w1=w1, w2=w2)
    return call("mlp_backward", inputs, out=out, backend=backend, activation=_number(activation))


def _number(activation):
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    return ACTIVATIONS.index(activation)
