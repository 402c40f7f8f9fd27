"""Trainings in files: stopped, and continued as if they never were, bit for bit."""

import os
from dataclasses import asdict
from typing import Any
from zlib import crc32

import numpy as np

from ..config import MODEL_OPTIONS, UsageError
from ..data.load import Corpus, Source
from .checkpoint import CheckpointError, load_with_training, save
from .trainer import Evaluation, Trainer

FIXED = (*MODEL_OPTIONS, "bos", "data_mode", "dtype", "seed", "tokenizer", "val_fraction")  # by the beginning
LOOKED_AT = 1 << 22  # tokens at each end of the data by which other data are recognised


def save_training(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Write a training's whole state to a file, as `checkpoint.save` does; the file is a model's too.

    Parameters
    ----------
    trainer : Trainer
        Between two events.
    path : path
    """
    state = {
        "step": trainer.step,
        "tokens": trainer.tokens,
        "seconds": trainer.seconds,
        "evaluations": [[event.step, event.loss, event.is_best] for event in trainer.evaluations],
        "random": trainer.random.getstate(),
        "data": fingerprint(trainer.corpus),
    }
    m, v = trainer.moments
    save(trainer.model, path, (state, {"m": m, "v": v, "losses": trainer.losses}))


def resume_training(path: str | os.PathLike[str], data: Source | Corpus = None, **options: Any) -> Trainer:
    """The Trainer that `save_training` saw, ready to go on.

    Parameters
    ----------
    path : path
    data : as for `Trainer`
        The same as before.
    **options
        All but `FIXED` may change: `threads` and `num_samples`, which change no bit of the training;
        `num_steps`, to go on for longer (the schedule then is that of the longer training), and the like.

    Raises
    ------
    CheckpointError
        for a file that holds no training, or other data.
    UsageError
        for an option that cannot change any more.
    """
    model, state, arrays = load_with_training(path, backend="numpy", numerics="fast")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: a model, but not the state of a training")
    constants = asdict(model.train_config)
    constants.update({name: getattr(model.config, name) for name in MODEL_OPTIONS})
    if constants["time_budget"] is not None:  # saved before the first step
        del constants["num_steps"]
    elif options.get("time_budget") is not None:
        raise UsageError("a training that goes on has no time_budget any more: give num_steps")
    for name in FIXED:
        if options.get(name, constants[name]) != constants[name]:
            raise UsageError(
                f"a training that goes on keeps its {name}: {constants[name]}, not {options[name]}"
            )
    trainer = Trainer(data, **{**constants, **options})
    if state.get("data") != fingerprint(trainer.corpus):
        raise CheckpointError(f"{path}: the training had other data")
    try:
        trainer.model.parameters[:] = model.parameters
        trainer.moments[:] = arrays["m"], arrays["v"]
        trainer.restore(
            int(state["step"]),
            int(state["tokens"]),
            float(state["seconds"]),
            arrays["losses"],
            [Evaluation(*event) for event in state["evaluations"]],
        )
        version, words, gauss = state["random"]
        trainer.random.setstate((version, tuple(words), gauss))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    return trainer


def fingerprint(corpus):
    """A few numbers by which a corpus is known again."""
    tokens = corpus.tokens
    ends = [np.ascontiguousarray(part, np.int32) for part in (tokens[:LOOKED_AT], tokens[-LOOKED_AT:])]
    return [len(tokens), len(corpus), corpus.mode, *map(crc32, ends)]
