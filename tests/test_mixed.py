"""Mixed precision: bfloat16 operands, float32 sums and state."""

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import backends, cli
from microgpt_fast.config import GPTConfig, UsageError
from microgpt_fast.random_stream import seeded

ADAM = (0.85, 0.99, 1e-8, 0.01)
GRADIENT, TYPICAL = 6e-2, 3e-2  # largest and median error of a tensor's gradient, relative to its norm

# configuration and lengths of documents: widths, heads and vocabularies that nothing divides, odd lengths, both kinds
# of activation, several blocks of queries and keys, several panels
CASES = {
    "one-block": (GPTConfig(27, 1, 64, 4, 64), [64]),
    "odd": (GPTConfig(30, 2, 48, 3, 41), [41, 7, 1, 40]),
    "heads-of-5": (GPTConfig(27, 2, 20, 4, 33), [33, 5, 2]),
    "heads-of-80": (GPTConfig(131, 1, 160, 2, 131), [131, 99]),
    "gelu": (GPTConfig(65, 2, 36, 3, 50, "gelu"), [50, 13]),
    "relu2": (GPTConfig(5, 1, 64, 1, 20, "relu2"), [20, 3, 3]),
}


@pytest.fixture(scope="module")
def compiled():
    try:
        return backends.load("cython")
    except backends.BackendError as error:
        pytest.skip(str(error))


@pytest.fixture
def each_isa(compiled):
    """The instruction sets, one after the other in use."""

    def use():
        for isa in compiled.isas():
            compiled.use_isa(isa)
            yield isa

    before = compiled.active_isa()
    yield use
    compiled.use_isa(before)


def batch_of(config, lengths, seed=1):
    """(tokens, starts, lengths) of random documents, end to end."""
    lengths = np.array(lengths, np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    size = int(np.sum(lengths + 1))
    return np.random.default_rng(seed).integers(0, config.vocab_size, size).astype(np.int32), starts, lengths


def parameters_of(config):
    std = min(0.08, 0.6 / np.sqrt(config.n_embd))
    return np.random.default_rng(0).normal(0, std, config.num_params).astype(np.float32)


def trained(engine, config, batch, steps=3):
    """(losses, parameters, moments) after a few steps with the same batch."""
    tokens, starts, lengths = batch
    state = [parameters_of(config), *np.zeros((2, config.num_params), np.float32)]
    losses = np.empty(steps)
    repeated = np.tile(starts, steps), np.tile(lengths, steps)
    engine.train_steps(losses, *state, tokens, *repeated, len(starts), np.full(steps, 0.01), ADAM, 1)
    return losses, *state


def all_bytes(arrays):
    return b"".join(array.tobytes() for array in arrays)


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_the_same_on_every_instruction_set_and_number_of_threads(compiled, each_isa, case):
    config, lengths = CASES[case]
    batch, found = batch_of(config, lengths), {}
    for isa in each_isa():
        for threads in (1, 3):
            engine = compiled.Engine(config, "bfloat16", threads=threads)
            gradient = np.zeros(config.num_params, np.float32)
            losses = engine.backward(gradient, parameters_of(config), *batch)
            found[isa, threads] = all_bytes([losses, gradient, *trained(engine, config, batch)])
    first = next(iter(found))
    assert [key for key, value in found.items() if value != found[first]] == []


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_float64_but_for_rounding(compiled, case):
    config, lengths = CASES[case]
    batch, p = batch_of(config, lengths), parameters_of(config)
    gradient, wanted = np.zeros(config.num_params, np.float32), np.zeros(config.num_params)
    losses = compiled.Engine(config, "bfloat16").backward(gradient, p, *batch)
    right = compiled.Engine(config, "float64").backward(wanted, p.astype(np.float64), *batch)
    np.testing.assert_allclose(losses, right, atol=0.02)
    errors = {
        one.name: np.linalg.norm((gradient - wanted)[one.place]) / np.linalg.norm(wanted[one.place])
        for one in config.parameters()
    }
    assert {name: error for name, error in errors.items() if not error < GRADIENT} == {}
    assert 1e-4 < np.median(list(errors.values())) < TYPICAL  # rounded at all, and no more than that


def rounded(x):
    """float32 rounded to bfloat16, to nearest even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def sixteen_lanes(x):
    """The sum of a row as docs/kernels.md defines it."""
    lanes = np.zeros(16, np.float32)
    for i in range(0, len(x), 16):
        lanes[: len(x[i : i + 16])] += x[i : i + 16]
    for distance in (8, 4, 2, 1):
        lanes = lanes[:distance] + lanes[distance : 2 * distance]
    return lanes[0]


@pytest.mark.parametrize("C", [16, 21, 80])
def test_logits_are_these_operations_bit_for_bit(compiled, each_isa, C):
    """With matrices of zeros there remain the embedding, its norm and one product: NumPy does it in the same order."""
    config = GPTConfig(19, 1, C, 1, 4)
    draw = np.random.default_rng(3).standard_normal
    model = mg.GPT(config, dtype="bfloat16", backend="cython")
    for name in ("wte", "wpe", "lm_head"):
        model.tensors[name][:] = draw(model.tensors[name].shape)
    ids = [3, 18, 0, 7]
    x = model.tensors["wte"][ids] + model.tensors["wpe"]
    square = np.array([sixteen_lanes(row * row) for row in x], np.float32)
    x = rounded(x * (np.float32(1) / np.sqrt(square / np.float32(C) + np.float32(1e-5)))[:, None])
    w = rounded(model.tensors["lm_head"])
    wanted = np.zeros((4, 19), np.float32)
    for even in range(0, C, 2):
        for k in (even + 1, even):  # the odd element first
            if k < C:
                wanted += x[:, k, None] * w[:, k]
    for _ in each_isa():
        model.threads = 1  # a new engine
        assert np.array_equal(model.logits(ids), wanted)


@pytest.mark.parametrize("case", ["odd", "gelu"])
def test_a_step_is_a_gradient_and_an_update(compiled, case):
    config, lengths = CASES[case]
    engine, batch = compiled.Engine(config, "bfloat16"), batch_of(config, lengths)
    _, *wanted = trained(engine, config, batch, steps=1)
    state = [parameters_of(config), *np.zeros((2, config.num_params), np.float32)]
    gradient = np.zeros(config.num_params, np.float32)
    engine.backward(gradient, state[0], *batch)
    engine.update(*state, gradient, 0.01, ADAM, 1)
    assert all_bytes(state) == all_bytes(wanted)
    assert not gradient.any()


def test_gradients_are_clipped_and_accumulated(compiled):
    config, lengths = CASES["odd"]
    engine, batch = compiled.Engine(config, "bfloat16"), batch_of(config, lengths)
    once, twice = np.zeros((2, config.num_params), np.float32)
    engine.backward(once, parameters_of(config), *batch)
    for _ in range(2):
        engine.backward(twice, parameters_of(config), *batch)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5, atol=1e-7)
    state = [parameters_of(config), *np.zeros((2, config.num_params), np.float32)]
    norm = engine.update(*state, twice, 0.01, ADAM, 1, 2.0, 0.5)
    np.testing.assert_allclose(norm, np.linalg.norm(once.astype(np.float64)))
    np.testing.assert_allclose(state[1], 0.15 * 0.5 / norm * once, rtol=1e-4, atol=1e-9)


def test_a_batch_of_several_pieces(compiled):
    """Steps with more rows than pass at once: the same update, up to the order of its sums."""
    config = GPTConfig(11, 1, 16, 2, 60)
    engine, batch = compiled.Engine(config, "bfloat16"), batch_of(config, [59, 60] * 20)
    losses, *state = trained(engine, config, batch, steps=1)
    gradient = np.zeros(config.num_params, np.float32)
    wanted = engine.backward(gradient, parameters_of(config), *batch).mean()
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    np.testing.assert_allclose(state[1], 0.15 * gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_decoding_is_the_training_pass(compiled, each_isa, case):
    """Token by token, alone or beside others: the same on all instruction sets, and near the pass over all tokens."""
    config, _ = CASES[case]
    model = mg.GPT(config, dtype="bfloat16", backend="cython")
    model.parameters[:] = parameters_of(config)
    ids = np.random.default_rng(2).integers(0, config.vocab_size, config.block_size).tolist()
    wanted, found = model.logits(ids), []
    for _ in each_isa():
        engine = compiled.Engine(config, "bfloat16")
        decoder, streams = engine.decoder(model.parameters), engine.streams(model.parameters, 3)
        streams.step([1], [ids[-1]], [0])
        alone = np.array([decoder.step(token, i) for i, token in enumerate(ids)])
        beside = [streams.step([2, 0, 1], [token, 0, token], [i, i, i])[::2] for i, token in enumerate(ids)]
        assert np.array_equal(np.array(beside), np.stack([alone, alone], 1))
        found.append(alone)
    assert all(np.array_equal(found[0], alone) for alone in found)
    np.testing.assert_allclose(found[0], wanted, atol=0.02 * np.abs(wanted).max())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["wte", "lm_head", "layer0.attn_wv", "layer0.mlp_fc1"])
def test_what_is_not_finite_stays_so(each_isa, compiled, name, bad):
    config, lengths = CASES["odd"]
    p = parameters_of(config)
    [place] = [one.place for one in config.parameters() if one.name == name]
    p[place] = bad
    for _ in each_isa():
        losses = compiled.Engine(config, "bfloat16").forward(p, *batch_of(config, lengths))
        assert not np.isfinite(losses).any()


def test_a_training_is_resumed_with_its_bits(tmp_path):
    from microgpt_fast.training.resume import resume_training, save_training

    names = ["anna", "bob", "carla", "dora"]
    options = dict(
        dtype="bfloat16", n_embd=36, n_head=3, batch_size=2, num_steps=8, grad_clip=1.0, val_fraction=0.25
    )
    whole = mg.train(names, **options)
    half = mg.Trainer(names, **options)
    for _ in half.events():
        if half.step >= 1:
            break
    save_training(half, tmp_path / "half.safetensors")
    assert mg.load(tmp_path / "half.safetensors").dtype == "bfloat16"
    rest = resume_training(tmp_path / "half.safetensors", names)
    assert rest.config.dtype == "bfloat16" and rest.path == "mixed"
    for _ in rest.events():
        pass
    assert rest.model.parameters.tobytes() == whole.model.parameters.tobytes()
    assert rest.moments.tobytes() == whole.moments.tobytes()
    with pytest.raises(UsageError, match="keeps its dtype: bfloat16, not float32"):
        resume_training(tmp_path / "half.safetensors", names, dtype="float32")


@pytest.mark.parametrize("saved", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("wanted", [None, "float64", "float32", "bfloat16"])
def test_a_file_is_loaded_in_any_dtype(compiled, tmp_path, saved, wanted):
    config = GPTConfig(5, n_embd=12, block_size=4)
    model = mg.GPT(config, dtype=saved)
    model.initialise(seeded(1, model.backend))
    mg.save(model, tmp_path / "model.safetensors")
    loaded = mg.load(tmp_path / "model.safetensors", dtype=wanted)
    assert loaded.dtype == (wanted or saved)
    assert loaded.path == {"bfloat16": "mixed", "float32": "general", "float64": "exact"}[loaded.dtype]
    assert np.array_equal(loaded.parameters, model.parameters.astype(loaded.parameters.dtype))


@pytest.mark.parametrize(
    "options, text",
    [
        (["--backend", "numpy"], "dtype bfloat16 needs the compiled backend, not numpy"),
        (["--numerics", "exact"], "exact numerics need dtype float64, not bfloat16"),
    ],
)
def test_what_has_no_bfloat16_says_so(compiled, options, text, capsys):
    assert cli.main(["train", "--dtype", "bfloat16", "--num-steps", "1", *options]) == 2
    assert text in capsys.readouterr().err


def test_an_unknown_dtype_of_a_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown dtype 'float16'.*did you mean"):
        mg.load(tmp_path / "none", dtype="float16")
