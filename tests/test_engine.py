"""The whole model of every backend is reference.py's, to rounding, and the original's when trained."""

import random
from types import SimpleNamespace

import numpy as np
import pytest

from microgpt_fast.config import GPTConfig, TrainConfig
from microgpt_fast.random_stream import seeded
from microgpt_fast.reference import ReferenceGPT, initial_parameters

CONFIGS = {
    "default": GPTConfig(27),
    "two-layers": GPTConfig(11, n_layer=2, n_embd=20, n_head=4, block_size=9),
    "odd": GPTConfig(7, n_layer=3, n_embd=15, n_head=5, block_size=5, activation="relu2"),
    "one-head": GPTConfig(13, n_embd=17, n_head=1, block_size=16, activation="relu2"),
    "narrow": GPTConfig(2, n_layer=2, n_embd=3, n_head=3, block_size=1),
    "wide": GPTConfig(5, n_embd=32, n_head=2, block_size=3),
}
DTYPES = [np.float32, np.float64]
# largest error relative to the largest element of a tensor
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}


def cross_entropy(logits, targets):
    return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(targets)), targets]).mean()


# reference.py takes long for two of them
SETTINGS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in ("two-layers", "one-head"))) for name in CONFIGS
]


@pytest.fixture(params=SETTINGS, scope="session")
def setting(request, flatten):
    """A model at random weights, where gradients do not vanish, a batch, and what is right for them."""
    config = CONFIGS[request.param]
    stream = random.Random(7)
    parameters = initial_parameters(config, stream, std=0.3)
    reference = ReferenceGPT(config, parameters)
    lengths = [1, config.block_size, (config.block_size + 1) // 2, config.block_size]
    beyond = [0, 0, 0, 4]  # the last document is longer than the block
    documents = [
        [stream.randrange(config.vocab_size) for _ in range(length + 1 + more)]
        for length, more in zip(lengths, beyond)
    ]
    loss, gradients = reference.loss_and_gradients(*documents)
    logits = [np.array(reference.logits(text[:length])) for text, length in zip(documents, lengths)]
    return SimpleNamespace(
        config=config,
        parameters=parameters,
        documents=documents,
        loss=loss,
        gradients=flatten(gradients),
        losses=[cross_entropy(rows, text[1 : len(rows) + 1]) for text, rows in zip(documents, logits)],
        logits=logits,
        params=flatten(parameters),
        tokens=np.concatenate(documents).astype(np.int32),
        starts=np.cumsum([0, *map(len, documents)])[:-1],
        lengths=np.array(lengths, np.int32),
    )


@pytest.fixture(scope="session")
def trained(setting, flatten):
    """The constants of a short run, and the loss, moments and parameters after each of its steps."""
    train = TrainConfig(num_steps=3, batch_size=2)
    reference = ReferenceGPT(setting.config, setting.parameters)
    return train, [
        (loss, *map(flatten, (reference.first_moments, reference.second_moments, reference.parameters)))
        for loss, _ in reference.train_steps(setting.documents, train)
    ]


def assert_tensors_close(got, wanted, config, tolerance):
    first = 0
    for name, (rows, columns) in config.shapes().items():
        tensor = slice(first, first + rows * columns)
        atol = tolerance * np.abs(wanted[tensor]).max()
        np.testing.assert_allclose(got[tensor], wanted[tensor], rtol=0, atol=atol, err_msg=name)
        first += rows * columns


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_the_reference(backend, setting, dtype):
    config, tolerance = setting.config, TOLERANCE[dtype]
    engine, params = backend.Engine(config, dtype), setting.params.astype(dtype)
    grads = np.zeros_like(params)
    losses = engine.backward(grads, params, setting.tokens, setting.starts, setting.lengths)
    assert losses.dtype == np.float64
    np.testing.assert_allclose(losses, setting.losses, rtol=tolerance)
    assert losses.mean() == pytest.approx(setting.loss, rel=tolerance)
    assert_tensors_close(grads, setting.gradients, config, tolerance)
    assert params.tobytes() == setting.params.astype(dtype).tobytes()

    engine.backward(grads, params, setting.tokens, setting.starts, setting.lengths)  # adds
    assert_tensors_close(grads, 2 * setting.gradients, config, tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_cached_decoding_are_the_reference(backend, setting, dtype):
    config, tolerance = setting.config, TOLERANCE[dtype]
    engine, params = backend.Engine(config, dtype), setting.params.astype(dtype)
    logits = np.full((setting.lengths.sum(), config.vocab_size), np.nan, dtype)
    losses = engine.forward(params, setting.tokens, setting.starts, setting.lengths, logits)
    without_logits = engine.forward(params, setting.tokens, setting.starts, setting.lengths)
    assert without_logits.tobytes() == losses.tobytes()
    np.testing.assert_allclose(losses, setting.losses, rtol=tolerance)
    decoder, first = engine.decoder(params), 0
    for document, wanted in zip(setting.documents, setting.logits):
        length, atol = len(wanted), tolerance * np.abs(wanted).max()
        np.testing.assert_allclose(logits[first : first + length], wanted, rtol=0, atol=atol)
        first += length
        decoded = [decoder.step(token, position) for position, token in enumerate(document[:length])]
        np.testing.assert_allclose(np.array(decoded), wanted, rtol=0, atol=atol)


def test_training_is_the_reference(backend, setting, trained):
    config, (train, wanted) = setting.config, trained
    engine, params = backend.Engine(config, np.float64), setting.params.copy()
    m, v, losses = np.zeros_like(params), np.zeros_like(params), np.full(3, np.nan)
    order = np.arange(6) % 4  # two documents a step, wrapping
    starts, lengths = setting.starts[order], setting.lengths[order]
    lr = train.learning_rate * (1 - np.arange(3) / 3)
    adam = (train.beta1, train.beta2, train.eps_adam, 0.0)

    engine.train_steps(losses[:1], params, m, v, setting.tokens, starts[:2], lengths[:2], 2, lr[:1], adam, 1)
    loss, wanted_m, wanted_v, wanted_params = wanted[0]
    assert losses[0] == pytest.approx(loss, rel=1e-12)
    assert_tensors_close(m, wanted_m, config, 1e-12)
    assert_tensors_close(v, wanted_v, config, 1e-12)
    # Adam divides by the gradient's own size: what rounding leaves of a tiny one counts 1 / eps times
    assert_tensors_close(params, wanted_params, config, 1e-8)

    engine.train_steps(losses[1:], params, m, v, setting.tokens, starts[2:], lengths[2:], 2, lr[1:], adam, 2)
    np.testing.assert_allclose(losses, [loss for loss, *_ in wanted], rtol=1e-8)
    for got, tensors in zip((m, v, params), wanted[-1][1:]):
        assert_tensors_close(got, tensors, config, 1e-8)


def assert_a_step_takes_the_gradient(backend, config, params, random, tolerance):
    """A training step with a rate of 0 leaves in m what `backward` computes by other code."""
    tokens = random.integers(0, 27, 40).astype(np.int32)
    batch = tokens, np.array([0, 17]), np.array([16, 13], np.int32)
    engine = backend.Engine(config, params.dtype)
    grads, m, v, losses = np.zeros_like(params), np.zeros_like(params), np.zeros_like(params), np.empty(1)
    wanted, before = engine.backward(grads, params, *batch), params.copy()
    engine.train_steps(losses, params, m, v, *batch, 2, np.zeros(1), (0.5, 0.99, 1e-8, 0.0), 1)
    assert np.isfinite(grads).all()
    assert losses[0] == pytest.approx(wanted.mean(), rel=tolerance)
    assert_tensors_close(2 * m, grads, config, tolerance)
    assert np.array_equal(params, before)


@pytest.mark.thorough(backend="numba")  # which compiles for each kind of model
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-3), (np.float64, 1e-11)])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n_head", [1, 2, 4])
def test_scores_whose_exponentials_overflow(backend, n_head, sign, dtype, tolerance):
    """Training steps of narrow models leave the maximum in the softmax out where scores are small."""
    config = GPTConfig(27, n_embd=16, n_head=n_head, block_size=16)
    random = np.random.default_rng(1)
    params, first = random.normal(0, 0.05, config.num_params).astype(dtype), 0
    for name, (rows, columns) in config.shapes().items():
        matrix = params[first : first + rows * columns].reshape(rows, columns)
        if name == "wte":  # tokens that differ little: so do their scores, which are about +-100
            matrix += 1
        if name.endswith(("attn_wq", "attn_wk")):
            np.fill_diagonal(matrix, 5 * n_head**0.25 * (sign if name.endswith("wq") else 1))
        first += rows * columns
    assert_a_step_takes_the_gradient(backend, config, params, random, tolerance)


@pytest.mark.thorough(backend="numba")  # which compiles for each kind of model
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 3e-3), (np.float64, 1e-11)])
@pytest.mark.parametrize("logit", [-100, 100, 190, 250, 350])
def test_logits_whose_exponentials_overflow_or_vanish(backend, logit, dtype, tolerance):
    """Training steps of narrow models leave the maximum in the loss out where logits are small."""
    config = GPTConfig(27, n_embd=16, block_size=16)
    random = np.random.default_rng(1)
    params, first = random.normal(0, 0.05, config.num_params).astype(dtype), 0
    for name, (rows, columns) in config.shapes().items():
        matrix = params[first : first + rows * columns].reshape(rows, columns)
        if name == "wte":  # tokens that differ little, so that x is close to 1 everywhere
            matrix += 1
        if name == "lm_head":
            matrix += logit / columns
        first += rows * columns
    assert_a_step_takes_the_gradient(backend, config, params, random, tolerance)


@pytest.mark.thorough(backend="numba")  # which compiles for each kind of model
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sizes", "batch_size"),
    [(dict(n_embd=16), 9), (dict(n_embd=16), 40), (dict(n_embd=32, n_layer=2, n_head=2), 71),
     (dict(n_embd=16, n_head=1, block_size=100), 5), (dict(n_embd=20, block_size=64), 90)],
)  # fmt: skip
def test_a_large_batch_moves_by_the_gradient_of_its_mean_loss(backend, sizes, batch_size, dtype):
    """Training alone sums in shares the gradients of narrow models, and in pieces of 2,048 tokens those of others."""
    config = GPTConfig(29, **sizes)
    random = np.random.default_rng(batch_size)
    params = random.normal(0, 0.2, config.num_params).astype(dtype)
    lengths = random.integers(1, config.block_size + 1, batch_size).astype(np.int32)
    tokens = random.integers(0, 29, 500).astype(np.int32)
    batch = tokens, random.integers(0, 500 - config.block_size - 1, batch_size), lengths
    engine = backend.Engine(config, dtype)
    grads, m, v, losses = np.zeros_like(params), np.zeros_like(params), np.zeros_like(params), np.empty(1)
    wanted = engine.backward(grads, params, *batch)
    adam = (0.5, 0.99, 1e-8, 0.0)
    engine.train_steps(losses, params, m, v, *batch, batch_size, np.zeros(1), adam, 1)
    assert losses[0] == pytest.approx(wanted.mean(), rel=TOLERANCE[dtype])
    assert_tensors_close(2 * m, grads, config, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("name", "error"),
    # from zero-initialised matrices on, Adam enlarges what rounding leaves of tiny gradients
    [("census_default", 1e-12), ("names_default", 1e-12), ("cfg_l1_e16_h1_b8", 1e-12),
     ("odd_l3_e9_h3_b5", 1e-12), ("first_revision_model", 1e-9), ("odd_relu2_l2_e14_h2_b3", 1e-9)],
)  # fmt: skip
def test_a_whole_run_is_the_original(backend, original_run, name, error):
    run = original_run(name)
    config, train = run.config, run.train
    stream = seeded(train.seed, backend)
    stream.permutation(len(run.documents))
    params = np.empty(config.num_params)
    if train.zero_init:
        first = 0
        for matrix, (rows, columns) in config.shapes().items():
            std = 0 if matrix.endswith(("attn_wo", "mlp_fc2")) else train.init_std
            stream.normal(params[first : first + rows * columns], std)
            first += rows * columns
    else:
        stream.normal(params, train.init_std)
    np.testing.assert_allclose(params[:8], run.figures["initial_head"], rtol=1e-14)

    used = [run.documents[step % len(run.documents)] for step in range(train.num_steps)]
    lengths = np.array([min(config.block_size, len(document) - 1) for document in used], np.int32)
    starts = np.cumsum([0, *map(len, used)])[:-1]
    m, v, losses = np.zeros_like(params), np.zeros_like(params), np.full(train.num_steps, np.nan)
    lr = train.learning_rate * (1 - np.arange(train.num_steps) / train.num_steps)
    adam = (train.beta1, train.beta2, train.eps_adam, 0.0)
    engine = backend.Engine(config, np.float64)
    tokens = np.concatenate(used).astype(np.int32)
    engine.train_steps(losses, params, m, v, tokens, starts, lengths, 1, lr, adam, 1)

    assert [f"{loss:.4f}" for loss in losses] == [f"{loss:.4f}" for loss in run.figures["losses"]]
    np.testing.assert_allclose(params, run.figures["final_parameters"], rtol=0, atol=error)
    decoder = engine.decoder(params)
    samples = [run.text(decoder.generate(stream, run.bos, train.temperature)) for _ in range(20)]
    assert samples == run.figures["samples"].tolist()


@pytest.mark.parametrize(
    ("change", "index", "value"),
    [("tokens", 2, 27), ("tokens", 9, -1), ("lengths", 1, 0), ("lengths", 1, 17), ("lengths", 0, -1),
     ("starts", 0, -1), ("starts", 1, 90), ("starts", 1, 10**12)],
)  # fmt: skip
def test_a_document_out_of_range_is_refused_before_anything_is_written(backend, change, index, value):
    config = GPTConfig(27)
    engine = backend.Engine(config, np.float64)
    params = np.random.default_rng(0).standard_normal(config.num_params)
    tokens = np.arange(100, dtype=np.int32) % 27
    batch = dict(tokens=tokens, starts=np.array([30, 0]), lengths=np.array([4, 16], np.int32))
    batch[change][index] = value
    logits = np.zeros((batch["lengths"].sum(), 27))
    with pytest.raises(IndexError):
        engine.forward(params, **batch, logits=logits)
    with pytest.raises(IndexError):
        grads = np.zeros_like(params)
        engine.backward(grads, params, **batch)
    assert not logits.any() and not grads.any()
    losses, before, m, v = np.zeros(2), params.copy(), np.zeros_like(params), np.zeros_like(params)
    with pytest.raises(IndexError):
        lr, adam = np.full(2, 0.01), (0.85, 0.99, 1e-8, 0.0)
        engine.train_steps(losses, params, m, v, *batch.values(), 1, lr, adam, 1)
    assert np.array_equal(params, before) and not (losses.any() or m.any() or v.any())


@pytest.mark.parametrize(("token", "position"), [(27, 0), (-1, 0), (0, 16), (0, -1)])
def test_decoding_out_of_range(backend, token, position):
    config = GPTConfig(27)
    decoder = backend.Engine(config, np.float64).decoder(np.zeros(config.num_params))
    with pytest.raises(IndexError):
        decoder.step(token, position)


def test_numerics_that_a_backend_lacks(backend):
    with pytest.raises(ValueError, match="numerics"):
        backend.Engine(GPTConfig(27), np.float64, numerics="loose")
    if not backend.HAS_EXACT:
        with pytest.raises(ValueError, match="exact"):
            backend.Engine(GPTConfig(27), np.float64, numerics="exact")


@pytest.mark.parametrize("vocab_size", [13, 27])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_of_a_call_stays_for_the_next(backend, vocab_size, dtype):
    """Rows that fill up a tile are computed from what is there: it must not decide how the others are."""
    config, random = GPTConfig(vocab_size), np.random.default_rng(3)
    tokens, lengths = (
        random.integers(0, vocab_size, 200).astype(np.int32),
        np.array([5, 9, 7, 3, 11, 15, 16], np.int32),
    )
    initial, rates = random.normal(0, 0.1, config.num_params).astype(dtype), np.full(7, 1e-3)

    def train(engine, params):
        params, losses = params.copy(), np.empty(7)
        m, v = np.zeros_like(params), np.zeros_like(params)
        engine.train_steps(
            losses, params, m, v, tokens, np.arange(7) * 20, lengths, 1, rates, (0.85, 0.99, 1e-8, 0.0), 1
        )
        return b"".join(array.tobytes() for array in (losses, params, m, v))

    engine, wanted = backend.Engine(config, dtype), train(backend.Engine(config, dtype), initial)
    for factor in (1000, np.nan):
        train(engine, initial * dtype(factor))
        assert train(engine, initial) == wanted
