"""What a model needs in memory and operations, and what this machine has of both."""

import os

import numpy as np

from .config import GPTConfig, UsageError, stored_dtype
from .parameters import products

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"  # which CPUs share a core, in Linux
OPERATIONS_PER_THREAD = 500_000_000  # per step: what pays even between distant cores (docs/performance.md)
OPERATIONS_TO_SHARE = 2_000_000  # per step: with fewer, more threads are not even tried


def check_memory(model_config, train_config, longest):
    """Refuse, before anything is allocated, what this machine's memory cannot hold.

    This counts parameters, gradient, Adam's moments and, roughly, the activations of the largest batch. A later
    failure would be a MemoryError at best: most systems end a process that uses more memory than there is.
    """
    rows = train_config.batch_size * longest
    per_layer = 14 * model_config.n_embd
    if (
        model_config.residual == "hyper"
    ):  # streams before and after each sublayer, and every matrix of sinkhorn
        per_layer += 8 * model_config.n_streams * model_config.n_embd + 80 * model_config.n_streams**2
    elif model_config.residual != "plain":  # values, weights and gradients of each sublayer
        per_layer += 4 * model_config.n_embd + 4 * model_config.n_layer
    activations = rows * (per_layer * model_config.n_layer + 2 * model_config.vocab_size)
    needed = (4 * model_config.num_params + activations) * np.dtype(stored_dtype(train_config.dtype)).itemsize
    memory = _memory_bytes()
    if needed > memory or rows >= 2**31:
        raise UsageError(
            f"too large: {model_config.num_params:,} parameters and batches of {rows:,} tokens need "
            f"about {needed / 1e9:,.1f} GB; this machine has {memory / 1e9:,.1f} GB of memory"
        )


def operations_per_token(model_config, longest):
    """Floating-point operations of forward and backward per token of a sequence of `longest` tokens."""
    return operations(model_config, 1) + 6 * model_config.n_layer * model_config.n_embd * longest


def default_threads(config: GPTConfig, tokens: int) -> int:
    """As many threads as the work of a step keeps busy, at most one per core.

    No bit of a result depends on it.

    Parameters
    ----------
    config : GPTConfig
    tokens : int
        Tokens per training step.

    Returns
    -------
    threads : int
    """
    busy = operations(config, tokens) // OPERATIONS_PER_THREAD
    return 1 if busy <= 1 else min(busy, cores())


def operations(config: GPTConfig, tokens: int) -> int:
    """Multiplications and additions of a training step with this many tokens, in its products with weights."""
    return 6 * products(config) * tokens


def cores() -> int:
    """Number of cores that this process may use. The hardware threads of one core count once."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not every system tells
        return os.cpu_count() or 1
    siblings = set()
    for cpu in usable:
        try:
            with open(SIBLINGS.format(cpu)) as file:
                siblings.add(file.read())
        except OSError:
            return len(usable)
    return len(siblings)


def _memory_bytes():
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 2**62
