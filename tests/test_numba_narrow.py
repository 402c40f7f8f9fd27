"""The training steps of narrow models on Numba, which the engine takes by the configuration alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

numba = pytest.importorskip("numba")

import microgpt_fast  # noqa: E402
from microgpt_fast import parameters  # noqa: E402
from microgpt_fast.backends import numba_backend, numba_general, numba_layout, numba_narrow, numba_simd  # noqa: E402
from microgpt_fast.backends import numpy_backend as twin  # noqa: E402
from microgpt_fast.config import GPTConfig  # noqa: E402

pytestmark = pytest.mark.slow

STEPS, ADAM = 3, (0.85, 0.99, 1e-8, 0.1)
RATES = np.array([0.01, 0.008, 0.003])
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}

# model, documents a step, dtype: every width and head; vocabularies and lengths that no tile fits
JOBS = {
    "default": (GPTConfig(27), 1, np.float64),
    "default-float32": (GPTConfig(27), 1, np.float32),
    "batch": (GPTConfig(27), 16, np.float32),
    "no-vocabulary": (GPTConfig(1, block_size=1), 3, np.float64),
    "large-vocabulary": (GPTConfig(301, n_layer=2, activation="relu2"), 5, np.float64),
    "longest-block": (GPTConfig(16, n_layer=3, block_size=64), 2, np.float32),
    "two-heads": (GPTConfig(17, n_layer=2, n_head=2, block_size=13), 7, np.float32),
    "one-head": (GPTConfig(33, n_head=1, block_size=35, activation="relu2"), 4, np.float64),
    "wide-eight-heads": (GPTConfig(5, n_layer=2, n_embd=32, n_head=8, block_size=11), 3, np.float32),
    "wide-four-heads": (GPTConfig(65, n_embd=32, n_head=4, block_size=9, activation="relu2"), 2, np.float64),
    "wide-two-heads": (GPTConfig(40, n_layer=2, n_embd=32, n_head=2, block_size=33), 3, np.float64),
}


def batch(config, B, seed=0):
    """Parameters, at which gradients do not vanish, and documents of a few steps."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, config.block_size + 1, STEPS * B).astype(np.int32)
    lengths[-1] = config.block_size
    starts = rng.integers(0, 500, STEPS * B)
    tokens = rng.integers(0, config.vocab_size, 600, np.int32)
    return rng.normal(0, 0.3, config.num_params), tokens, starts, lengths


def trained(engine, job, steps=STEPS, calls=1):
    """Losses, parameters and moments after some steps in one call or in several."""
    config, B, dtype = job
    params, tokens, starts, lengths = batch(config, B)
    params = params.astype(dtype)
    m, v, losses = np.zeros_like(params), np.zeros_like(params), np.full(steps, np.nan)
    for part in np.array_split(np.arange(steps), calls):
        rows = slice(part[0] * B, (part[-1] + 1) * B)
        part_losses = np.full(len(part), np.nan)
        engine.train_steps(
            part_losses, params, m, v, tokens, starts[rows], lengths[rows], B, RATES[part], ADAM, part[0] + 1
        )
        losses[part] = part_losses
    return losses, params, m, v


def assert_parity(job, path="narrow"):
    config, _, dtype = job
    assert numba_backend.Engine(config, dtype).path == path
    for steps in (1, STEPS):
        got = trained(numba_backend.Engine(config, dtype), job, steps)
        wanted = trained(twin.Engine(config, np.float64), (*job[:2], np.float64), steps)
        # the first moments are the gradient; Adam's division enlarges what rounding leaves of a tiny one
        bounds = np.array([1, 1e4, 1, 1]) * (1 if steps == 1 else 1e4) * TOLERANCE[dtype]
        for name, x, y, bound in zip(("losses", "params", "m", "v"), got, wanted, np.minimum(bounds, 0.05)):
            np.testing.assert_allclose(x, y, rtol=0, atol=bound * max(abs(y).max(), 1e-30), err_msg=name)


TWIN_JOBS = [
    pytest.param(
        job,
        id=name,
        marks=[pytest.mark.thorough] * (name in ("wide-eight-heads", "wide-four-heads", "one-head")),
    )
    for name, job in JOBS.items()
]


@pytest.mark.parametrize("job", TWIN_JOBS)
def test_steps_are_the_twins(job):
    assert_parity(job)


@pytest.mark.parametrize("name", ["default", "batch", "wide-eight-heads", "large-vocabulary"])
def test_steps_in_one_call_or_in_many_have_the_same_bits(name):
    job = JOBS[name]
    engine = numba_backend.Engine(job[0], job[2])
    once, again, one_by_one = trained(engine, job), trained(engine, job), trained(engine, job, calls=STEPS)
    for x, y, z in zip(once, again, one_by_one):
        assert x.tobytes() == y.tobytes() == z.tobytes()


def test_nothing_of_a_call_stays_for_the_next():
    """Rows beyond the batch are computed from what is there: not a diverged run's NaN."""
    job = config, B, dtype = JOBS["default-float32"]
    engine = numba_backend.Engine(config, dtype)
    params, *documents = batch(config, B)
    hopeless = np.full(config.num_params, np.nan, dtype)
    m, v, losses = np.zeros_like(hopeless), np.zeros_like(hopeless), np.zeros(STEPS)
    engine.train_steps(losses, hopeless, m, v, *documents, B, RATES, ADAM, 1)
    assert np.isnan(losses).all()
    for x, y in zip(trained(engine, job), trained(numba_backend.Engine(config, dtype), job)):
        assert x.tobytes() == y.tobytes()


def test_large_scores_and_logits():
    """The maximum is subtracted before the exponential."""
    config, B, dtype = JOBS["default"]
    params, *documents = batch(config, B)
    params = params * 100
    results = []
    for backend in (numba_backend, twin):
        p, m, v, losses = params.copy(), np.zeros_like(params), np.zeros_like(params), np.zeros(1)
        one = [documents[0], *(part[:B] for part in documents[1:])]
        backend.Engine(config, dtype).train_steps(losses, p, m, v, *one, B, RATES[:1], ADAM, 1)
        results.append((losses, m))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12) and results[0][0] > 100
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=0, atol=1e-9 * abs(results[1][1]).max())


def test_denormal_moments_become_zero_and_the_process_keeps_its_own():
    config, B, dtype = JOBS["default-float32"]
    engine = numba_backend.Engine(config, dtype)
    params, tokens, starts, lengths = batch(config, B)
    params = params.astype(dtype)
    m, v, losses = np.full_like(params, 1e-38), np.full_like(params, 1e-38), np.zeros(STEPS)
    engine.train_steps(losses, params, m, v, np.zeros_like(tokens), starts, lengths, B, RATES, ADAM, 1)
    assert not m[3 * 16 : 4 * 16].any()  # of token 3, which did not occur
    tiny = np.array([1e-40], np.float32)
    assert (tiny * np.float32(1)).item() == tiny.item() != 0


@pytest.mark.parametrize(
    "change", [dict(block_size=65), dict(n_embd=64), dict(n_embd=24, n_head=6), dict(n_head=8)], ids=str
)
def test_other_models_take_the_general_path(change):
    config = GPTConfig(27, **change)
    assert not numba_narrow.serves(config) and numba_general.serves(config)
    assert numba_backend.Engine(config, np.float64).path == "general"


def test_a_path_is_not_to_be_chosen():
    engine = numba_backend.Engine(GPTConfig(27), np.float32)
    assert engine.path == "narrow" and twin.Engine(GPTConfig(27), np.float32).path == "composed"
    with pytest.raises(AttributeError):
        engine.path = "general"


@pytest.mark.parametrize(
    "change",
    [dict(name="attn_query"), dict(name="attn_wo"), dict(tied_to="attn_wo"), dict(shape=(8, 16))],
    ids=str,
)
def test_a_model_with_other_parameters_is_composed_of_kernels(monkeypatch, change):
    """What jitted code knows of the table of parameters it asks; what it does not know it does not serve."""
    whole = parameters.of_a_layer

    def changed(config):
        first, *others = whole(config)
        return (first._replace(**change), *others)

    config = GPTConfig(27)
    monkeypatch.setattr(numba_layout, "of_a_layer", changed)
    assert not numba_narrow.serves(config) and not numba_general.serves(config)
    assert numba_backend.Engine(config, np.float64).path == "composed"


@pytest.mark.parametrize(("path", "n_embd"), [("narrow", 16), ("general", 24)])
def test_where_parameters_lie_is_read_from_their_table(monkeypatch, path, n_embd):
    """The twin goes by names: the same table in another order is the same model."""
    whole = parameters.of_a_layer

    def reordered(config):
        return sorted(whole(config), key=lambda p: (not p.name.startswith("mlp"), p.name == "attn_wo"))

    for module in (parameters, numba_layout):
        monkeypatch.setattr(module, "of_a_layer", reordered)
    config = GPTConfig(29, n_layer=2, n_embd=n_embd, block_size=13)
    assert [name for name in config.shapes() if name.startswith("layer1")][0] == "layer1.mlp_fc1"
    assert_parity((config, 3, np.float64), path)


def test_everything_works_composed_of_kernels(monkeypatch):
    monkeypatch.setattr(numba_layout, "OF_A_LAYER", ())
    assert_parity(JOBS["wide-two-heads"], "composed")
    assert_parity(JOBS["two-heads"], "composed")
    config, B, dtype = JOBS["wide-two-heads"]
    params, *documents = batch(config, B)
    results = []
    for backend in (numba_backend, twin):
        engine, gradient = backend.Engine(config, dtype), np.zeros_like(params)
        losses = engine.forward(params, *documents), engine.backward(gradient, params, *documents)
        results.append([*losses, gradient, engine.decoder(params).step(3, 0)])
    for x, y in zip(*results):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-12 * abs(y).max())


WIDTHS = """
import sys
sys.path.insert(0, sys.argv[1])
import test_numba_narrow as t
for name in sys.argv[2:]:
    t.assert_parity(t.JOBS[name])
print(t.numba_simd.VECTOR_BYTES)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not numba_simd.X86, reason="needs an x86-64 processor")
@pytest.mark.parametrize(
    ("features", "jobs", "bytes_wide"),
    [("", ["wide-two-heads"], 16),
     pytest.param("+avx,+avx2,+fma", ["default-float32", "batch", "longest-block"], 32,
                  marks=pytest.mark.skipif(numba_simd.VECTOR_BYTES < 32, reason="needs AVX2"))],
)  # fmt: skip
def test_narrower_vectors_compute_the_same(features, jobs, bytes_wide):
    source = str(Path(microgpt_fast.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    changes = dict(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=features, PYTHONPATH=path)
    command = [sys.executable, "-c", WIDTHS, str(Path(__file__).parent), *jobs]
    run = subprocess.run(command, env={**os.environ, **changes}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{bytes_wide}\n"
