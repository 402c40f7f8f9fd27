"""Training runs: steps, schedules, checkpoints, folders that keep a run, progress."""

from .trainer import Evaluation, Steps, Trainer, train

__all__ = ["Evaluation", "Steps", "Trainer", "train"]
