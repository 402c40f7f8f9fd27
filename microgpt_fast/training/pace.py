"""How fast a training goes: the number of steps in a chunk, and the time of a step."""

from time import perf_counter

import numpy as np

CHUNK_SECONDS = 0.03  # of training, after which there is a chance to stop or to report
CHUNK_GROWTH = 8  # the most by which a chunk is larger than the last, until it takes CHUNK_SECONDS
SHORTEST = 1e-9  # seconds that anything takes; clocks may say 0


def next_count(count, seconds):
    """Number of steps of the next chunk, after a chunk of `count` steps that took `seconds`."""
    return max(1, min(count * CHUNK_GROWTH, int(count * CHUNK_SECONDS / max(seconds, SHORTEST))))


def seconds_a_step(trainer, end):
    """The median time of a step in some chunks, timed until `end`; 0 if `stopping` is set before.

    The steps are taken, without any note of them.

    Parameters
    ----------
    trainer : Trainer
    end : float
        As perf_counter() counts. At least one chunk is timed.
    """
    most, trial = trainer.config.num_steps, trainer.trial
    count, times = 1, []
    while (not times or perf_counter() < end) and not trainer.stopping:
        start = perf_counter()
        tokens = trainer.take_steps(count)[1]
        elapsed = perf_counter() - start
        is_largest = count == most  # even if it takes too little time for a trial to count
        if trial and not trial.is_over:
            trial.record(elapsed, tokens)
        if is_largest or elapsed > CHUNK_SECONDS / 2 or perf_counter() >= end:
            times.append(elapsed / count)
        count = min(next_count(count, elapsed), most)
    return float(np.median(times)) if times else 0.0
