"""The update of accumulated, clipped gradients: the formula in float64, by every backend and number of threads."""

import functools

import numpy as np
import pytest

from microgpt_fast import backends
from microgpt_fast.config import GPTConfig

# numbers of parameters that no vector divides: 8385, 159, five items for the threads, and long parts of the norm
CONFIGS = {
    "odd": GPTConfig(7, n_layer=3, n_embd=15, n_head=5, block_size=5),
    "tiny": GPTConfig(8, n_layer=1, n_embd=3, n_head=3, block_size=1, activation="relu2"),
    "several-items": GPTConfig(11, n_layer=2, n_embd=53, n_head=1, block_size=35),
    "long-parts": GPTConfig(8, n_layer=1, n_embd=301, n_head=7, block_size=1),
}
ADAM = (0.85, 0.99, 1e-8, 0.1)
LR, STEP = 0.02, 3
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


@functools.cache
def draws(size):
    return np.random.default_rng(5).standard_normal((4, size))


def state(config, dtype):
    """Parameters, moments and a gradient of norm 2 sqrt(P)."""
    p, m, v, g = draws(config.num_params)
    return [x.astype(dtype) for x in (p, m, v * v, 2 * g)]


def assert_update(update, config, dtype, divisor, max_norm):
    """update(params, m, v, grads, lr, adam, step, divisor, max_norm) is the formula."""
    arrays = state(config, dtype)
    p, m, v, g = (x.astype(np.float64) for x in arrays)
    g /= divisor
    norm = np.sqrt(np.sum(g * g))
    if 0 < max_norm < norm:
        g *= max_norm / norm
    beta1, beta2, eps, weight_decay = ADAM
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    corrected = m / (1 - beta1**STEP), v / (1 - beta2**STEP)
    p -= LR * (corrected[0] / (np.sqrt(corrected[1]) + eps) + weight_decay * p)
    found = update(*arrays, LR, ADAM, STEP, divisor, max_norm)
    assert found == pytest.approx(norm if max_norm else 0, rel=TOLERANCE[dtype])
    for got, wanted in zip(arrays, (p, m, v, 0 * g)):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE[dtype] * np.abs(wanted).max())


@pytest.mark.parametrize("max_norm", [0, 0.3, 1e6, np.inf])
@pytest.mark.parametrize("divisor", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONFIGS)
def test_an_update_is_the_formula(backend, name, dtype, divisor, max_norm):
    config = CONFIGS[name]
    assert_update(backend.Engine(config, dtype).update, config, dtype, divisor, max_norm)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_clipping_an_update_is_adamw_step(backend, dtype):
    config = CONFIGS["odd"]
    by_step, by_update = state(config, dtype), state(config, dtype)
    backend.adamw_step(*by_step, config.num_params, LR, *ADAM, STEP)
    backend.Engine(config, dtype).update(*by_update, LR, ADAM, STEP)
    for got, wanted in zip(by_update[:3], by_step[:3]):
        assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_shows(backend, bad):
    config = CONFIGS["odd"]
    p, m, v, g = state(config, "float32")
    before = p.copy()
    g[1234] = bad
    with np.errstate(invalid="ignore"):
        norm = backend.Engine(config, "float32").update(p, m, v, g, LR, ADAM, STEP, 1, 0.5)
    assert np.array_equal(norm, bad, equal_nan=True)
    assert np.isnan(p[1234]) and np.isfinite(np.delete(p, 1234)).all()
    assert not g.any() and not np.array_equal(np.delete(p, 1234), np.delete(before, 1234))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CONFIGS)
def test_bits_do_not_depend_on_the_number_of_threads(backend, name, dtype):
    results = set()
    for threads in (1, 2, 3):
        arrays = state(CONFIGS[name], dtype)
        engine = backend.Engine(CONFIGS[name], dtype, threads=threads)
        norm = engine.update(*arrays, LR, ADAM, STEP, 2, 0.3)
        results.add((norm, *(x.tobytes() for x in arrays)))
    assert len(results) == 1


def test_what_an_update_refuses(backend):
    if backends.name_of(backend) == "numpy":
        pytest.skip("checks nothing")
    config = CONFIGS["tiny"]
    *arrays, grads = state(config, "float64")
    engine = backend.Engine(config, "float64")
    with pytest.raises(ValueError, match="grads"):
        engine.update(*arrays, grads[:-1], LR, ADAM, STEP)
    with pytest.raises(TypeError, match="grads"):
        engine.update(*arrays, grads.astype(np.float32), LR, ADAM, STEP)
    if backend.HAS_EXACT:
        with pytest.raises(ValueError, match="exact"):
            backend.Engine(config, "float64", numerics="exact").update(*arrays, grads, LR, ADAM, STEP)
