"""Exact numerics are the scalar reference's, bit for bit, where a run diverges too: NaN, infinity, overflow."""

import random
from itertools import product

import numpy as np
import pytest

from microgpt_fast.config import GPTConfig
from microgpt_fast.reference import ReferenceGPT, initial_parameters

pytestmark = pytest.mark.slow

TOKENS = [6, 1, 2, 3, 1, 4, 6]
VALUES = [float("nan"), float("inf"), float("-inf"), 1e160, 1e308]
SMALL = {
    kind: GPTConfig(7, n_embd=8, n_head=2, n_layer=1, block_size=12, activation=kind)
    for kind in ("relu", "relu2")
}
PLANTED = [(kind, name) for kind, config in SMALL.items() for name in config.shapes()]


@pytest.fixture
def exact(backend):
    if not backend.HAS_EXACT:
        pytest.skip("has no exact numerics")
    return lambda config: backend.Engine(config, "float64", "exact")


def starts_and_lengths(*documents):
    lengths = np.array([len(document) - 1 for document in documents], np.int32)
    return np.cumsum([0, *(lengths[:-1] + 1)]), lengths


def same(got, wanted):
    """Bits, but for NaN's, which no formula tells."""
    return np.array_equal(got, wanted, equal_nan=True)


@pytest.fixture(scope="module")
def planted_runs(flatten):
    """By activation and tensor: parameters with one number planted, and the reference's loss and gradient."""
    runs = {}
    for kind, name in PLANTED:
        config, runs[kind, name] = SMALL[kind], []
        for value, row in product(VALUES, (0, 3)):
            parameters = initial_parameters(config, random.Random(1), 0.3)
            parameters[name][row][1] = value
            try:
                loss, gradients = ReferenceGPT(config, parameters).loss_and_gradients(TOKENS)
            except (ValueError, ZeroDivisionError, OverflowError):  # log of 0, as Python has it
                continue
            runs[kind, name].append((value, flatten(parameters), loss, flatten(gradients)))
    assert sum(map(len, runs.values())) >= 80
    return runs


@pytest.mark.parametrize(("kind", "name"), PLANTED)
def test_one_number_of_each_tensor(exact, planted_runs, kind, name):
    tokens = np.array(TOKENS, np.int32)
    starts, lengths = starts_and_lengths(TOKENS)
    for value, parameters, loss, gradients in planted_runs[kind, name]:
        got = np.zeros_like(parameters)
        losses = exact(SMALL[kind]).backward(got, parameters, tokens, starts, lengths)
        assert same(losses, [loss]), value
        assert same(got, gradients), value


DIVERGING = [(seed, rate) for seed in range(7) for rate in (1e60, 1e155, 1e305)]


@pytest.fixture(scope="module")
def diverging_runs(flatten):
    """By seed and learning rate: the reference's losses and parameters, up to the step at which Python raises."""
    runs = {}
    config = SMALL["relu"]
    for seed, rate in DIVERGING:
        model = ReferenceGPT(config, initial_parameters(config, random.Random(seed), 0.3))
        losses, initial = [], flatten(model.parameters)
        try:
            for step in range(3):
                loss, gradients = model.loss_and_gradients(TOKENS)
                model.adam_step(gradients, rate, 0.85, 0.99, 1e-8, step + 1)
                losses.append(loss)
                after = flatten(model.parameters)
        except (ValueError, ZeroDivisionError, OverflowError):
            pass
        runs[seed, rate] = initial, losses, after
    assert len(runs) > 20
    return runs


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("seed", "rate"), DIVERGING)
def test_diverging_runs(exact, diverging_runs, seed, rate):
    parameters, wanted, after = diverging_runs[seed, rate]
    parameters = parameters.copy()
    m, v = np.zeros_like(parameters), np.zeros_like(parameters)
    starts, lengths = starts_and_lengths(*[TOKENS] * len(wanted))
    losses, rates = np.zeros(len(wanted)), np.full(len(wanted), rate)
    tokens = np.array(TOKENS * len(wanted), np.int32)
    adam = (0.85, 0.99, 1e-8, 0.0)
    exact(SMALL["relu"]).train_steps(losses, parameters, m, v, tokens, starts, lengths, 1, rates, adam, 1)
    assert same(losses, wanted)
    assert same(parameters, after)
