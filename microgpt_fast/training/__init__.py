"""Training runs: steps, schedules, checkpoints, folders that keep a run, progress."""

from .events import Evaluation, Steps
from .trainer import Trainer
from .whole import train

__all__ = ["Evaluation", "Steps", "Trainer", "train"]
