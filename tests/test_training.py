import itertools

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import backends
from microgpt_fast.config import TrainConfig, UsageError
from microgpt_fast.random_stream import PythonRandom
from microgpt_fast.training import pace
from microgpt_fast.training import trainer as training
from microgpt_fast.training.trainer import Trainer
from microgpt_fast.training.whole import train

NAMES = ["anna", "bob", "hannah", "otto", "b"]


@pytest.mark.parametrize(
    "preset, run, options",
    [
        ("microgpt", "census_default", {}),
        ("microgpt", "names_default", {}),
        ("first-revision", "first_revision_model", {}),
        ("microgpt", "cfg_l1_e16_h1_b8", {"n_head": 1, "block_size": 8, "num_steps": 100, "seed": 123}),
    ],
)
@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_a_run_of_the_original(preset, run, options, numerics, backend, original_run, request):
    if numerics == "exact" and not backend.HAS_EXACT:
        pytest.skip("this backend has no exact numerics")
    if numerics == "exact":
        request.getfixturevalue("same_libm")
    original = original_run(run).figures
    path = None
    if original["data"] == "names.txt":
        path = request.getfixturevalue("shared") / "data" / "names.txt"
    result = train(path, preset=preset, backend=backends.name_of(backend), numerics=numerics, **options)
    assert [f"{loss:.4f}" for loss in result.losses] == [f"{loss:.4f}" for loss in original["losses"]]
    if numerics == "exact":
        assert np.array_equal(result.losses, original["losses"])
        assert np.array_equal(result.model.parameters, original["final_parameters"])
    else:  # where gradients begin at zero, Adam divides rounding errors by its epsilon
        tolerance = 1e-9 if preset == "first-revision" else 1e-12
        np.testing.assert_allclose(
            result.model.parameters, original["final_parameters"], rtol=0, atol=tolerance
        )
    samples = mg.generate(result.model, random=result.random)
    assert samples == original["samples"].tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 12])
def test_chunks_do_not_change_a_run(backend, batch_size, monkeypatch):
    options = {
        "num_steps": 60,
        "batch_size": batch_size,
        "backend": backends.name_of(backend),
        "block_size": 4,
    }
    whole = train(NAMES, **options)
    monkeypatch.setattr(pace, "CHUNK_GROWTH", 1)
    single = Trainer(NAMES, **options)
    assert [len(losses) for losses in single.chunks()] == [1] * 60
    assert np.array_equal(whole.losses, single.losses)
    assert np.array_equal(whole.model.parameters, single.model.parameters)
    assert whole.tokens == single.tokens > 60 * batch_size


def test_a_run_can_be_stopped_and_continued():
    whole = train(NAMES, num_steps=50, backend="numpy")
    run = Trainer(NAMES, num_steps=50, backend="numpy")
    for _ in run.chunks():
        run.stopping = True
    assert run.step == len(run.losses) == 1
    run.stopping = False
    for _ in run.chunks():
        pass
    assert np.array_equal(run.losses, whole.losses)


def test_chunks_grow_with_the_speed_of_the_machine(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(training, "perf_counter", lambda: next(clock) * 1e-3)  # a millisecond a chunk
    run = Trainer(NAMES, num_steps=1000, backend="numpy")
    assert [len(losses) for losses in run.chunks()] == [1, 8, 64, 512, 415]
    monkeypatch.setattr(training, "perf_counter", lambda: next(clock) * 1.0)  # a second
    run = Trainer(NAMES, num_steps=3, backend="numpy")
    assert [len(losses) for losses in run.chunks()] == [1, 1, 1]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_mean_over_documents_is_learned(backend, dtype):
    run = train(NAMES, num_steps=200, batch_size=5, dtype=dtype, backend=backends.name_of(backend))
    assert run.model.parameters.dtype == dtype
    assert run.losses[-1] < 0.6 < 1.5 < run.losses[0]


def test_no_steps_leave_the_initial_model():
    run = train(NAMES, num_steps=0, backend="numpy")
    assert run.losses.shape == (0,) and run.step == run.tokens == 0
    fresh = mg.GPT(run.model.config, backend="numpy")
    stream = PythonRandom(42)
    stream.permutation(len(NAMES))
    fresh.initialise(stream)
    assert np.array_equal(run.model.parameters, fresh.parameters)


def test_a_corpus_can_be_shared():
    corpus = mg.load_corpus(NAMES)
    run = train(corpus, num_steps=5, backend="numpy")
    assert run.corpus is corpus
    assert np.array_equal(run.losses, train(NAMES, num_steps=5, backend="numpy").losses)
    assert run.model.train_config == TrainConfig(num_steps=5, backend="numpy")


def test_divergence_is_reported_with_its_step():
    with (
        np.errstate(all="ignore"),
        pytest.raises(UsageError, match=r"loss of step \d+ is (nan|inf).*learning_rate"),
    ):
        train(NAMES, num_steps=50, learning_rate=1e300, backend="numpy")


@pytest.mark.parametrize(
    "options",
    [
        {"n_embd": 10**9, "n_head": 1},
        {"n_layer": 2 * 10**9},
        {"block_size": 2**31 - 1, "n_embd": 1024},
        {"batch_size": 2**31 - 1},
    ],
)
def test_models_that_no_memory_holds_are_refused_before_they_are_made(options):
    with pytest.raises(UsageError, match="too large: .* GB of memory"):
        Trainer(NAMES, backend="numpy", **options)


def test_unknown_options_are_refused():
    with pytest.raises(UsageError, match="num_step.*num_steps"):
        train(NAMES, num_step=5)
    with pytest.raises(UsageError, match="exact"):
        train(NAMES, num_steps=5, backend="numpy", numerics="exact")


def test_the_note_of_a_run_that_is_not_exact():
    assert "numpy" in Trainer(NAMES, backend="numpy").note
    assert Trainer(NAMES, backend="numpy", numerics="fast").note is None
    assert Trainer(NAMES, backend="numpy", dtype="float32").note is None
