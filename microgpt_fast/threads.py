"""How many threads a model takes when nobody says."""

import os

from .config import GPTConfig

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"  # of a core, in Linux
OPERATIONS_A_THREAD = 500_000_000  # in a step: what pays even between distant cores (docs/performance.md)
OPERATIONS_TO_SHARE = 2_000_000  # in a step: with fewer, threads are not even tried
TRIAL_SECONDS = 0.01  # that a chunk of steps takes at least, to count
TRIAL_CHUNKS = 3  # with each number of threads; and so many slow ones in a row call for a new trial
SLOW = 1.5  # times as long as it took in the trial
TRIAL_LASTS = 10.0  # seconds of training


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
    busy = operations(config, tokens) // OPERATIONS_A_THREAD
    return 1 if busy <= 1 else min(busy, cores())


def operations(config: GPTConfig, tokens: int) -> int:
    """Multiplications and additions of a training step with so many tokens, in its products with weights."""
    return 6 * (12 * config.n_layer * config.n_embd**2 + config.vocab_size * config.n_embd) * tokens


class Trial:
    """Whether more threads are faster, tried while a model trains: its bits do not depend on it.

    Other programs come and go: after some seconds, or when steps become slow, all is tried again.

    Parameters
    ----------
    model : GPT
        Its number of threads is changed, and after a trial is the faster one.
    threads : int
        To be tried besides the model's own number.
    """

    def __init__(self, model, threads):
        self.model, self.numbers = model, (model.threads, threads)
        self._begin()

    def _begin(self):
        self.times = {threads: [] for threads in self.numbers}
        self.slow, self.left = 0, TRIAL_LASTS

    @property
    def is_over(self):
        return all(len(times) >= TRIAL_CHUNKS for times in self.times.values())

    def record(self, seconds, tokens):
        """Take note of the time that some steps took, and of the tokens in them; choose the threads of the next."""
        if seconds < TRIAL_SECONDS:
            return
        if self.is_over:
            is_slow = seconds / tokens > SLOW * min(self.times[self.model.threads])
            self.slow = self.slow + 1 if is_slow else 0
            self.left -= seconds
            if self.slow < TRIAL_CHUNKS and self.left > 0:
                return
            self._begin()
        self.times[self.model.threads].append(seconds / tokens)
        if self.is_over:
            choice = min(self.times, key=lambda n: min(self.times[n]))
        else:
            choice = min(self.times, key=lambda n: len(self.times[n]))
        if choice != self.model.threads:
            self.model.threads = choice


def trial_of(model, tokens):
    """A trial of all cores, for a model whose steps have so many tokens; None where it would be of no use."""
    most = cores()
    if model.threads >= most or operations(model.config, tokens) < OPERATIONS_TO_SHARE:
        return None
    has_threads = hasattr(model.engine, "threads") and model.numerics != "exact"
    return Trial(model, most) if has_threads else None


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
