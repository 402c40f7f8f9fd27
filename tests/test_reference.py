"""reference.py is the original, bit for bit, and its gradients are derivatives."""

import random
from itertools import islice

import numpy as np
import pytest

from microgpt_fast.config import GPTConfig, TrainConfig
from microgpt_fast.reference import ReferenceGPT, Scalar, backpropagate, initial_parameters

RUNS = [
    "census_default",
    "names_default",
    "cfg_l1_e16_h1_b8",
    "first_revision_model",
    "odd_l3_e9_h3_b5",
    "odd_relu2_l2_e14_h2_b3",
]
SMALL = GPTConfig(5, n_layer=2, n_embd=6, n_head=2, block_size=4)


def small_model(config=SMALL, seed=3):
    return ReferenceGPT(config, initial_parameters(config, random.Random(seed), std=0.5))


def split(flat, config):
    """The inverse of the `flatten` fixture."""
    parts, first = {}, 0
    for name, (rows, columns) in config.shapes().items():
        parts[name] = flat[first : first + rows * columns].reshape(rows, columns).tolist()
        first += rows * columns
    return parts


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_first_steps_are_the_original_bit_for_bit(name, original_run, flatten, same_libm):
    run = original_run(name)
    assert len(run.documents) == run.figures["num_docs"]
    parameters = initial_parameters(run.config, run.random, run.train.init_std, run.train.zero_init)
    model = ReferenceGPT(run.config, parameters)
    assert flatten(parameters)[:8].tobytes() == run.figures["initial_head"].tobytes()
    for step, (loss, gradients) in enumerate(islice(model.train_steps(run.documents, run.train), 20)):
        assert loss == run.figures["losses"][step]
        if step < 3:
            assert flatten(gradients).tobytes() == run.figures["gradients"][step].tobytes()
    if run.train.num_steps == 20:
        assert flatten(model.parameters).tobytes() == run.figures["final_parameters"].tobytes()


@pytest.mark.thorough
@pytest.mark.parametrize("name", RUNS)
def test_samples_of_the_trained_model_are_the_original(name, original_run):
    run = original_run(name)
    initial_parameters(run.config, run.random)  # the stream's state is then that after training
    model = ReferenceGPT(run.config, split(run.figures["final_parameters"], run.config))
    samples = [run.text(model.generate(run.random, run.bos, run.train.temperature)) for _ in range(20)]
    assert samples == run.figures["samples"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "relu2"])
def test_gradients_are_central_differences(activation):
    config = GPTConfig(5, n_layer=2, n_embd=6, n_head=2, block_size=4, activation=activation)
    documents = [4, 1, 0, 3, 1, 2, 4], [4, 2, 4]
    model = small_model(config)
    _, gradients = model.loss_and_gradients(*documents)
    step = 1e-6
    for name, rows in model.parameters.items():
        row, column = len(rows) // 2, len(rows[0]) // 3
        value, losses = rows[row][column], []
        for moved in (value + step, value - step):
            rows[row][column] = moved
            losses.append(model.loss_and_gradients(*documents)[0])
        rows[row][column] = value
        gradient = gradients[name][row][column]
        assert gradient != 0
        assert gradient == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6, abs=1e-9)


def test_batch_is_the_mean_of_documents_cut_to_the_block(flatten):
    model = small_model()
    documents = [4, 1, 0, 3, 1, 2, 4], [4, 2, 4], [4, 4]
    loss, gradients = model.loss_and_gradients(*documents)
    each = [model.loss_and_gradients(document) for document in documents]
    assert loss == pytest.approx(sum(single for single, _ in each) / 3, rel=1e-15)
    mean = sum(flatten(single) for _, single in each) / 3
    np.testing.assert_allclose(flatten(gradients), mean, rtol=1e-12, atol=1e-16)
    assert model.loss_and_gradients(documents[0])[0] == model.loss_and_gradients(documents[0][:5])[0]


def test_loss_is_the_cross_entropy_of_the_logits():
    model = small_model()
    tokens = [4, 1, 0, 3, 2]
    logits = np.array(model.logits(tokens[:4]))
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), tokens[1:]]
    assert model.loss_and_gradients(tokens)[0] == pytest.approx(losses.mean(), rel=1e-14)


def test_batches_wrap_around_the_documents():
    documents = [4, 1, 4], [4, 0, 2, 4], [4, 3, 4]
    train = TrainConfig(num_steps=2, batch_size=2)
    model, again = small_model(), small_model()
    losses = [loss for loss, _ in model.train_steps(documents, train)]
    batches = (documents[0], documents[1]), (documents[2], documents[0])
    for step, (batch, learning_rate) in enumerate(zip(batches, (0.01, 0.005)), start=1):
        loss, gradients = again.loss_and_gradients(*batch)
        again.adam_step(gradients, learning_rate, train.beta1, train.beta2, train.eps_adam, step)
        assert losses[step - 1] == loss
    assert model.parameters == again.parameters


def test_zero_initialised_matrices_consume_the_stream():
    plain = initial_parameters(SMALL, random.Random(1), std=0.5)
    zeroed = initial_parameters(SMALL, random.Random(1), std=0.5, zero_init=True)
    for name in plain:
        if name.endswith(("attn_wo", "mlp_fc2")):
            assert not np.any(zeroed[name]) and np.all(plain[name])
        else:
            assert zeroed[name] == plain[name]


def test_a_graph_deeper_than_the_recursion_limit():
    x = Scalar(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    backpropagate(y)
    assert (y.value, x.gradient) == (100_001.0, 1.0)


def test_a_shared_operand_gathers_every_use():
    x, y = Scalar(3.0), Scalar(2.0)
    z = x * x
    backpropagate(z * y + z)  # x² (y + 1)
    assert (x.gradient, y.gradient) == (18.0, 9.0)


@pytest.mark.parametrize("tokens", [[5, 1], [1, 5], [-1, 1]])
def test_tokens_out_of_range(tokens):
    with pytest.raises(IndexError, match=r"0 \.\. 4"):
        small_model().loss_and_gradients(tokens)
