"""Where a run is kept: in the folder that was asked for, or by itself once it has taken some seconds."""

import os
import re
import shlex
from itertools import count
from pathlib import Path

from ..config import UsageError
from ..messages import PROGRAM, MachineError, tell

KEPT_FROM = 3.0  # seconds of training that would be a pity to lose
FOLDER = "runs"
LONGEST = 40  # characters of a folder's name


class Keeping:
    """A run that is kept, or will be; a context manager, which closes it.

    Parameters
    ----------
    run : Run or None
        What was asked for.
    name : str or None
        What the folder's name begins with if the run is kept although nobody asked for it; None where it is not.
    data : list of path or None
    """

    def __init__(self, run, name=None, data=None):
        self.run, self._name, self._data = run, name, data

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.run is not None:
            self.run.close()

    def begin_if_due(self, trainer):
        """Begin to keep a run that takes some seconds."""
        seconds = max(trainer.seconds, trainer.config.time_budget or 0)
        if self.run is not None or self._name is None or seconds < KEPT_FROM:
            return
        from ..training.runs import Run

        folder, self._name = new_folder(self._name), None
        try:
            self.run = Run.create(folder, trainer, self._data)
            tell(f"keeping this run in {folder} (--no-out keeps none)")
        except (OSError, UsageError, MachineError) as error:
            tell(f"this run is not kept: cannot write {folder}: {getattr(error, 'strerror', None) or error}")


def name_of(data, preset):
    """What the name of a run's folder begins with: the data's name, or the preset's."""
    stem = Path(os.path.abspath(data[0])).stem if data and data[0] != "-" else preset
    return re.sub(r"[^\w-]+", "-", stem).strip("-")[:LONGEST] or preset


def new_folder(name):
    """A folder for a run that does not exist yet."""
    paths = (os.path.join(FOLDER, f"{name}-{number}") for number in count(1))
    return next(path for path in paths if not os.path.lexists(path))


def resume_command(folder):
    """The command that continues a run."""
    return f"{PROGRAM} train --resume {shlex.quote(folder)}"


def sample_command(path):
    """The command that writes with a model."""
    return f"{PROGRAM} sample {shlex.quote(path)} --prompt TEXT"
