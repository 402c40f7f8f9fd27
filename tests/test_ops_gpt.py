"""The composed functions of ops against the engine, and what they refuse."""

import random

import numpy as np
import pytest

from microgpt_fast import ops
from microgpt_fast.backends import numpy_backend
from microgpt_fast.backends.composed import ComposedEngine
from microgpt_fast.config import GPTConfig
from microgpt_fast.random_stream import PythonRandom, seeded

CONFIG = GPTConfig(vocab_size=7, n_layer=2, n_embd=12, n_head=3, block_size=5)
TOKENS = np.random.default_rng(0).integers(0, 7, 40, dtype=np.int32)
STARTS, LENGTHS = [0, 7, 11, 3], [5, 1, 4, 2]


def parameters(dtype=np.float64):
    return (0.3 * np.random.default_rng(1).standard_normal(CONFIG.num_params)).astype(dtype)


def test_forward_and_backward(backend):
    params = parameters()
    params.flags.writeable = False
    engine = ComposedEngine(numpy_backend, CONFIG, np.float64)
    wanted = np.zeros_like(params)
    losses = engine.backward(wanted, params, TOKENS, np.array(STARTS), np.array(LENGTHS, np.int32))
    logits = np.full((12, 7), np.nan)
    got = ops.gpt_forward(params, TOKENS, STARTS, LENGTHS, CONFIG, logits=logits, backend=backend)
    np.testing.assert_allclose(got, losses, rtol=1e-12)
    assert np.isfinite(logits).all()
    loss, _ = ops.cross_entropy_forward(logits[5:6], [TOKENS[8]], backend=backend)
    np.testing.assert_allclose(loss, losses[1], rtol=1e-12)

    wide = np.repeat(params, 2)[::2]
    got, grads = ops.gpt_backward(wide, TOKENS.astype(np.int64), STARTS, LENGTHS, CONFIG, backend=backend)
    np.testing.assert_allclose(got, losses, rtol=1e-12)
    np.testing.assert_allclose(grads, wanted, rtol=0, atol=1e-12 * abs(wanted).max())
    _, twice = ops.gpt_backward(params, TOKENS, STARTS, LENGTHS, CONFIG, out=grads, backend=backend)
    assert twice is grads
    np.testing.assert_allclose(grads, 2 * wanted, rtol=0, atol=1e-11 * abs(wanted).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_train_steps_are_backward_and_adam(backend, dtype):
    params = parameters(dtype)
    m, v = np.zeros_like(params), np.zeros_like(params)
    byhand = [params.copy(), m.copy(), v.copy()]
    losses = ops.gpt_train_steps(
        params,
        m,
        v,
        TOKENS,
        STARTS,
        LENGTHS,
        CONFIG,
        lr=[0.01, 0.005],
        batch_size=2,
        first_step=3,
        backend=backend,
    )
    for step, lr in enumerate([0.01, 0.005]):
        batch = slice(2 * step, 2 * step + 2)
        loss, grads = ops.gpt_backward(
            byhand[0], TOKENS, STARTS[batch], LENGTHS[batch], CONFIG, backend=backend
        )
        ops.adamw_step(*byhand, grads, step=3 + step, lr=lr, beta1=0.85, beta2=0.99, backend=backend)
        tolerance = 1e-10 if dtype == np.float64 else 1e-3
        np.testing.assert_allclose(losses[step], loss.mean(), rtol=tolerance)
    for got, wanted in zip((params, m, v), byhand):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * abs(wanted).max())


def test_decoding_is_the_forward(backend):
    params = parameters()
    logits = np.empty((5, 7))
    ops.gpt_forward(params, TOKENS, [0], [5], CONFIG, logits=logits, backend=backend)
    decoder = ops.gpt_decode(params, CONFIG, backend=backend)
    for position in range(5):
        np.testing.assert_allclose(decoder.step(TOKENS[position], position), logits[position], atol=1e-12)
    stream = seeded(4, backend) if hasattr(backend, "Random") else PythonRandom(4)
    sample = decoder.generate(stream, 6, 1.0)
    byhand = random.Random(4)
    token, wanted = 6, []
    for position in range(5):
        weights = np.exp(decoder.step(token, position))
        token = byhand.choices(range(7), weights.tolist())[0]
        if token == 6:
            break
        wanted.append(token)
    assert sample.tolist() == wanted


def test_refusals(backend):
    params = parameters()
    m, v, before = np.zeros_like(params), np.zeros_like(params), params.copy()
    documents = (TOKENS, STARTS, LENGTHS, CONFIG)

    def steps(p=params, first=m, second=v, tokens=TOKENS, starts=STARTS, lengths=LENGTHS, **options):
        options = dict(lr=[0.1] * 4, backend=backend) | options
        return ops.gpt_train_steps(p, first, second, tokens, starts, lengths, CONFIG, **options)

    for error, words, call in (
        (TypeError, "params must be float32", lambda: ops.gpt_forward(params.astype(int), *documents)),
        (
            ValueError,
            rf"params must have shape \({len(params)},\)",
            lambda: ops.gpt_forward(params[1:], *documents),
        ),
        (ValueError, "overlaps params", lambda: ops.gpt_backward(params, *documents, out=params)),
        (
            ValueError,
            "logits must have shape",
            lambda: ops.gpt_forward(params, *documents, logits=np.ones((3, 7))),
        ),
        (
            TypeError,
            "logits must be float64",
            lambda: ops.gpt_forward(params, *documents, logits=np.ones((12, 7), "f")),
        ),
        (TypeError, "m must be float64", lambda: steps(first=m.astype(np.float32))),
        (ValueError, "v of shape .* overlaps m", lambda: steps(second=m)),
        (ValueError, "C-contiguous", lambda: steps(p=np.repeat(params, 2)[::2])),
        (ValueError, "need 3 documents, not 4", lambda: steps(lr=[0.1] * 3)),
        (ValueError, "first_step must be at least 1", lambda: steps(first_step=0)),
        (TypeError, "tokens must be of an integer dtype", lambda: steps(tokens=TOKENS.astype(float))),
        (ValueError, "starts and lengths must have one shape", lambda: steps(lengths=LENGTHS[:3])),
        (IndexError, "7", lambda: steps(tokens=np.where(np.arange(40) == 12, 7, TOKENS))),
        (
            IndexError,
            str(2**40),
            lambda: steps(tokens=np.where(np.arange(40) == 12, 2**40, TOKENS.astype(np.int64))),
        ),
        (IndexError, "6", lambda: steps(lengths=[6, 1, 1, 1])),
        (IndexError, "40", lambda: steps(starts=[0, 7, 11, 39])),
    ):
        with pytest.raises(error, match=words):
            call()
    assert np.array_equal(params, before) and not m.any() and not v.any()


def test_a_decoder_takes_whole_numbers_in_turn(backend):
    decoder = ops.gpt_decode(np.ones(CONFIG.num_params), CONFIG, backend=backend)
    decoder.step(1, 0)
    for position in (2, -1, 1.0, True + 1, 2**31, 2**63, -(2**63), 2**80, None, "1"):
        with pytest.raises(IndexError if isinstance(position, int) else TypeError):
            decoder.step(1, position)
    for token in (-1, CONFIG.vocab_size, 1.5, 2**31, 2**63, 2**80, None, "1"):
        error = IndexError if isinstance(token, int) else TypeError
        with pytest.raises(error):
            decoder.step(token, 1)
        with pytest.raises(error):
            decoder.generate(seeded(1, backend), token, 1.0)
    decoder.step(np.int64(1), np.int32(1))
    decoder.generate(seeded(1, backend), 1, 1.0)
    with pytest.raises(IndexError, match="position 2 is out of turn: 0"):
        decoder.step(1, 2)
