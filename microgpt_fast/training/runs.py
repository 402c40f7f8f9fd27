"""The folder of a run: config.toml, metrics.jsonl, checkpoints, samples."""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from ..config import MAX_STEPS, MODEL_OPTIONS, UsageError, check_integer, shown
from ..locks import Writer, refuse_other_writer
from .checkpoint import FORMAT, replace_file, save
from .events import Evaluation, Steps
from .resume import resume_training, save_training
from .schedule import learning_rates
from .settings import read_toml, to_toml
from .stored import mapping
from .trainer import Trainer

CHECKPOINT_SECONDS = 30  # between checkpoints: the most training that a crash loses
LINES = 1000  # in metrics.jsonl, the most that are written for the steps of a run
CONFIG, METRICS, LAST, BEST, SAMPLES = (
    "config.toml",
    "metrics.jsonl",
    "last.safetensors",
    "best.safetensors",
    "samples.txt",
)


class Run:
    """A training and its folder, to which no other process can write a run until `close`.

    It is a context manager, which closes it at the end. See `create` and `resume`.

    Parameters
    ----------
    folder : path
    trainer : Trainer
    writer : locks.Writer
        Of the folder.

    Attributes
    ----------
    saved_step : int
        The number of steps that the last checkpoint holds.
    """

    def __init__(self, folder: str | os.PathLike[str], trainer: Trainer, writer: Writer) -> None:
        self.folder, self.trainer, self._writer = os.fspath(folder), trainer, writer
        self._saved_at, self.saved_step = monotonic(), trainer.step
        self._first = self._logged = trainer.step
        self._validated = trainer.evaluations[-1].step if trainer.evaluations else 0
        self._has_begun = False
        self._lines: list[str] = []
        self._options: dict[str, Any] = {}  # of the model and the data, for config.toml

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        trainer: Trainer,
        data: Sequence[str | os.PathLike[str]] | None = None,
    ) -> "Run":
        """Begin a run in a folder that is new or holds no run; its training may have begun before.

        Raises
        ------
        UsageError
            if the folder holds a run already, or another process writes one.
        OSError
            if the folder cannot be written.
        """
        options = _options_of(trainer, data)
        to_toml(options)  # a name that it cannot keep is found before anything is written
        os.makedirs(folder, exist_ok=True)
        writer = Writer(folder)
        with _released_after_errors(writer):
            check_free(folder, writer)
            run = cls(folder, trainer, writer)
            run._options, run._logged = options, 0
            for event in trainer.evaluations:
                run._log_evaluation(event)
            run._write_config()
            replace_file(run.path(METRICS), b"")
            run._save()  # what is left of a training that diverges before its next checkpoint
        return run

    @classmethod
    def resume(
        cls,
        folder: str | os.PathLike[str],
        data: Sequence[str | os.PathLike[str]] | None = None,
        **options: Any,
    ) -> "Run":
        """Continue a run from its last checkpoint.

        Parameters
        ----------
        folder : path
        data : list of path, optional
            Where the data are now; None means where they were.
        **options
            See `resume_training`.

        Raises
        ------
        UsageError
            if there is nothing to resume, or another process writes to the folder.
        OSError
            if something cannot be read.
        """
        folder = os.fspath(folder)
        last = os.path.join(folder, LAST)
        if not os.path.exists(last):
            refuse_other_writer(folder)
            raise UsageError(f"{folder}: no run to resume: there is no {LAST}")
        writer = Writer(folder)
        with _released_after_errors(writer):
            stored = read_toml(os.path.join(folder, CONFIG))
            data = data or stored.get("data")
            data = [data] if isinstance(data, str) else data
            trainer = resume_training(last, data and [Path(part) for part in data], **options)
            trainer.seconds = trainer.since[2] or _seconds_of(folder, trainer.step)
            trainer.since = (*trainer.since[:2], trainer.seconds)
            run = cls(folder, trainer, writer)
            run._options = _options_of(trainer, data)
            run._logged = trainer.step // run._interval() * run._interval()
        return run

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the metrics that are known, and let other processes write to the folder."""
        try:
            with suppress(OSError):  # the checkpoint says as much of the training
                self._write_metrics()
        finally:
            self._writer.release()

    def path(self, name: str) -> str:
        """The path of a file in the folder."""
        return os.path.join(self.folder, name)

    def record(self, event: Steps | Evaluation) -> None:
        """Write what an event of the trainer brought: metrics, and from time to time checkpoints.

        Raises
        ------
        OSError
            if something cannot be written; the checkpoints then stay as they were.
        """
        if not self._has_begun:
            self._begin()
        self._log_steps()
        if isinstance(event, Evaluation):
            self._log_evaluation(event)
            if event.is_best:
                self._writer.check()
                save(self.trainer.model, self.path(BEST))
        is_time = self.trainer.team.first(monotonic() - self._saved_at > CHECKPOINT_SECONDS)
        if is_time or isinstance(event, Evaluation):
            self.checkpoint()

    def finish(self) -> None:
        """Write the best model of a training that has ended, if the run was begun after it."""
        trainer = self.trainer
        if trainer.best_parameters is not None and not os.path.exists(self.path(BEST)):
            self._writer.check()
            save(trainer.model, self.path(BEST))

    def checkpoint(self) -> None:
        """Write the metrics, and the last checkpoint unless training has diverged: then the one before stays."""
        if not self._has_begun:
            self._begin()
        self._writer.check()
        self._write_metrics()
        if not self.trainer.step or self.trainer.is_finite():
            self._save()

    def _save(self):
        save_training(self.trainer, self.path(LAST))
        self.saved_step, self._saved_at = self.trainer.step, monotonic()

    def _write_metrics(self):
        self._log_steps()
        if self._lines and self._has_begun:
            self._writer.check()
            with open(self.path(METRICS), "a", encoding="utf-8") as file:
                file.writelines(self._lines)
            self._lines = []

    def write_samples(self, texts: Iterable[str]) -> None:
        """Write samples of the finished model."""
        self._writer.check()
        content = "".join(f"--- sample {index}\n{text}\n" for index, text in enumerate(texts, 1))
        replace_file(self.path(SAMPLES), content.encode())

    def _begin(self):
        """Write the configuration, whose number of steps is now fixed; remove what a killed process left behind."""
        self._writer.check()
        for name in os.listdir(self.folder):
            if name.startswith(f".{FORMAT}-") and name.endswith(".tmp"):
                os.remove(self.path(name))
        with open(self.path(METRICS), "rb") as file:
            lines = file.read().split(b"\n")[:-1]
        kept = [line + b"\n" for line in lines if self._knows(line)]
        replace_file(self.path(METRICS), b"".join(kept))
        self._write_config()
        self._has_begun = True

    def _knows(self, line):
        """Whether the checkpoint from which the run continues was written after this line of the metrics."""
        try:
            values = _metrics_of(line)
        except ValueError:  # not a whole line
            return False
        return values["step"] <= (self._validated if "val_loss" in values else self._first)

    def _write_config(self):
        constants = {**self._options, **asdict(self.trainer.config)}
        replace_file(self.path(CONFIG), to_toml(constants).encode())

    def _interval(self):
        return max(1, -(-self.trainer.config.num_steps // LINES))

    def _log_steps(self):
        trainer, interval = self.trainer, self._interval()
        while trainer.step >= self._logged + interval:
            self._log_mean(self._logged + interval)
        if trainer.diverged and trainer.step > self._logged:
            self._log_mean(trainer.step)

    def _log_mean(self, end):
        trainer = self.trainer
        loss = float(trainer.losses[self._logged : end].mean())
        rate = float(learning_rates(trainer.config, np.array([end - 1]))[0])
        self._log(step=end, loss=loss, learning_rate=rate, seconds=round(trainer.seconds, 3))
        self._logged = end

    def _log_evaluation(self, event):
        self._log(step=event.step, val_loss=event.loss, seconds=round(self.trainer.seconds, 3))

    def _log(self, **values):
        self._lines.append(json.dumps(values, allow_nan=False) + "\n")


def _absolute(data):
    """Where the data are, whatever folder the run goes on from."""
    return data and [part if part == "-" else os.path.abspath(part) for part in data]


def _options_of(trainer, data):
    """What config.toml holds besides the constants of the training."""
    constants = {name: getattr(trainer.model.config, name) for name in MODEL_OPTIONS}
    return {"data": _absolute(data), **constants}


@contextmanager
def _released_after_errors(writer):
    try:
        yield
    except BaseException:
        writer.release()
        raise


def check_free(folder, writer=None):
    """Refuse a folder to which another than `writer` writes, or that holds a run with at least one checkpoint."""
    if writer is None:
        refuse_other_writer(folder)
    if os.path.exists(os.path.join(folder, LAST)):
        raise UsageError(
            f"{folder}: there is a run already: continue it with --resume, or choose another folder"
        )


def _seconds_of(folder, step):
    """The seconds that a run had taken up to a step; they are kept with the metrics, which no two runs share."""
    try:
        lines = read_metrics(folder)
    except (OSError, UsageError):  # what is left of them is read again when the training goes on
        return 0.0
    return max((line.get("seconds", 0.0) for line in lines if line["step"] <= step), default=0.0)


def read_metrics(folder):
    """The complete lines of a run's metrics.jsonl, as dictionaries of numbers.

    Raises
    ------
    UsageError
        for a line that is none of metrics.
    OSError
        if the file cannot be read.
    """
    path = os.path.join(folder, METRICS)
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")[:-1]
    metrics = []
    for number, line in enumerate(lines, 1):
        try:
            metrics.append(_metrics_of(line))
        except ValueError as error:
            raise UsageError(f"{path}: line {number} is not one of metrics ({error})") from None
    return metrics


def _metrics_of(line):
    """A line of metrics as a dictionary; NaN is allowed, which older versions wrote."""
    try:
        values = mapping(json.loads(line), "it")
    except RecursionError:
        raise ValueError("nested too deep") from None
    check_integer("step", values.get("step"), low=0, high=MAX_STEPS)
    for name, value in values.items():
        if type(value) not in (int, float) or abs(value) > MAX_STEPS and not isinstance(value, float):
            raise ValueError(f"{shown(name)} must be a number, not {shown(value)}")
    return values
