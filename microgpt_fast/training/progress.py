"""Progress of a long training, on stderr: a bar in terminals and notebooks if tqdm is installed, or else lines."""

import os
import sys
from contextlib import suppress
from time import perf_counter
from typing import Any

from ..messages import tell
from ..workload import operations_per_token
from .events import Evaluation, Steps
from .trainer import Trainer

QUIET_SECONDS = 2  # shorter trainings are not reported
LINE_SECONDS = 10  # between two lines
RECENT = 100  # steps whose mean loss is shown


class Progress:
    """Reports the progress of a training.

    Parameters
    ----------
    trainer : Trainer
    bar : bool
        Whether a bar may be drawn: on a terminal, or in a notebook.
    """

    def __init__(self, trainer: Trainer, bar: bool = True) -> None:
        self.trainer = trainer
        self._may_draw = bar
        self._bar: Any = None
        self._begin = self._told = perf_counter()
        self._peak: float | None = None

    def report(self, event: Steps | Evaluation) -> None:
        """Report an event of the trainer, if it is time."""
        now = perf_counter()
        is_evaluation = isinstance(event, Evaluation)
        if now - self._begin < QUIET_SECONDS and not is_evaluation:
            return
        if self._bar is None and self._may_draw:
            self._bar = _bar_of(self.trainer)
            self._may_draw = self._bar is not None
        if self._bar is not None:
            with suppress(OSError):  # a terminal that hung up
                self._bar.update(event.step - self._bar.n)
                self._bar.set_postfix_str(self._figures(), refresh=False)
                if is_evaluation:
                    self._bar.write(self._line(), file=sys.stderr)
        elif is_evaluation or now - self._told >= LINE_SECONDS:
            self._told = now
            tell(self._line())

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()

    def _line(self):
        trainer = self.trainer
        total = trainer.config.num_steps
        left = round(trainer.seconds / trainer.step * (total - trainer.step))
        return f"step {trainer.step} / {total} | {self._figures()} | {left // 60}:{left % 60:02} left"

    def _figures(self):
        trainer = self.trainer
        parts = [f"loss {trainer.losses[-RECENT:].mean():.4f}"]
        if trainer.evaluations:
            parts.append(f"val {trainer.evaluations[-1].loss:.4f}")
        rate = trainer.tokens / trainer.seconds
        parts.append(f"{rate:,.0f} tokens/s")
        if self._peak is None:
            self._peak = _peak_of(trainer.model)
        if self._peak:
            operations = operations_per_token(trainer.model.config, trainer.batches.longest)
            parts.append(f"{rate * operations / self._peak / _cores_used(trainer.model):.0%} of peak")
        return " | ".join(parts)


def _peak_of(model):
    """The most operations per second that a core can do; 0 where that cannot be measured."""
    measure = getattr(model.backend, "measure_peak", None)
    if measure is None:
        return 0.0
    return measure(model.dtype) * 1e9


def _cores_used(model):
    return min(getattr(model.engine, "threads", 1), os.cpu_count() or 1)


def _bar_of(trainer):
    is_notebook = "ipykernel" in sys.modules
    if sys.stderr is None or not (sys.stderr.isatty() or is_notebook):
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=trainer.config.num_steps, initial=trainer.step, unit="step", dynamic_ncols=True)
