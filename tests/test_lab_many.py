"""Many models at once are the same as one after the other."""

import threading

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast.config import UsageError
from microgpt_fast.lab import many

NAMES = ["anna", "bert", "clara", "dora", "emil", "fritz", "gerda", "hans", "ida", "jan"]
CONFIGS = [
    {"seed": 1},
    {"seed": 2, "learning_rate": 0.003},
    {"weight_decay": 0.1, "numerics": "fast"},
    {"n_embd": 32, "dtype": "float32"},
    {"num_steps": 7},
]


def test_each_is_the_single_run_bit_for_bit():
    runs = [*mg.train_many(CONFIGS, NAMES, workers=3, num_steps=30)]
    for run, config in zip(runs, CONFIGS, strict=True):
        single = mg.train(NAMES, **{"num_steps": 30, **config})
        assert run.losses.tobytes() == single.losses.tobytes()
        assert run.model.parameters.tobytes() == single.model.parameters.tobytes()
        assert mg.generate(run.model, 2, random=run.random) == mg.generate(
            single.model, 2, random=single.random
        )


def test_divergence_ends_one_run_alone():
    configs = [{}, {"learning_rate": 1e30}, {}]
    first, wild, last = mg.train_many(configs, NAMES, num_steps=30)
    assert wild.diverged and first.diverged is None
    assert np.array_equal(first.losses, last.losses)


def test_no_more_are_trained_ahead_than_two_per_worker():
    asked = []
    configs = ({"seed": asked.append(seed) or seed} for seed in range(1000))
    runs = mg.train_many(configs, NAMES, workers=2, num_steps=1)
    assert asked == []
    next(runs)
    assert len(asked) == 2 * many.AHEAD
    runs.close()
    assert len(asked) == 2 * many.AHEAD


def test_closing_ends_what_is_under_way():
    before = threading.active_count()
    runs = mg.train_many([{"num_steps": 1}, {}, {}], NAMES, workers=2, num_steps=10**9, dtype="float32")
    next(runs)
    runs.close()
    assert threading.active_count() == before


def test_bad_options_are_told():
    assert [*mg.train_many([], NAMES)] == []
    for configs, options, reason in (
        ([{"n_head": 3}], {}, "multiple of n_head"),
        ([{"n_heads": 2}], {}, "did you mean n_head"),
        ([{"tokenizer": "byte"}], {}, "read once: give it for all"),
        ([{}], {"workers": 0}, "workers must be at least 1"),
        ([{}], {"activation": "relu3"}, "unknown activation"),
    ):
        with pytest.raises(UsageError, match=reason):
            [*mg.train_many(configs, NAMES, **options)]
