"""Training as nanoGPT's users know it: streams, validation, accumulation, clipping, budgets, resuming."""

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import backends
from microgpt_fast.config import TrainConfig, UsageError, resolve
from microgpt_fast.data.batches import Blocks, Lines, fingerprints
from microgpt_fast.data.load import load_corpus
from microgpt_fast.presets import PRESETS
from microgpt_fast.training import pace
from microgpt_fast.training.resume import resume_training, save_training
from microgpt_fast.training.trainer import Evaluation, Steps, Trainer
from microgpt_fast.training.whole import train

pytestmark = pytest.mark.slow

TEXT = "".join(f"line {i * i % 37} of a text, {i % 5} times.\n\n" for i in range(60))
SMALL = {"n_embd": 8, "n_head": 2, "block_size": 12, "backend": "numpy", "dtype": "float32"}


def stream(**options):
    corpus = load_corpus([TEXT], mode="stream")
    if "time_budget" not in options:
        options = {"num_steps": 20, **options}
    return Trainer(corpus, **{**SMALL, "batch_size": 3, **options})


def batches(corpus, block_size=12, **options):
    config = TrainConfig(**options)
    kind = Blocks if corpus.mode == "stream" else Lines
    return kind(corpus, config, block_size, mg.random_stream.PythonRandom(1), backends.load("numpy"))


def test_blocks_of_a_stream_stay_clear_of_its_held_out_end():
    corpus = load_corpus([TEXT], mode="stream")
    drawn = batches(corpus, val_fraction=0.1)
    starts, lengths = drawn.sequences(0, 20000)
    held, held_lengths = drawn.validation
    assert (lengths == 12).all() and starts.min() == 0 and (starts + 12).max() == held[0] - 1
    assert held_lengths.sum() == len(corpus.tokens) - 1 - held[0] == round(len(corpus.tokens) * 0.1) - 1
    assert np.array_equal(held[1:], held[:-1] + held_lengths[:-1])
    again, _ = drawn.sequences(5000, 10)
    assert np.array_equal(again, starts[5000:5010])
    assert not np.array_equal(
        batches(corpus, seed=7).sequences(0, 10)[0], batches(corpus).sequences(0, 10)[0]
    )


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_copies_of_held_out_documents_are_not_trained_on(piece, monkeypatch):
    monkeypatch.setattr("microgpt_fast.data.batches.PIECE", piece)
    monkeypatch.setattr("microgpt_fast.data.batches.SCRATCH_FROM", piece)  # arrays in files, and in memory
    documents = [f"name{i % 50}" for i in range(200)] + ["once"]
    corpus = load_corpus(documents)
    split = batches(corpus, val_fraction=0.2)
    held = {documents[d] for d in np.searchsorted(corpus.offsets, split.validation[0])}
    trained = [documents[d] for d in split.order]
    assert len(held) == len(split.validation[0]) == 10
    assert not held & set(trained) and sorted(held | set(trained)) == sorted(set(documents))
    assert len(trained) == sum(document not in held for document in documents)
    other = batches(corpus, val_fraction=0.2, seed=7)
    assert not np.array_equal(split.validation[0], other.validation[0])


def test_fingerprints_tell_documents_apart_over_pieces(monkeypatch):
    monkeypatch.setattr("microgpt_fast.data.batches.PIECE", 7)
    corpus = load_corpus(["ab", "ba", "abcdefghijk", "ab", "aab"])
    numbers = fingerprints(corpus, seed=1).tolist()
    assert numbers[0] == numbers[3] and len(set(numbers)) == 4
    assert not set(numbers) & set(fingerprints(corpus, seed=2).tolist())


@pytest.mark.parametrize("documents, fraction", [(["a", "a"], 0.5), (["a", "b"], 0.1), (["a", "b"], 0.9)])
def test_a_split_that_leaves_a_side_empty_is_refused(documents, fraction):
    with pytest.raises(UsageError, match="val_fraction"):
        Trainer(documents, val_fraction=fraction, **SMALL)


def test_a_validation_counts_every_token_once():
    run = Trainer(["anna", "bob", "hannah", "otto"], val_fraction=0.5, **SMALL)
    starts, lengths = run.batches.validation
    total = count = 0
    for start, length in zip(starts, lengths):
        ids = run.corpus.tokens[start : start + length + 1]
        logits = run.model.logits(ids[:-1]).astype(float)
        total += (np.log(np.exp(logits).sum(1)) - logits[np.arange(length), ids[1:]]).sum()
        count += length
    assert abs(run.validate() - total / count) < 1e-5


def test_events_come_in_order(monkeypatch):
    monkeypatch.setattr(pace, "CHUNK_GROWTH", 1)
    run = stream(val_fraction=0.1, eval_interval=8)
    events = [*run.events()]
    assert [event.step for event in events if isinstance(event, Evaluation)] == [8, 16, 20]
    steps = [event for event in events if isinstance(event, Steps)]
    assert sum(len(event.losses) for event in steps) == 20 == steps[-1].step
    assert run.evaluations[-1].loss < run.losses[0] and run.best in run.evaluations
    seen = []
    train(
        run.corpus,
        on_step=lambda run, event: seen.append(event.step),
        on_eval=lambda run, event: setattr(run, "stopping", True),
        **{**SMALL, "num_steps": 20, "val_fraction": 0.1, "eval_interval": 8},
    )
    assert seen[-1] == 8


def test_accumulation_is_a_larger_batch():
    whole = train(
        load_corpus([TEXT], mode="stream"), **{**SMALL, "dtype": "float64"}, batch_size=12, num_steps=10
    )
    parts = train(
        load_corpus([TEXT], mode="stream"),
        **{**SMALL, "dtype": "float64"},
        batch_size=3,
        gradient_accumulation_steps=4,
        num_steps=10,
    )
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-12)
    np.testing.assert_allclose(parts.model.parameters, whole.model.parameters, atol=1e-10)
    assert parts.tokens == whole.tokens


@pytest.mark.parametrize("grad_clip", [1e-3, 1e9])
def test_a_step_takes_the_clipped_mean_of_its_batches(grad_clip):
    run = stream(grad_clip=grad_clip, gradient_accumulation_steps=2, num_steps=1)
    gradient = np.zeros_like(run.model.parameters)
    starts, lengths = run.batches.sequences(0, 6)
    run.model.engine.backward(gradient, run.model.parameters, run.corpus.tokens, starts, lengths)
    norm = np.linalg.norm(gradient.astype(float))
    assert 1e-3 < norm < 1e9
    [*run.events()]
    first_moment = (1 - run.config.beta1) * gradient * min(1, grad_clip / norm)
    np.testing.assert_allclose(
        run.moments[0], first_moment, rtol=1e-4, atol=1e-6 * np.abs(first_moment).max()
    )


@pytest.mark.parametrize("options", [{"grad_clip": 1.0}, {"gradient_accumulation_steps": 2}])
def test_divergence_with_a_clipped_gradient_is_reported(options, backend):
    with np.errstate(all="ignore"), pytest.raises(UsageError, match="training diverged"):
        run = stream(learning_rate=1e30, backend=backends.name_of(backend), **options)
        [*run.events()]


def test_weight_decay_pulls_every_parameter_towards_zero():
    options = {"num_steps": 1, "schedule": "constant", "learning_rate": 0.1}
    plain, decayed = (stream(weight_decay=decay, **options) for decay in (0.0, 0.5))
    initial = plain.model.parameters.copy()
    for run in (plain, decayed):
        [*run.events()]
    difference = plain.model.parameters - decayed.model.parameters
    np.testing.assert_allclose(difference, 0.05 * initial, atol=1e-7)


def test_exact_numerics_are_plain_adams():
    run = Trainer(["ab", "b"], weight_decay=0.1)
    assert run.model.numerics == "fast" and "weight_decay" in run.note
    with pytest.raises(UsageError, match="weight_decay"):
        Trainer(["ab", "b"], weight_decay=0.1, numerics="exact")


def test_training_ends_at_the_target_or_when_patience_does():
    run = stream(val_fraction=0.1, eval_interval=2, target_loss=100.0)
    [*run.events()]
    assert run.step == 2 and "target 100" in run.ended
    run = stream(val_fraction=0.1, eval_interval=2, patience=2, learning_rate=0.0)
    [*run.events()]
    assert run.step == 6 and "2 validations" in run.ended and run.best.step == 2


def test_a_number_of_steps_replaces_a_presets_time_budget():
    _, config = resolve("laptop-1min", num_steps=7)
    assert config.time_budget is None and resolve("laptop-1min")[1].time_budget == 60
    with pytest.raises(UsageError, match="not both"):
        resolve(num_steps=7, time_budget=60)


def test_without_held_out_data_a_preset_does_not_validate():
    _, config = resolve("laptop-1min", val_fraction=0)
    assert config.eval_interval == 0
    with pytest.raises(UsageError, match="val_fraction above 0"):
        resolve("laptop-1min", val_fraction=0, eval_interval=5)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_on_lines_and_on_streams(preset):
    for data in (["anna", "bob", "hannah", "otto", "eve", "ann"] * 5, load_corpus([TEXT], mode="stream")):
        run = train(data, preset=preset, num_steps=2, n_embd=24, n_layer=1, num_samples=1)
        assert (
            run.step == 2
            and np.isfinite(run.losses).all()
            and bool(run.evaluations) == bool(run.config.val_fraction)
        )
        assert len(mg.generate(run.model)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grad_clip": 0.5, "weight_decay": 0.1, "gradient_accumulation_steps": 2, "schedule": "cosine"},
        {"val_fraction": 0.2, "eval_interval": 5},
    ],
)
@pytest.mark.parametrize("mode", ["lines", "stream"])
def test_a_resumed_training_is_the_uninterrupted_one(options, mode, backend, tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "CHUNK_GROWTH", 1)
    corpus = load_corpus(TEXT.split("\n") if mode == "lines" else [TEXT], mode=mode)
    options = {**SMALL, "backend": backends.name_of(backend), "num_steps": 25, "batch_size": 2, **options}
    whole = train(corpus, **options)
    part = Trainer(corpus, **options)
    for event in part.events():
        part.stopping = event.step >= 7
    assert 7 <= part.step < 25
    save_training(part, tmp_path / "state")
    resumed = resume_training(tmp_path / "state", corpus, threads=2)
    for _ in resumed.events():
        pass
    assert np.array_equal(resumed.losses, whole.losses) and resumed.evaluations == whole.evaluations
    assert np.array_equal(resumed.model.parameters, whole.model.parameters)
    assert np.array_equal(resumed.moments, whole.moments) and resumed.tokens == whole.tokens
    assert mg.generate(resumed.model, random=resumed.random) == mg.generate(whole.model, random=whole.random)
    assert mg.load(tmp_path / "state", backend="numpy").config == whole.model.config


def test_other_data_and_plain_models_are_not_resumed(tmp_path):
    run = stream()
    save_training(run, tmp_path / "state")
    with pytest.raises(ValueError, match="had other data"):
        resume_training(tmp_path / "state", load_corpus([TEXT + "!"], mode="stream"))
    mg.save(run.model, tmp_path / "model")
    with pytest.raises(ValueError, match="not the state of a training"):
        resume_training(tmp_path / "model", run.corpus)


def test_the_bytes_of_any_file_are_learned():
    run = train(["añ", "b"], tokenizer="byte", num_steps=30, batch_size=2, **SMALL)
    assert run.model.config.vocab_size == 257 and set(mg.generate(run.model)) & {"añ", "b"}
