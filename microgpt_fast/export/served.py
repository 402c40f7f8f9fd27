"""Which models the exported programs can run: those whose every option is listed here."""

from dataclasses import fields

import numpy as np

from ..config import UsageError

SIZES = ("vocab_size", "n_layer", "n_embd", "n_head", "block_size")
ACTIVATIONS = ("relu", "relu2", "gelu", "silu")


def check(model, what):
    """Refuse a model that an exported program would not compute as Python does.

    An option that is not known here must have its default: a new one is refused until it is.

    Parameters
    ----------
    model : GPT
    what : str
        The program, for the message.

    Raises
    ------
    UsageError
        that names the option and its value.
    """
    for field in fields(model.config):
        value = getattr(model.config, field.name)
        if field.name in SIZES:
            continue
        if field.name == "activation" and value in ACTIVATIONS:
            continue
        if field.name == "activation" or value != field.default:
            raise UsageError(f"{what} cannot run a model with {field.name} {value}")
    if model.tokenizer is None:
        raise UsageError(f"{what} needs a model with a tokenizer")
    with np.errstate(over="ignore"):
        if not np.isfinite(model.parameters.astype(np.float32)).all():
            raise UsageError("the model's parameters are not finite in float32: did its training diverge?")
