"""What the other processes do while the first one keeps the run in its folder."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..config import UsageError
from .events import Evaluation, Steps
from .resume import resume_training
from .runs import CONFIG, LAST
from .settings import read_toml
from .trainer import Trainer


class Follower:
    """A `runs.Run` that writes nothing, and takes part wherever the first process needs all.

    Parameters
    ----------
    folder : str
    trainer : Trainer
    """

    @classmethod
    def resume(cls, folder: str, data: Sequence[str] | None = None, **options: Any) -> "Follower":
        """See `Run.resume`: this process reads the last checkpoint, too."""
        path = os.path.join(folder, LAST)
        if not os.path.exists(path):
            raise UsageError(
                f"{folder}: no run to resume: there is no {LAST}; all processes must see the folder"
            )
        stored = read_toml(os.path.join(folder, CONFIG))
        data = data or stored.get("data")
        data = [data] if isinstance(data, str) else data
        return cls(folder, resume_training(path, data and [Path(part) for part in data], **options))

    def __init__(self, folder: str, trainer: Trainer) -> None:
        self.folder, self.trainer, self.saved_step = folder, trainer, trainer.step

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def record(self, event: Steps | Evaluation) -> None:
        """See `Run.record`."""
        if self.trainer.team.first(False) or isinstance(event, Evaluation):
            self.checkpoint()

    def checkpoint(self) -> None:
        """See `Run.checkpoint`: the moments of all processes go to the first."""
        if not self.trainer.step or self.trainer.is_finite():
            self.trainer.moments  # noqa: B018  (asked for by all)
            self.saved_step = self.trainer.step

    def finish(self) -> None:
        """See `Run.finish`."""

    def close(self) -> None:
        """See `Run.close`."""

    def write_samples(self, texts: Iterable[str]) -> None:
        """See `Run.write_samples`."""
