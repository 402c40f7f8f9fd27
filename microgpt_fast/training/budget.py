"""A time budget: how many steps fit into it, planned anew as the training goes on.

The plan, pairs (step, number of steps planned from there on), is kept in the configuration: with it, the same training
can be repeated by count, whatever the clock says. See `schedule.learning_rates` for what it does to the learning rate.
"""

from dataclasses import replace
from time import perf_counter

from ..config import MAX_STEPS
from . import validation
from .findings import most_steps
from .pace import SHORTEST, seconds_a_step

# parts of the training's time after which the model is validated and the rest is planned anew
RENEWALS = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
MEASURED = 1 / 40  # of the budget, for which the speed is measured first
MOST_MEASURED = 2.0  # seconds
VALIDATED = 1 / 400  # of the budget, the time of one validation
WHOLE = 1 / 20  # of the budget, the most time for a validation over everything that is held out
LEAST_TOKENS = 256  # of a validation
VALIDATIONS = (
    0.08  # of the time, the most for all of them but the last: where each takes long, there are fewer
)
MARGIN = 0.01  # of the budget, for what cannot be known


class Budget:
    """The time that a training may take, from the moment when its Trainer was begun.

    Making one measures the speed and sets the trainer's `num_steps`; parameters and moments are afterwards what
    they were before. Where the trainer's `stopping` is set meanwhile, its configuration stays as it is.

    Parameters
    ----------
    trainer : Trainer
        Before its first step, with a time_budget. `began` is when its time began, `reserve` the seconds to keep
        for what comes after the training.

    Attributes
    ----------
    has_plan : bool
    is_capped : bool
        Whether the text is so short that the training ends before the time is over; see `most_steps`.
    whole_fits : bool
        Whether there is time to validate with everything that is held out, in the end.
    """

    def __init__(self, trainer):
        self.trainer, self.seconds = trainer, trainer.config.time_budget
        self.begin = perf_counter()
        self.end = trainer.began + self.seconds * (1 - MARGIN) - trainer.reserve
        self.has_plan, self.whole_fits, self.is_capped = False, False, False
        self.most = most_steps(trainer) if trainer.config.keep_best else MAX_STEPS
        self.validating = 0.0  # seconds that the last validation took
        self._renewals, self._next = RENEWALS, 0
        kept = trainer.model.parameters.copy(), trainer.moments.copy()
        measured = min(self.seconds * MEASURED, MOST_MEASURED)
        pace = seconds_a_step(trainer, self.begin + measured)
        if trainer.batches.validation is not None and not trainer.stopping:
            self._choose_sample()
        trainer.model.parameters[:], trainer.moments = kept
        if trainer.stopping:
            return
        self.has_plan = True
        self.begin = self._renewed = perf_counter()
        most = int(VALIDATIONS * (self.end - self.begin) / max(self.validating, SHORTEST))
        self._renewals = RENEWALS[:: -(-len(RENEWALS) // most)] if most > 0 else ()
        config = trainer.config
        if config.eval_interval:
            pace += self.validating / config.eval_interval
        num_steps = max(1, self._steps_left(pace))
        self._last = self.end
        if num_steps == self.most:
            self.is_capped, self._last = True, min(self.end, self.begin + num_steps * pace)
        warmup = min(config.warmup_steps, num_steps // 10)
        self._set(
            num_steps=num_steps,
            warmup_steps=warmup,
            time_budget=None,
            plan=((0, num_steps),),
        )
        if self.is_capped and not config.eval_interval:  # its end comes by steps, and perhaps soon
            self._set(eval_interval=max(1, num_steps // len(RENEWALS)))

    def is_due(self):
        """Whether the rest is to be planned anew."""
        return self._next < len(self._renewals) and perf_counter() >= self._time_of(
            self._renewals[self._next]
        )

    def renew(self):
        """Plan the rest anew, from the speed since the last plan; a validation, if there was one, is over."""
        trainer, now = self.trainer, perf_counter()
        while self.is_due():
            self._next += 1
        step, plan = trainer.step, trainer.config.plan
        if step > plan[-1][0]:
            spent = now - self._renewed - self.validating
            num_steps = step + self._steps_left(spent / (step - plan[-1][0]))
            self._set(num_steps=num_steps, plan=(*plan, (step, num_steps)))
        self._renewed = now

    def _set(self, **options):
        trainer = self.trainer
        trainer.config = trainer.model.train_config = replace(trainer.config, **options)

    def _time_of(self, part):
        return self.begin + part * (self._last - self.begin)

    def _steps_left(self, seconds_a_step):
        """The number of steps that fit into the rest, with its validations."""
        seconds = self.end - perf_counter()
        seconds -= (len(self._renewals) - self._next + 1) * self.validating
        return int(min(max(0, seconds) / max(seconds_a_step, SHORTEST), self.most - self.trainer.step))

    def _choose_sample(self):
        """Set how much of what is held out a validation reads, from the time that little takes."""
        trainer, everything = self.trainer, self.trainer.batches.validation
        seed, total = trainer.config.seed, int(everything[1].sum(dtype="int64"))
        little = validation.sample(everything, LEAST_TOKENS, seed)
        start = perf_counter()
        if validation.mean_loss(trainer, little) is None:
            return
        per_token = max(perf_counter() - start, SHORTEST) / int(little[1].sum())
        wanted = trainer.config.eval_tokens or max(LEAST_TOKENS, int(self.seconds * VALIDATED / per_token))
        self.validating = min(wanted, total) * per_token
        if wanted < total:
            self._set(eval_tokens=wanted)
            self.whole_fits = total * per_token < WHOLE * self.seconds
            if self.whole_fits:
                self.end -= total * per_token
