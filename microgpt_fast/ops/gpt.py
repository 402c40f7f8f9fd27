"""The whole model, on one flat buffer of parameters.

These functions create a workspace and threads at every call. `microgpt_fast.GPT` and `Trainer` keep them, which is
better for a loop over training steps or documents.
"""

import numpy as np

from .. import backends
from ..backends.engines import engine_of
from ._arrays import as_library, library_of, tell_written
from ._call import FLOATS, array_to_write, as_array, check_output, check_overlap, contiguous, integer, real
from .adam import check_betas


def gpt_forward(
    params, tokens, starts, lengths, config, *, logits=None, numerics="fast", threads=1, backend="auto"
):
    """The loss of each document: the mean cross-entropy of its tokens.

    Document i reads tokens[starts[i]] .. tokens[starts[i] + lengths[i]]: all but the last are inputs, all but
    the first are targets.

    Parameters
    ----------
    params : [config.num_params]
        In the order of `config.shapes()`.
    tokens : int32
        Ids below config.vocab_size.
    starts, lengths : int64 [B], int32 [B]
        1 <= lengths[i] <= config.block_size.
    config : GPTConfig
    logits : [sum of lengths, vocab_size], optional
        Overwritten with the logits of every input.
    numerics : {"fast", "exact"}
        "exact" means the scalar original's order of operations, for float64 and one document.
    threads : int
    backend : str

    Returns
    -------
    losses : float64 [B]

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    IndexError
        For a token or a length out of range.
    """
    library = library_of(params)
    params = _flat("params", params, config)
    tokens, starts, lengths = _documents(tokens, starts, lengths)
    view = array_to_write("logits", logits)
    if view is not None:
        check_output("logits", view, params.dtype, (int(lengths.sum()), config.vocab_size))
        check_overlap({"logits": view}, dict(params=params, tokens=tokens, starts=starts, lengths=lengths))
    losses = _engine(config, params, numerics, threads, backend).forward(
        params, tokens, starts, lengths, view
    )
    tell_written(logits)
    return as_library(library, losses)


def gpt_backward(
    params, tokens, starts, lengths, config, *, out=None, numerics="fast", threads=1, backend="auto"
):
    """The loss of each document, and the gradient of their mean.

    Parameters
    ----------
    params, tokens, starts, lengths, config, numerics, threads, backend
        As for `gpt_forward`.
    out : [config.num_params], optional
        The gradient is added to it.

    Returns
    -------
    losses : float64 [B]
    grads : [config.num_params]

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `gpt_forward`.
    """
    library = library_of(params)
    params = _flat("params", params, config)
    tokens, starts, lengths = _documents(tokens, starts, lengths)
    grads = np.zeros_like(params) if out is None else array_to_write("grads", out)
    if out is not None:
        check_output("grads", grads, params.dtype, params.shape)
        check_overlap({"grads": grads}, dict(params=params, tokens=tokens, starts=starts, lengths=lengths))
    engine = _engine(config, params, numerics, threads, backend)
    losses = as_library(library, engine.backward(grads, params, tokens, starts, lengths))
    if out is None:
        return losses, as_library(library, grads)
    tell_written(out)
    return losses, out


def gpt_train_steps(
    params, m, v, tokens, starts, lengths, config, *, lr, batch_size=1, first_step=1, beta1=0.85, beta2=0.99,
    eps=1e-8, weight_decay=0.0, numerics="fast", threads=1, backend="auto",
):  # fmt: skip
    """k = len(lr) training steps with Adam, in place.

    Parameters
    ----------
    params, m, v : [config.num_params]
        Parameters and moments, updated in place.
    tokens, starts, lengths, config, numerics, threads, backend
        As for `gpt_forward`; step i takes the documents i * batch_size .. (i + 1) * batch_size - 1.
    lr : sequence of k float
        The learning rate of each step.
    batch_size, first_step : int
        Documents per step; the number of the first of these steps in Adam's count, from 1.
    beta1, beta2, eps, weight_decay : float
        See `adamw_step`.

    Returns
    -------
    losses : float64 [k]

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `gpt_forward`; ValueError also if the number of documents is not k * batch_size.
    """
    library, given = library_of(params), (params, m, v)
    params_in = _flat("params", params, config)
    tokens, starts, lengths = _documents(tokens, starts, lengths)
    outputs = {name: array_to_write(name, value) for name, value in zip(("params", "m", "v"), given)}
    for name, array in outputs.items():
        check_output(name, array, params_in.dtype, params_in.shape)
    lr, batch_size = np.ascontiguousarray(lr, np.float64), integer("batch_size", batch_size, low=1)
    check_overlap(outputs, dict(tokens=tokens, starts=starts, lengths=lengths, lr=lr))
    if lr.ndim != 1 or len(starts) != len(lr) * batch_size:
        raise ValueError(
            f"{lr.size} learning rates and batches of {batch_size} need {lr.size * batch_size} documents, "
            f"not {len(starts)}"
        )
    first_step = integer("first_step", first_step, low=1)
    check_betas(beta1, beta2)
    eps, weight_decay = real("eps", eps), real("weight_decay", weight_decay)
    losses = np.empty(len(lr))
    _engine(config, params_in, numerics, threads, backend).train_steps(
        losses,
        *outputs.values(),
        tokens,
        starts,
        lengths,
        batch_size,
        lr,
        (beta1, beta2, eps, weight_decay),
        first_step,
    )
    for value in given:
        tell_written(value)
    return as_library(library, losses)


def gpt_decode(params, config, *, numerics="fast", backend="auto"):
    """A decoder, which takes one token after another and keeps the keys and values of the earlier ones.

    Parameters
    ----------
    params : [config.num_params]
        Must not change while the decoder is in use.
    config : GPTConfig
    numerics, backend
        As for `gpt_forward`.

    Returns
    -------
    decoder
        step(token, position) returns the logits [vocab_size] of the next token; positions come in order, and
        position 0 begins a new document. generate(random, bos, temperature) samples a document, int32, without
        its bos; `microgpt_fast.random_stream.seeded` makes the random stream. Both raise IndexError for
        a token or position out of range.

    Raises
    ------
    TypeError, ValueError
        See `microgpt_fast.ops`.
    """
    params = _flat("params", params, config)
    return _engine(config, params, numerics, 1, backend).decoder(params)


def _flat(name, array, config):
    array = as_array(name, array)
    if array.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64, not {array.dtype}")
    if array.shape != (config.num_params,):
        raise ValueError(f"{name} must have shape ({config.num_params},) for this config, not {array.shape}")
    return contiguous(array)


def _documents(tokens, starts, lengths):
    arrays = []
    for name, values, dtype in (
        ("tokens", tokens, np.int32),
        ("starts", starts, np.int64),
        ("lengths", lengths, np.int32),
    ):
        array = as_array(name, values, dtype)
        if array.dtype.kind not in "iu":
            raise TypeError(
                f"{name} must be of an integer dtype, preferably {np.dtype(dtype)}, not {array.dtype}"
            )
        if array.ndim != 1:
            raise ValueError(f"{name} must have one dimension, not the shape {array.shape}")
        limits = np.iinfo(dtype)
        if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
            raise IndexError(
                f"{name} has values from {array.min()} to {array.max()}, which do not fit in {np.dtype(dtype)}"
            )
        arrays.append(contiguous(array.astype(dtype, copy=False)))
    if arrays[1].shape != arrays[2].shape:
        raise ValueError(
            f"starts and lengths must have one shape, not {arrays[1].shape} and {arrays[2].shape}"
        )
    return arrays


def _engine(config, params, numerics, threads, backend):
    module = backends.load(backend) if isinstance(backend, str) else backend
    return engine_of(module, config, params.dtype, numerics, threads)
