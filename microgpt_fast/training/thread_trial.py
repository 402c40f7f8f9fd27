"""Finds out whether more threads are faster, while a model trains."""

from .. import workload

TRIAL_SECONDS = 0.01  # shorter chunks of steps do not count
TRIAL_CHUNKS = (
    3  # to time with each number of threads; the same number of slow chunks in a row starts a new trial
)
SLOW = 1.5  # times as long as in the trial: such a chunk is slow
TRIAL_LASTS = 10.0  # seconds of training until the next trial


class Trial:
    """Tries two numbers of threads while a model trains, and keeps the faster one; no bit depends on it.

    Other programs come and go, so after some seconds, or when steps become slow, both are tried again.

    Parameters
    ----------
    model : GPT
        Its number of threads is changed, and is the faster one after a trial.
    threads : int
        The number to try besides the model's own.
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
        """Note the time that some steps took and the number of their tokens; choose the threads of the next steps."""
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
    """A trial of all cores for a model whose steps have this many tokens; None where it would be of no use."""
    most = workload.cores()
    if model.threads >= most or workload.operations(model.config, tokens) < workload.OPERATIONS_TO_SHARE:
        return None
    has_threads = hasattr(model.engine, "threads") and model.numerics != "exact"
    return Trial(model, most) if has_threads else None
