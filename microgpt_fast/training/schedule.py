"""The learning rate of each step."""

import numpy as np


def learning_rates(config, steps):
    """Warm-up, then the schedule.

    Over the first warmup_steps steps the rate rises linearly to learning_rate. Then it goes from learning_rate
    to min_learning_rate, while r goes from 0 to 1 (which it would reach at step num_steps):

    linear      min + (learning_rate - min) (1 - r)
    cosine      min + (learning_rate - min) (1 + cos(pi r)) / 2
    constant    learning_rate

    Where a time budget made a plan, r rises in each part of it so that it would reach 1 at the end that was
    planned from there on.

    Parameters
    ----------
    config : TrainConfig
    steps : int64 array
        Counted from 0.

    Returns
    -------
    rates : float64 array
    """
    peak, least = config.learning_rate, config.min_learning_rate
    warmup, r = _progress(config, steps)
    if config.schedule == "constant":
        rates = np.full(len(steps), peak)
    elif config.schedule == "cosine":
        rates = least + (peak - least) * (0.5 * (1 + np.cos(np.pi * r)))
    else:
        rates = least + (peak - least) * (1 - r)  # with a `least` of 0, the original's product to the bit
    return np.where(steps < warmup, peak * (steps + 1) / (warmup + 1), rates)


def _progress(config, steps):
    """(the number of warm-up steps, r of each step)."""
    (begin, total), *later = config.plan or ((0, config.num_steps),)
    warmup = min(config.warmup_steps, total)
    r = _part(steps, warmup, total)
    done = 0.0
    for step, next_total in later:
        # where the parts meet, r is the same: done + (1 - done) times the part of the rest that is over
        done += (1 - done) * float(_part(step, max(begin, warmup), total))
        begin, total = step, next_total
        rest = _part(steps, max(begin, warmup), total)
        r = np.where(steps < begin, r, np.minimum(done + (1 - done) * rest, 1))
    return warmup, r


def _part(steps, begin, end):
    return np.maximum(steps - begin, 0) / max(1, end - begin)
