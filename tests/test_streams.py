"""Many samples at once: the batch is full, and no stream knows of the others."""

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast.config import GPTConfig, UsageError
from microgpt_fast.data.tokenizer import Tokenizer
from microgpt_fast.model import GPT
from microgpt_fast.random_stream import sampling_weights, seeded
from microgpt_fast.sampling.sample import Writer, generate

CONFIGS = [
    GPTConfig(4, n_embd=16, n_head=4, block_size=9),  # the narrow path decodes one stream
    GPTConfig(4, n_layer=2, n_embd=40, n_head=4, block_size=21),
    GPTConfig(4, n_layer=2, n_embd=9, n_head=3, block_size=5, activation="relu2"),
]


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture(params=CONFIGS, ids=lambda config: f"n_embd={config.n_embd}")
def model(request, dtype, backend):
    model = GPT(request.param, Tokenizer("abc"), dtype=dtype, backend=mg.backends.name_of(backend))
    model.parameters[:] = np.random.default_rng(0).normal(0, 0.12, model.parameters.size)
    return model


@pytest.fixture
def compiled(backend):
    if not backend.HAS_EXACT:
        pytest.skip("a promise of the compiled backend")
    return backend


def fast_engine(model):
    return model.backend.Engine(model.config, model.parameters.dtype, "fast")


def test_streams_are_the_decoder(model, dtype):
    engine, size = fast_engine(model), 5
    streams, tolerance = engine.streams(model.parameters, size), 1e-12 if dtype == "float64" else 2e-5
    tokens = np.random.default_rng(1).integers(0, 4, (size, model.config.block_size))
    began = [0, 2, 1, 0, 2]  # streams need not be at the same position
    logits = np.full((*tokens.shape, 4), np.nan)
    for step in range(model.config.block_size + 2):
        live = [i for i in (3, 1, 4, 0, 2) if 0 <= step - began[i] < model.config.block_size]
        at = [step - began[i] for i in live]
        logits[live, at] = streams.step(live, [tokens[i, t] for i, t in zip(live, at)], at)
    for document, wanted in zip(tokens.tolist(), logits):
        decoder = engine.decoder(model.parameters)
        alone = [decoder.step(token, position) for position, token in enumerate(document)]
        np.testing.assert_allclose(wanted, alone, rtol=tolerance, atol=tolerance)


def test_a_draw_is_a_choice_by_the_softmax_of_a_step(model):
    size, temperature = 5, 0.7
    streams, twins = (fast_engine(model).streams(model.parameters, size) for _ in range(2))
    randoms, alone = ([seeded(i, model.backend) for i in range(size)] for _ in range(2))
    slots, tokens = [4, 0, 2, 3], [0, 1, 2, 3]
    for position in range(model.config.block_size):
        reads = {slot for slot in slots if (slot + position) % 3 == 0}
        drawn = streams.draw(
            slots, tokens, [position] * 4, [None if i in reads else randoms[i] for i in slots], temperature
        )
        weights = sampling_weights(twins.step(slots, tokens, [position] * 4), temperature)
        assert drawn.dtype == np.int32
        assert drawn.tolist() == [
            -1 if i in reads else alone[i].choices(row) for i, row in zip(slots, weights)
        ]
        tokens = [max(token, 0) for token in drawn.tolist()]
    assert [random.getstate() for random in randoms] == [random.getstate() for random in alone]
    with pytest.raises(ValueError):
        streams.draw([0, 1], [0, 0], [0, 0], randoms[:1], temperature)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_streams_bits_do_not_depend_on_the_batch(compiled, dtype, threads):
    config = GPTConfig(65, n_layer=2, n_embd=48, n_head=3, block_size=33)
    params = np.random.default_rng(0).normal(0, 0.2, config.num_params).astype(dtype)
    tokens = np.random.default_rng(1).integers(0, 65, (64, 33)).tolist()
    results = []
    for size in (1, 2, 7, 64):
        engine = compiled.Engine(config, dtype, "fast", threads)
        streams = engine.streams(params, size)
        slots = list(range(size))[::-1]
        rows = [streams.step(slots, [tokens[i][t] for i in slots], [t] * size) for t in range(33)]
        results.append(np.array(rows)[:, -1])  # stream 0
    assert all(result.tobytes() == results[0].tobytes() for result in results)


@pytest.mark.parametrize("head_dim", [4, 8, 16])
@pytest.mark.parametrize("n_embd", [16, 32])
@pytest.mark.parametrize("vocab_size", [3, 27, 65, 130])
def test_the_narrow_decoder_is_the_forward_pass(compiled, dtype, n_embd, head_dim, vocab_size):
    activation = "relu2" if vocab_size == 27 else "relu"
    config = GPTConfig(
        vocab_size, n_layer=2, n_embd=n_embd, n_head=n_embd // head_dim, block_size=19, activation=activation
    )
    random = np.random.default_rng(0)
    params = random.normal(0, 0.3, config.num_params).astype(dtype)
    engine = compiled.Engine(config, dtype)
    decoder = engine.decoder(params)
    for length in (19, 7):  # the second document does not see the first
        tokens = random.integers(0, vocab_size, length + 1).astype(np.int32)
        wanted = np.empty((length, vocab_size), dtype)
        engine.forward(params, tokens, np.zeros(1, np.int64), np.array([length], np.int32), wanted)
        logits = [decoder.step(int(token), position) for position, token in enumerate(tokens[:-1])]
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


OPTIONS = [
    {}, {"prompt": "ab", "max_new_tokens": 30}, {"top_k": 2}, {"top_p": 0.7, "prompt": "c" * 25}, {"stop": "ab"},
    {"max_new_tokens": 0, "prompt": "a"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_samples_do_not_depend_on_the_batch(model, options):
    texts = [generate(model, 12, 1.0, seed=5, batch_size=size, **options) for size in (2, 5, 64)]
    assert texts[0] == texts[1] == texts[2]
    assert generate(model, 3, 1.0, seed=5, batch_size=3, **options) == texts[0][:3]
    if options.get("max_new_tokens") != 0:
        assert len(set(texts[0])) > 1
        assert texts[0] != generate(model, 12, 1.0, seed=6, batch_size=5, **options)


@pytest.mark.parametrize("options", OPTIONS[:-1], ids=str)
def test_a_sample_is_what_its_own_stream_draws_alone(model, options):
    from microgpt_fast.random_stream import PythonRandom

    decoder = fast_engine(model).decoder(model.parameters)
    alone = []
    for number in range(4):
        random = PythonRandom(5 + (number + 1) * 2**64)
        alone.append("".join(Writer(model, decoder, random, 1.0, False, **options).pieces()))
    assert generate(model, 4, 1.0, seed=-5, batch_size=4, **options) == alone


def test_without_a_batch_the_originals_order_stays(model):
    assert generate(model, 5, seed=1, batch_size=1) == generate(model, 5, seed=1)
    assert generate(model, 0, batch_size=2) == []


def test_what_is_refused(model):
    for wrong in (0, -1, 1.5):
        with pytest.raises(UsageError, match="batch_size"):
            generate(model, 2, batch_size=wrong)
    with pytest.raises(UsageError, match="not `random`"):
        generate(model, 2, batch_size=2, random=object())
    streams = fast_engine(model).streams(model.parameters, 2)
    for slots, tokens, positions in (([2], [0], [0]), ([0], [4], [0]), ([0], [0], [99]), ([-1], [0], [0])):
        with pytest.raises(IndexError):
            streams.step(slots, tokens, positions)
    for slots, tokens, positions in (([0, 0], [0, 0], [0, 0]), ([0], [0, 1], [0]), ([], [], [])):
        with pytest.raises(ValueError):
            streams.step(slots, tokens, positions)
    with pytest.raises(ValueError, match="at least 1"):
        fast_engine(model).streams(model.parameters, 0)


def test_exact_numerics_have_no_streams(compiled):
    config = GPTConfig(4)
    engine = compiled.Engine(config, "float64", "exact")
    with pytest.raises(ValueError, match="exact numerics"):
        engine.streams(np.zeros(config.num_params), 2)


def test_the_command_draws_together(tmp_path, capsysbinary):
    from microgpt_fast.cli import main

    model = GPT(CONFIGS[0], Tokenizer("abc"), dtype="float32")
    model.parameters[:] = np.random.default_rng(0).normal(0, 0.12, model.parameters.size)
    mg.save(model, tmp_path / "model")
    arguments = ["sample", "--model", str(tmp_path / "model"), "--num-samples", "6", "--seed", "3"]
    assert main([*arguments, "--batch-size", "4"]) == 0
    out = capsysbinary.readouterr().out.decode()
    assert [line.partition(": ")[2] for line in out.splitlines() if line.startswith("sample ")] == generate(
        model, 6, seed=3, batch_size=2
    )
    assert main([*arguments, "--batch-size", "0"]) == 2
