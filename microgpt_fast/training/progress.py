"""Progress of a long training, on stderr: a bar in terminals and notebooks if tqdm is installed, or else lines."""

import os
import sys
from contextlib import suppress
from shutil import get_terminal_size
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..messages import tell
from ..workload import operations_per_token
from .events import Evaluation, Steps
from .pace import SHORTEST

if TYPE_CHECKING:
    from .trainer import Trainer

QUIET_SECONDS = 2  # shorter trainings are not reported
LINE_SECONDS = 10  # between two lines
RECENT = 100  # steps whose mean loss is shown
SETTLED = 3  # seconds after which the time left is more than a guess
IMPORTANT = ("step", "left", "loss", "val", "speed", "peak")  # on a terminal that is too narrow for all
SEPARATOR = " | "
WIDE = 79  # characters of a line with a bar
BAR, BAR_WIDTH = "{percentage:3.0f}% {bar:10} ", 16


class Progress:
    """Reports the progress of a training.

    Parameters
    ----------
    trainer : Trainer
    bar : bool
        Whether a bar may be drawn: on a terminal, or in a notebook.
    lines : bool
        Whether lines are written where there is no bar.
    """

    def __init__(self, trainer: "Trainer", bar: bool = True, lines: bool = True) -> None:
        self.trainer = trainer
        self._may_draw, self._has_lines = bar, lines
        self._bar: Any = None
        self._begin = self._told = perf_counter()
        self._first = trainer.step
        self._peak: float | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

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
                self._draw(event)
        elif self._has_lines and (is_evaluation or now - self._told >= LINE_SECONDS):
            self._told = now
            tell(" | ".join(self._figures().values()))

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()

    def _draw(self, event):
        bar, width = self._bar, get_terminal_size().columns - 1
        bar.total = self.trainer.config.num_steps
        is_wide = width >= WIDE
        bar.bar_format = BAR + "{desc}" if is_wide else "{desc}"
        if isinstance(event, Evaluation):
            best = " (best)" if event.is_best else ""
            line = f"step {event.step}: val {event.loss:.4f}{best}"
            bar.write(line[:width], file=sys.stderr)
        bar.set_description_str(fitted(self._figures(), width - BAR_WIDTH * is_wide), refresh=False)
        bar.update(event.step - bar.n)

    def _figures(self):
        """What is shown, by name, in its order."""
        trainer = self.trainer
        total = trainer.config.num_steps
        figures = {"step": f"step {trainer.step} / {total}"}
        figures["loss"] = f"loss {trainer.losses[-RECENT:].mean():.4f}"
        if trainer.evaluations:
            last = trainer.evaluations[-1]
            at = "" if last.step == trainer.step else f" at {last.step}"
            figures["val"] = f"val {last.loss:.4f}{at}"
        _, tokens, seconds = trainer.since
        rate = (trainer.tokens - tokens) / max(trainer.seconds - seconds, SHORTEST)
        figures["speed"] = f"{rate:,.0f} tokens/s"
        if self._peak is None:
            self._peak = _peak_of(trainer.model)
        if self._peak:
            operations = operations_per_token(trainer.model.config, trainer.batches.longest)
            share = rate * operations / self._peak / _cores_used(trainer.model)
            figures["peak"] = f"{share:.0%} of peak"
        left = self._seconds_left()
        if left is not None:
            figures["left"] = f"{left // 60}:{left % 60:02} left"
        return figures

    def _seconds_left(self):
        """None while too little is known."""
        trainer, now = self.trainer, perf_counter()
        steps, total = trainer.step - self._first, trainer.config.num_steps
        if trainer.deadline is not None:
            return max(0, round(trainer.deadline - now))
        if trainer.step < total and (now - self._begin < SETTLED or not steps):
            return None
        return round((now - self._begin) / max(1, steps) * (total - trainer.step))


def fitted(figures, width):
    """As many of some figures as fit into one line, the most important first, in their own order.

    Parameters
    ----------
    figures : dict of str to str
        By the names of `IMPORTANT`.
    width : int
        Characters of the line.

    Returns
    -------
    line : str
    """
    chosen = set()
    for name in IMPORTANT:
        names = [other for other in figures if other in chosen or other == name]
        if name in figures and len(SEPARATOR.join(figures[other] for other in names)) <= width:
            chosen.add(name)
    return SEPARATOR.join(text for name, text in figures.items() if name in chosen)


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
    return tqdm(
        total=trainer.config.num_steps,
        initial=trainer.step,
        dynamic_ncols=True,
        miniters=1,
        bar_format="{desc}",
        file=sys.stderr,
    )
