"""Cross-entropy is as precise where logits are far from 0 as near it: the maximum and the logarithm are kept apart."""

import numpy as np
import pytest

from microgpt_fast.checking.cases import CASES
from microgpt_fast.config import GPTConfig

SHIFTS = [0.0, 10.0, 1e3, 1e4, 1e5, 1e6, 1e8, 1e30]
DTYPES = [np.float32, np.float64]


def in_extended(logits, targets):
    """Losses and softmax of these very logits, in a wider type."""
    z = logits.astype(np.longdouble)
    z -= z.max(axis=1, keepdims=True)
    e = np.exp(z)
    total = e.sum(axis=1)
    rows = np.arange(len(z))
    p = e / total[:, None]
    losses = np.log(total) - z[rows, targets]
    p[rows, targets] -= 1
    return losses, p


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("V", [2, 27, 131])
def test_kernels(backend, dtype, shift, V):
    forward = CASES["cross_entropy_forward"].arguments(dtype, seed=3, N=64, V=V)
    forward["logits"] += dtype(shift)
    losses, gradients = in_extended(forward["logits"], forward["targets"])
    CASES["cross_entropy_forward"].run(backend, forward)
    backward = CASES["cross_entropy_backward"].arguments(dtype, seed=3, N=64, V=V)
    backward["dlosses"][...] = 1
    backward.update(logits=forward["logits"], targets=forward["targets"], lse=forward["lse"])
    CASES["cross_entropy_backward"].run(backend, backward)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(forward["losses"], losses, rtol=0, atol=8 * eps * max(1, losses.max()))
    np.testing.assert_allclose(backward["dlogits"], gradients, rtol=0, atol=8 * eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logit", [1e8, -1e8, 1e30])
def test_two_equal_logits(backend, dtype, logit):
    logits, targets = np.full((1, 2), logit, dtype), np.zeros(1, np.int32)
    losses, lse, dlogits = np.empty(1, dtype), np.empty(1, dtype), np.empty((1, 2), dtype)
    backend.cross_entropy_forward(losses, lse, logits, targets, 1, 2)
    backend.cross_entropy_backward(dlogits, np.ones(1, dtype), lse, logits, targets, 1, 2)
    np.testing.assert_allclose(losses, np.log(2), rtol=2 * np.finfo(dtype).eps)
    assert dlogits.tolist() == [[-0.5, 0.5]]


# a model of the narrow path, where a backend has one, and one of the general path, whose vocabulary is its own
MODELS = {
    "narrow": GPTConfig(4, n_embd=16, n_head=4, n_layer=1, block_size=8),
    "general": GPTConfig(4, n_embd=20, n_head=5, n_layer=1, block_size=8),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", MODELS)
def test_a_training_step(backend, dtype, path):
    """Four equal logits of about 1e8: the loss is log 4, and lm_head's gradient that of probabilities 1/4."""
    config = MODELS[path]
    rng = np.random.default_rng(0)
    parameters = rng.normal(0, 0.5, config.num_params).astype(dtype)
    [place] = [p.place for p in config.parameters() if p.name == "lm_head"]
    parameters[place].reshape(4, -1)[...] = 1e8 * rng.normal(size=config.n_embd)
    tokens, starts, lengths = np.array([3, 1, 3], np.int32), np.array([0]), np.array([2], np.int32)
    losses, m, v = np.zeros(1), np.zeros_like(parameters), np.zeros_like(parameters)
    without_memory = (0.0, 0.0, 1e-8, 0.0)  # m is the gradient
    backend.Engine(config, dtype).train_steps(
        losses, parameters, m, v, tokens, starts, lengths, 1, np.array([0.01]), without_memory, 1
    )
    np.testing.assert_allclose(losses, np.log(4), rtol=8 * np.finfo(dtype).eps)
    # (x_0 + x_1) / 8 where neither row's target is; less x_0 / 2 and x_1 / 2 where one is
    never, first, never_too, second = m[place].reshape(4, -1)
    assert np.array_equal(never, never_too) and np.abs(never).max() > 0.01
    np.testing.assert_allclose(first + second, -2 * never, rtol=0, atol=16 * np.finfo(dtype).eps)
