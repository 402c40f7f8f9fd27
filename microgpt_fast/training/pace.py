"""How fast a training goes: the number of steps in a chunk, and in a time budget."""

from dataclasses import replace
from time import perf_counter

import numpy as np

from ..config import MAX_STEPS

CHUNK_SECONDS = 0.03  # of training, after which there is a chance to stop or to report
CHUNK_GROWTH = 8  # the most by which a chunk is larger than the last, until it takes CHUNK_SECONDS
MEASURED = 60.0  # the most seconds for which the speed is measured, but for slow steps
SHORTEST = 1e-9  # seconds that anything takes; clocks may say 0


def next_count(count, seconds):
    """Number of steps of the next chunk, after a chunk of `count` steps that took `seconds`."""
    return max(1, min(count * CHUNK_GROWTH, int(count * CHUNK_SECONDS / max(seconds, SHORTEST))))


def fix_num_steps(trainer):
    """Measure the speed, and replace the budget by the number of steps that it allows, at most a tenth for warm-up.

    The parameters and moments are afterwards what they were before. Where `stopping` is set meanwhile, the budget
    stays.

    Parameters
    ----------
    trainer : Trainer
        Before its first step, with a time_budget.
    """
    begin = perf_counter()
    budget, config = trainer.config.time_budget, trainer.config
    kept = trainer.model.parameters.copy(), trainer.moments.copy()
    seconds_a_step = _seconds_a_step(trainer, begin + min(budget / 40, MEASURED))
    last = 0.0  # seconds of the validation at the end
    if trainer.batches.validation is not None and not trainer.stopping:
        start = perf_counter()
        trainer.held_out_loss()
        last = perf_counter() - start
        if config.eval_interval:
            seconds_a_step += last / config.eval_interval
    trainer.model.parameters[:], trainer.moments = kept
    trainer.seconds = spent = perf_counter() - begin
    if trainer.stopping:
        return
    steps = (0.97 * budget - spent - last) / max(seconds_a_step, SHORTEST)
    num_steps = int(max(1, min(steps, MAX_STEPS)))
    warmup = min(config.warmup_steps, num_steps // 10)
    config = replace(config, num_steps=num_steps, warmup_steps=warmup, time_budget=None)
    trainer.config = trainer.model.train_config = config


def _seconds_a_step(trainer, end):
    """The median time of a step in at least four chunks, timed until `end`; 0 if `stopping` is set before."""
    most, trial = trainer.config.num_steps, trainer.trial
    count, times = 1, []
    while (len(times) < 4 or perf_counter() < end) and not trainer.stopping:
        start = perf_counter()
        tokens = trainer.take_steps(count)[1]
        elapsed = perf_counter() - start
        is_largest = count == most  # even if it takes too little time for a trial to count
        if trial and not trial.is_over:
            trial.record(elapsed, tokens)
        if is_largest or elapsed > CHUNK_SECONDS / 2:
            times.append(elapsed / count)
        count = min(next_count(count, elapsed), most)
    return float(np.median(times)) if times else 0.0
