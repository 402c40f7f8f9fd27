"""Trainings in files: stopped, and resumed with the bits of an uninterrupted training."""

import os
from dataclasses import asdict
from typing import Any
from zlib import crc32

import numpy as np

from ..config import MODEL_OPTIONS, UsageError
from ..data.load import Corpus, Source
from .checkpoint import STORED, CheckpointError, load_with_training, save
from .trainer import Trainer

FIXED = (
    *MODEL_OPTIONS,
    "bos",
    "data_mode",
    "dtype",
    "seed",
    "shards",
    "tokenizer",
    "val_fraction",
)  # once a training has begun
LOOKED_AT = 1 << 22  # tokens at each end of the data that are compared to recognise the data


def save_training(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Write the whole state of a training to a file, as `checkpoint.save` does; `load` reads it as a model.

    Parameters
    ----------
    trainer : Trainer
        To be saved between two events.
    path : path

    Raises
    ------
    RuntimeError
        where another thread is at work with the Trainer.
    OSError
        if the file cannot be written.
    """
    with trainer.alone:
        _save(trainer, path)


def _save(trainer, path):
    state = {
        "step": trainer.step,
        "tokens": trainer.tokens,
        "evaluations": [[event.step, event.loss, event.is_best] for event in trainer.evaluations],
        "random": trainer.random.getstate(),
        "data": fingerprint(trainer.corpus),
    }
    m, v = trainer.moments
    arrays = {"m": m, "v": v, "losses": trainer.losses}
    if trainer.best_parameters is not None:
        arrays["best"] = trainer.best_parameters
    with trainer.last_step():
        save(trainer.model, path, (state, arrays))


def resume_training(path: str | os.PathLike[str], data: Source | Corpus = None, **options: Any) -> Trainer:
    """The Trainer that `save_training` saved, ready to continue.

    Parameters
    ----------
    path : path
    data : as for `Trainer`
        The same data as before.
    **options
        All but `FIXED` may change: for example `threads` and `num_samples`, which change no bit of the
        training, or `num_steps`, to train for longer (the schedule then is that of the longer training).

    Raises
    ------
    CheckpointError
        if the file holds no training, or the training had other data.
    UsageError
        for an option that cannot be changed.
    """
    model, state, arrays = load_with_training(path, STORED, backend="numpy", numerics="fast")
    if state is None:
        raise CheckpointError(f"{path}: a model, but not the state of a training")
    if not np.isfinite(model.parameters).all():
        raise CheckpointError(f"{path}: the parameters are not finite: this training had diverged")
    constants = asdict(model.train_config)
    constants.update({name: getattr(model.config, name) for name in MODEL_OPTIONS})
    if constants["time_budget"] is not None:  # saved before the first step
        del constants["time_budget" if options.get("num_steps") is not None else "num_steps"]
    elif options.get("time_budget") is not None:
        raise UsageError("a resumed training cannot have a time_budget: give num_steps")
    for name in FIXED:
        if options.get(name, constants[name]) != constants[name]:
            raise UsageError(f"a resumed training keeps its {name}: {constants[name]}, not {options[name]}")
    if options.get("num_steps") not in (None, constants.get("num_steps")):
        options = {"plan": (), **options}  # the schedule is that of the new number of steps
    trainer = Trainer(data, **{**constants, **options})
    if state.data != fingerprint(trainer.corpus):
        raise CheckpointError(f"{path}: this training had other data: resume it with the same text")
    trainer.model.parameters[:] = model.parameters
    trainer.moments = np.stack([arrays["m"], arrays["v"]])
    trainer.best_parameters = arrays.get("best")
    trainer.restore(state.step, state.tokens, state.seconds, arrays["losses"], state.evaluations)
    trainer.random.setstate(state.random)
    return trainer


def fingerprint(corpus):
    """A few numbers by which a corpus is recognised."""
    tokens = corpus.tokens
    ends = [np.ascontiguousarray(part, np.int32) for part in (tokens[:LOOKED_AT], tokens[-LOOKED_AT:])]
    return [len(tokens), len(corpus), corpus.mode, *map(crc32, ends)]
