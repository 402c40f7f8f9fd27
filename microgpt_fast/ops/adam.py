"""Adam with decoupled weight decay.

Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101.
"""

from ._arrays import tell_written
from ._call import FLOATS, array_to_write, as_array, call, check_output, integer, quick_calls, real


def adamw_step(p, m, v, g, *, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, backend="auto"):
    """One step of Adam, in place.

    m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, and
    p -= lr * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay * p).

    Parameters
    ----------
    p, m, v : arrays of one shape, C-contiguous
        Parameters and moments, updated in place; before the first step the moments are zero.
    g : array of the same shape
        The gradient.
    step : int
        The number of this step, from 1.
    lr, beta1, beta2, eps, weight_decay : float
    backend : str or module

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`; ValueError also for a step below 1, and for a beta below 0 or not below 1.
    """
    step = integer("step", step, low=1)
    check_betas(beta1, beta2)
    constants = dict(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, step=step)
    if quick := quick_calls(backend):
        if quick["adamw_step"](dict(g=g), (p, m, v), (), (), (), constants) is not NotImplemented:
            return
    g = as_array("g", g)
    if g.dtype not in FLOATS:
        raise TypeError(f"g must be float32 or float64, not {g.dtype}")
    given = dict(p=p, m=m, v=v)
    flat = []
    for name, value in given.items():
        array = array_to_write(name, value)
        check_output(name, array, g.dtype, g.shape)
        flat.append(array.reshape(-1))
    call("adamw_step", dict(g=g.reshape(-1)), out=tuple(flat), backend=backend, **constants)
    for value in given.values():
        tell_written(value)


def check_betas(*betas):
    """Refuse what makes a moment no mean: the correction of its bias would divide by 0 or less."""
    for number, beta in enumerate(betas, 1):
        if not 0 <= real(f"beta{number}", beta) < 1:
            raise ValueError(f"beta{number} must be at least 0 and below 1, not {beta}")
