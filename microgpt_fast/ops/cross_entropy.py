"""Softmax cross-entropy, one loss per row."""

from ._call import call


def cross_entropy_forward(logits, targets, *, out=None, backend="auto"):
    """losses_i = lse_i - logits[i, targets_i] with lse_i = log sum_j exp logits[i, j].

    The largest logit of a row is subtracted before exp, so logits may be of any size.

    Parameters
    ----------
    logits : [N, V]
    targets : int32 [N]
        Ids below V.
    out : ([N] or None, [N] or None), optional
        Overwritten with losses and lse.
    backend : str or module

    Returns
    -------
    losses : [N]
    lse : [N]
        Needed by `cross_entropy_backward`.

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    IndexError
        For a target out of range; the text names it and the size of the vocabulary.
    """
    inputs = dict(logits=logits, targets=targets)
    return call("cross_entropy_forward", inputs, out=out, backend=backend)


def cross_entropy_backward(dlosses, lse, logits, targets, *, out=None, backend="auto"):
    """dlogits[i, j] = dlosses_i * (exp(logits[i, j] - lse_i) - (j == targets_i)).

    Parameters
    ----------
    dlosses : [N]
        The derivative of the whole loss with respect to each row's loss: 1 / N for their mean.
    lse : [N]
        From `cross_entropy_forward`.
    logits, targets : [N, V], int32 [N]
        The inputs of the forward.
    out : [N, V], optional
        Overwritten with the result.
    backend : str or module

    Returns
    -------
    dlogits : [N, V]

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    IndexError
        For a target out of range.
    """
    inputs = dict(dlosses=dlosses, lse=lse, logits=logits, targets=targets)
    return call("cross_entropy_backward", inputs, out=out, backend=backend)
