"""How many threads a model takes when nobody says."""

import os

from .config import GPTConfig

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"  # of a core, in Linux
OPERATIONS_A_THREAD = 500_000_000  # in a step: what pays even between distant cores (docs/performance.md)


def default_threads(config: GPTConfig, tokens: int) -> int:
    """As many threads as a step's work keeps busy, at most one for each core.

    The bits of a result do not depend on it.

    Parameters
    ----------
    config : GPTConfig
    tokens : int
        In a training step.

    Returns
    -------
    threads : int
    """
    matrices = 12 * config.n_layer * config.n_embd**2 + config.vocab_size * config.n_embd
    busy = 6 * matrices * tokens // OPERATIONS_A_THREAD
    return 1 if busy <= 1 else min(busy, cores())


def cores() -> int:
    """Cores that this process may use. Threads of one core count once: they share its multiply-adds."""
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
