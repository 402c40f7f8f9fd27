"""Activations: known values, slopes that are derivatives, one definition in every backend, paths that serve them."""

import math
import random

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import backends, ops
from microgpt_fast.backends import numpy_backend
from microgpt_fast.config import ACTIVATIONS, GPTConfig, UsageError
from microgpt_fast.reference import ReferenceGPT, initial_parameters

# f(1), f(-1) and f(3): gelu is PyTorch's approximate="tanh"
VALUES = {
    "relu": (1.0, 0.0, 3.0),
    "relu2": (1.0, 0.0, 9.0),
    "gelu": (0.8411919906082768, -0.15880800939172324, 2.996362607918227),
    "silu": (1 / (1 + math.exp(-1)), -1 / (1 + math.e), 3 / (1 + math.exp(-3))),
}


def value_and_gradient(h, activation, backend):
    """f(h) and f'(h), element by element, through a feed-forward block with weights h and 1."""
    one, options = np.ones((1, 1), h.dtype), dict(activation=activation, backend=backend)
    values, slopes = [], []
    for element in h.reshape(-1, 1, 1):
        y, hidden = ops.mlp_forward(one, element, one, **options)
        values.append(y[0, 0])
        slopes.append(ops.mlp_backward(one, hidden, one, element, one, **options)[3][0, 0])
    return np.array(values), np.array(slopes)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_values_and_slopes(backend, activation, dtype):
    h = np.array([1, -1, 3, 0.25, -0.7, -6, 12], dtype)
    value, slope = value_and_gradient(h, activation, backend)
    tolerance = 1e-14 if dtype == "float64" else 1e-6
    assert value[:3] == pytest.approx(VALUES[activation], rel=tolerance, abs=tolerance)
    f = numpy_backend.ACTIVATIONS[activation][0]
    x, step = h.astype(float), 1e-6
    derivative = (f(x + step) - f(x - step)) / (2 * step)
    assert slope == pytest.approx(derivative, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_far_from_0_and_not_a_number(backend, activation, dtype):
    """No overflow where the result is finite, and NaN stays NaN."""
    h = np.array([-300, -1e10, 40, 1e10, np.nan], dtype)
    with np.errstate(all="ignore"):
        value, slope = value_and_gradient(h, activation, backend)
    square = activation == "relu2"
    assert value[:2] == pytest.approx([0, 0], abs=1e-30)
    assert value[2:4] == pytest.approx(h[2:4] ** 2 if square else h[2:4])
    assert slope[:4] == pytest.approx([0, 0, *(2 * h[2:4] if square else (1, 1))], abs=1e-30)
    assert np.isnan(value[4])


@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("sizes", [dict(n_embd=16, n_head=4), dict(n_embd=20, n_head=5)], ids=str)
def test_gradients_are_the_references(backend, activation, sizes):
    config = GPTConfig(7, n_layer=2, block_size=5, activation=activation, **sizes)
    parameters = initial_parameters(config, random.Random(1), 0.6)
    documents = [[6, 0, 1, 2, 6], [6, 3, 4, 6]]
    loss, gradients = ReferenceGPT(config, parameters).loss_and_gradients(*documents)
    flat, wanted = (
        np.concatenate([np.array(rows).ravel() for rows in tensors.values()])
        for tensors in (parameters, gradients)
    )
    tokens = np.array(sum(documents, []), np.int32)
    places = np.array([0, 5]), np.array([4, 3], np.int32)
    for dtype, tolerance in (("float64", 1e-13), ("float32", 1e-5)):
        engine, got = backend.Engine(config, dtype), np.zeros(config.num_params, dtype)
        losses = engine.backward(got, flat.astype(dtype), tokens, *places)
        assert losses.mean() == pytest.approx(loss, rel=tolerance)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * abs(wanted).max())
        assert engine.path in ("general", "composed")


def test_exact_and_narrow_paths_serve_the_originals_activations_only():
    compiled = pytest.importorskip("microgpt_fast.backends.cython_backend")
    for activation in ACTIVATIONS:
        config, original = GPTConfig(27, activation=activation), activation in ("relu", "relu2")
        assert compiled.path_of(config) == ("narrow" if original else "general")
        assert (compiled.path_of(config, "exact") == "exact") is original
    run = mg.train(["anna", "bob"], num_steps=2, activation="silu")
    assert run.path == "general" and "do not support activation silu" in run.note
    with pytest.raises(UsageError, match="do not support activation gelu"):
        mg.train(["anna", "bob"], num_steps=2, activation="gelu", numerics="exact")


@pytest.mark.slow  # Numba compiles
def test_every_backend_has_every_activation():
    numba_activations = pytest.importorskip("microgpt_fast.backends.numba_activations")
    assert tuple(numpy_backend.ACTIVATIONS) == ACTIVATIONS == numba_activations.NAMES
    for name in backends.BACKENDS:
        run = mg.train(["anna", "bob"], num_steps=3, activation="gelu", backend=name, numerics="fast")
        assert len(mg.generate(run.model, 2, seed=1)) == 2
