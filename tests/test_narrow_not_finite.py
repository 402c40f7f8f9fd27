"""A training step with NaN or infinity in a parameter leaves those parameters not finite that the formula does."""

import numpy as np
import pytest

from microgpt_fast import backends
from microgpt_fast.backends import numpy_backend as twin
from microgpt_fast.backends.engines import engine_of
from microgpt_fast.config import GPTConfig

pytestmark = pytest.mark.slow

ADAM = (0.85, 0.99, 1e-8, 0.0)
CONFIGS = {
    "narrow-4": GPTConfig(19, n_embd=16, n_head=4, n_layer=1, block_size=12),
    "narrow-16": GPTConfig(19, n_embd=32, n_head=2, n_layer=2, block_size=40, activation="relu2"),
    "long": GPTConfig(19, n_embd=32, n_head=4, n_layer=1, block_size=80),  # narrow, but not for Numba
    "general": GPTConfig(19, n_embd=24, n_head=3, n_layer=2, block_size=30),
}


def finite_after_a_step(backend, config, dtype, parameters, batch):
    """By parameter, which elements are finite after one step."""
    engine, losses = engine_of(backend, config, np.dtype(dtype), "fast", 1), np.zeros(1)
    flat, m, v = parameters.copy(), np.zeros_like(parameters), np.zeros_like(parameters)
    with np.errstate(all="ignore"):
        engine.train_steps(losses, flat, m, v, *batch, len(batch[2]), np.array([1e-3]), ADAM, 1)
    finite = np.isfinite(flat)
    return {p.name: finite[p.place].reshape(p.shape) for p in config.parameters()}, np.isfinite(losses[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_not_finite_is_what_the_formula_makes_so(backend, name, dtype):
    config, rng = CONFIGS[name], np.random.default_rng(5)
    lengths = rng.integers(1, config.block_size + 1, 5).astype(np.int32)
    tokens = rng.integers(0, config.vocab_size, lengths.sum() + 5).astype(np.int32)
    batch = tokens, np.cumsum([0, *(lengths[:-1] + 1)]), lengths
    numbers = (0.3 * rng.standard_normal(config.num_params)).astype(dtype)
    is_loose = backends.name_of(backend) == "numba" and name.startswith("narrow")
    for parameter in config.parameters():
        for value in (np.nan, np.inf, -np.inf):
            planted = numbers.copy()
            rows = planted[parameter.place].reshape(parameter.shape)
            row = rng.integers(len(rows))
            rows[row, rng.integers(parameter.shape[1])] = value
            got, loss = finite_after_a_step(backend, config, dtype, planted, batch)
            wanted, wanted_loss = finite_after_a_step(twin, config, dtype, planted, batch)
            assert loss == wanted_loss
            for other in got:
                where = f"{other} where row {row} of {parameter.name} has {value}"
                if is_loose and other in ("wte", "wpe"):
                    assert not (got[other] & ~wanted[other]).any(), where
                else:
                    np.testing.assert_array_equal(got[other], wanted[other], where)
