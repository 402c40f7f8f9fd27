"""What this machine has, and how much of it a training takes."""

import os

import numpy as np

from .config import UsageError


def check_memory(model_config, train_config, longest):
    """Refuse, before anything is allocated, what this machine's memory cannot hold.

    Counted are parameters, gradient, Adam's moments, and, roughly, the activations of the largest batch. What
    fails later is a MemoryError, but most systems rather end a process that uses more than there is.
    """
    rows = train_config.batch_size * longest
    activations = rows * (14 * model_config.n_layer * model_config.n_embd + 2 * model_config.vocab_size)
    needed = (4 * model_config.num_params + activations) * np.dtype(train_config.dtype).itemsize
    memory = _memory_bytes()
    if needed > memory or rows >= 2**31:
        raise UsageError(
            f"too large: {model_config.num_params:,} parameters and batches of {rows:,} tokens need "
            f"about {needed / 1e9:,.1f} GB; this machine has {memory / 1e9:,.1f} GB of memory"
        )


def operations_a_token(model_config, longest):
    """Floating-point operations of forward and backward for a token of a sequence of `longest` tokens."""
    c = model_config
    matrices = 12 * c.n_layer * c.n_embd**2 + c.vocab_size * c.n_embd
    return 6 * matrices + 6 * c.n_layer * c.n_embd * longest


def _memory_bytes():
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 2**62
