"""Thousands of steps: where rounding would long have drifted apart, exact numerics still equal the reference."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from microgpt_fast import backends
from microgpt_fast.training.trainer import Trainer

FIGURES = json.loads((Path(__file__).parent / "golden" / "long_run.json").read_text(encoding="utf-8"))


def test_exact_training_is_the_reference_at_every_checkpoint(backend, same_libm):
    """20,000 steps of the default job; the figures are reference.py's (tests/golden/README.md)."""
    if not backend.HAS_EXACT:
        pytest.skip(f"the {backends.name_of(backend)} backend has no exact numerics")
    trainer = Trainer(num_steps=20_000, backend=backends.name_of(backend))
    engine, corpus, config = trainer.model.engine, trainer.corpus, trainer.config
    m, v = (trainer.model.parameters * 0 for _ in range(2))
    losses, step = hashlib.sha256(), 0
    for checkpoint, wanted in FIGURES.items():
        count = int(checkpoint) - step
        starts, lengths = corpus.batches(trainer.order, step, count, trainer.model.config.block_size)
        steps = step + np.arange(count)
        found = np.empty(count)
        engine.train_steps(
            found,
            trainer.model.parameters,
            m,
            v,
            corpus.tokens,
            starts,
            lengths,
            1,
            config.learning_rate * (1 - steps / config.num_steps),
            (config.beta1, config.beta2, config.eps_adam, 0.0),
            step + 1,
        )
        step += count
        losses.update(found.astype("<f8").tobytes())
        params = hashlib.sha256(trainer.model.parameters.astype("<f8").tobytes())
        assert (losses.hexdigest(), params.hexdigest()) == (wanted["losses"], wanted["params"]), (
            f"step {step}"
        )
