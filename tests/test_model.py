import random

import numpy as np
import pytest

from microgpt_fast import backends
from microgpt_fast.config import GPTConfig, UsageError
from microgpt_fast.data.tokenizer import Tokenizer
from microgpt_fast.model import GPT, resolve_numerics
from microgpt_fast.random_stream import PythonRandom
from microgpt_fast.sampling.sample import generate


class WithExact:
    __name__ = "microgpt_fast.backends.cython_backend"
    HAS_EXACT = True

    @staticmethod
    def path_of(config, numerics):
        return "exact"


class WithoutExact:
    __name__ = "microgpt_fast.backends.numpy_backend"
    HAS_EXACT = False


@pytest.fixture(params=["float64", "float32"])
def model(request, backend):
    model = GPT(
        GPTConfig(4, n_layer=2, n_embd=6, n_head=3, block_size=5),
        Tokenizer("abc"),
        dtype=request.param,
        backend=backends.name_of(backend),
    )
    model.initialise(PythonRandom(3), std=0.5)
    return model


def test_tensors_are_views_of_the_parameters_in_order(model):
    assert np.array_equal(
        np.concatenate([tensor.ravel() for tensor in model.tensors.values()]), model.parameters
    )
    assert {name: tensor.shape for name, tensor in model.tensors.items()} == model.config.shapes()
    model.tensors["layer1.mlp_fc2"][-1, -1] = 7
    assert model.parameters[-1] == 7


def test_parameters_are_drawn_in_the_order_of_the_buffer(model):
    stream = random.Random(3)
    expected = np.array([stream.gauss(0, 0.5) for _ in range(model.config.num_params)])
    assert np.array_equal(model.parameters, expected.astype(model.parameters.dtype))


def test_zero_initialised_matrices_still_draw():
    model = GPT(GPTConfig(4, n_layer=2), backend="numpy")
    model.initialise(PythonRandom(3), std=0.02, zero_init=True)
    stream = random.Random(3)
    for name, tensor in model.tensors.items():
        std = 0 if name.split(".")[-1] in ("attn_wo", "mlp_fc2") else 0.02
        assert tensor.ravel().tolist() == [stream.gauss(0, std) for _ in range(tensor.size)]


def test_logits_equal_those_of_the_decoder(model):
    ids = [3, 0, 2, 1, 1]
    logits = model.logits(ids)
    assert logits.dtype == model.parameters.dtype
    decoder = model.engine.decoder(model.parameters)
    steps = [decoder.step(token, position) for position, token in enumerate(ids)]
    tolerance = 1e-12 if logits.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(logits, steps, rtol=tolerance, atol=tolerance)


def test_logits_refuse_what_does_not_fit(model):
    with pytest.raises(UsageError, match="1 ... 5 tokens, not 6"):
        model.logits([0] * 6)
    with pytest.raises(UsageError, match="not 0"):
        model.logits([])
    with pytest.raises(IndexError):
        model.logits([4])


def test_generate_is_seeded_and_can_continue_a_stream(model):
    texts = generate(model, num_samples=6, temperature=0.8, seed=1)
    assert texts == generate(model, num_samples=6, temperature=0.8, seed=1)
    assert texts != generate(model, num_samples=6, temperature=0.8, seed=2)
    assert all(set(text) <= set("abc") and len(text) <= 5 for text in texts)
    from microgpt_fast.random_stream import seeded

    stream = seeded(1, model.backend)
    assert generate(model, 2, 0.8, random=stream) + generate(model, 4, 0.8, random=stream) == texts


def test_a_temperature_near_zero_takes_the_likeliest(model):
    assert generate(model, 3, 1e-45, seed=1) == generate(model, 3, 1.0, seed=2, top_k=1)


def test_generate_refuses_what_cannot_be_drawn(model):
    with pytest.raises(UsageError, match="temperature"):
        generate(model, 1, temperature=-1)
    model.parameters[:] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        generate(model, 1)
    with pytest.raises(UsageError, match="tokenizer"):
        generate(GPT(GPTConfig(4), backend="numpy"), 1)
    with pytest.raises(UsageError, match="3 ids, the model 4"):
        GPT(GPTConfig(4), Tokenizer("ab"), backend="numpy")


@pytest.mark.parametrize(
    "asked, dtype, batch_size, backend, result",
    [
        (None, "float64", 1, WithExact(), "exact"),
        ("exact", "float64", 1, WithExact(), "exact"),
        ("fast", "float64", 1, WithExact(), "fast"),
        ("fast", "float64", 8, WithoutExact(), "fast"),
        (None, "float32", 8, WithExact(), "fast"),
        ("fast", "float32", 1, WithExact(), "fast"),
    ],
)
def test_numerics_chosen_silently(asked, dtype, batch_size, backend, result):
    assert resolve_numerics(asked, dtype, batch_size, backend, GPTConfig(4)) == (result, None)


@pytest.mark.parametrize(
    "batch_size, backend, reason",
    [
        (1, WithoutExact(), "the numpy backend has no exact numerics"),
        (2, WithExact(), "batch_size 1, not 2"),
    ],
)
def test_numerics_that_fall_back_say_so(batch_size, backend, reason):
    numerics, note = resolve_numerics(None, "float64", batch_size, backend, GPTConfig(4))
    assert numerics == "fast" and reason in note
    with pytest.raises(UsageError, match=reason):
        resolve_numerics("exact", "float64", batch_size, backend, GPTConfig(4))


def test_exact_numerics_are_float64():
    with pytest.raises(UsageError, match="float64, not float32"):
        resolve_numerics("exact", "float32", 1, WithExact(), GPTConfig(4))
