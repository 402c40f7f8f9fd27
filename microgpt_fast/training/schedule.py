"""The learning rate of each step."""

import numpy as np


def learning_rates(config, steps):
    """Warm-up, then the schedule.

    Over the first warmup_steps steps the rate rises linearly to learning_rate. Then it goes from learning_rate
    to min_learning_rate, while r goes from 0 to 1 (which it would reach at step num_steps):

    linear      min + (learning_rate - min) (1 - r)
    cosine      min + (learning_rate - min) (1 + cos(pi r)) / 2
    constant    learning_rate

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
    warmup = min(config.warmup_steps, config.num_steps)
    r = np.maximum(steps - warmup, 0) / max(1, config.num_steps - warmup)
    if config.schedule == "constant":
        rates = np.full(len(steps), peak)
    elif config.schedule == "cosine":
        rates = least + (peak - least) * (0.5 * (1 + np.cos(np.pi * r)))
    else:
        rates = least + (peak - least) * (1 - r)  # with a `least` of 0, the original's product to the bit
    return np.where(steps < warmup, peak * (steps + 1) / (warmup + 1), rates)
