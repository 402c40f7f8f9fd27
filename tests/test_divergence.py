"""A training that diverges keeps its last finite state and the metrics that led there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.config import UsageError
from microgpt_fast.training import runs
from microgpt_fast.training.runs import read_metrics
from microgpt_fast.training.trainer import Trainer

pytestmark = pytest.mark.slow

NAMES = "".join(
    f"{a}{b}\n" for a in ("an", "bel", "cor", "del", "el") for b in ("na", "la", "ra", "mina", "vira", "wina")
)
SMALL = "--data names.txt --num-samples 2 --quiet".split()


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    """A function of arguments: exit code, stdout and stderr of the program, run beside names.txt."""
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text(NAMES)

    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def poisoned(monkeypatch, at, value=np.nan):
    """Let the training come upon a value that is not finite in the step of this number: in its loss and parameters."""

    def take_steps(trainer, count, take=Trainer.take_steps):
        first = trainer.step
        losses, tokens = take(trainer, count)
        if first < at <= first + count and trainer.config.learning_rate == 0.01:
            trainer.model.parameters[3] = value
            losses[at - first - 1 :] = value
        return losses, tokens

    monkeypatch.setattr(Trainer, "take_steps", take_steps)


def test_the_losses_up_to_the_divergence_are_reported(monkeypatch):
    poisoned(monkeypatch, at=7)
    trainer = Trainer(NAMES.split(), num_steps=20)
    with pytest.raises(UsageError, match="the loss of step 7 is nan: training diverged; try a smaller"):
        [*trainer.events()]
    assert trainer.step == len(trainer.losses) == 6 and np.isfinite(trainer.losses).all()
    assert not trainer.is_finite() and trainer.diverged == "the loss of step 7 is nan"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200, -1e200])
@pytest.mark.parametrize("stops", [True, False])
def test_a_last_step_that_overflows_is_no_success(bad, stops, monkeypatch):
    def take_steps(trainer, count, take=Trainer.take_steps):
        losses, tokens = take(trainer, count)
        trainer.model.parameters[3] = bad
        trainer.stopping = stops
        return losses, tokens

    monkeypatch.setattr(Trainer, "take_steps", take_steps)
    trainer = Trainer(NAMES.split(), num_steps=1000 if stops else 1)
    with pytest.raises(UsageError, match="the parameters after step 1 are not finite or give no finite loss"):
        [*trainer.events()]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_validation_loss_that_is_not_finite_ends_the_training(value, monkeypatch):
    monkeypatch.setattr(Trainer, "held_out_loss", lambda trainer: value)
    trainer = Trainer(NAMES.split(), num_steps=4, val_fraction=0.2, eval_interval=2)
    with pytest.raises(UsageError, match=f"the validation loss of step 2 is {value}: training diverged"):
        [*trainer.events()]
    assert trainer.evaluations == []


def test_a_validation_with_parameters_that_overflow_is_never_the_best(run):
    options = ["--dtype", "float32", "--val-fraction", 0.2, "--eval-interval", 1, "--num-steps", 9]
    code, out, err = run(
        "train", *SMALL, *options, "--learning-rate", 1e38, "--schedule", "constant", "--out", "one"
    )
    assert code == 2 and "training diverged" in err and "sample" not in out and "val " not in err
    assert err.splitlines()[-1].endswith("; --resume one --learning-rate X continues from step 0")
    assert sorted(os.listdir("one")) == ["config.toml", "last.safetensors", "metrics.jsonl"]
    assert [line["step"] for line in read_metrics("one")] == [1]
    assert np.isfinite(mg.load("one/last.safetensors").parameters).all()
    code, out, _ = run("train", "--resume", "one", "--learning-rate", 1e-3)
    assert code == 0 and "sample  2" in out
    plain = run("train", *SMALL, *options, "--learning-rate", 1e-3, "--schedule", "constant", "--out", "two")
    assert plain[0] == 0
    for name in ("last.safetensors", "best.safetensors"):
        one, two = (mg.load(f"{folder}/{name}").parameters for folder in ("one", "two"))
        assert np.array_equal(one, two)


@pytest.mark.parametrize("lines", [1000, 4])
def test_metrics_up_to_the_divergence_are_kept_and_its_checkpoint_is_not(lines, run, monkeypatch):
    monkeypatch.setattr(runs, "LINES", lines)
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", -1)  # after each chunk, were the state finite
    poisoned(monkeypatch, at=7)
    code, _, err = run("train", *SMALL, "--num-steps", 20, "--out", "one")
    assert code == 2 and "the loss of step 7 is nan" in err
    text = Path("one/metrics.jsonl").read_text()
    metrics = [
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        for line in text.splitlines()
    ]
    assert [line["step"] for line in metrics] == ([1, 2, 3, 4, 5, 6] if lines == 1000 else [5, 6])
    kept = mg.resume_training("one/last.safetensors", Path("names.txt"))
    assert kept.step < 7 and kept.is_finite() and f"continues from step {kept.step}" in err
    assert run("train", "--resume", "one", "--learning-rate", 0.001)[0] == 0
    assert [line["step"] for line in read_metrics("one")][-1] == 20


def test_nothing_is_saved_of_a_model_that_diverged(run, monkeypatch):
    Path("model").write_text("what was there")
    code, out, err = run("train", *SMALL, "--learning-rate", 1e300, "--num-steps", 1, "--save", "model")
    assert code == 2 and "training diverged" in err and "sample" not in out
    assert Path("model").read_text() == "what was there"


def test_a_run_of_no_step_can_be_resumed(run):
    trainer = Trainer([Path("names.txt")], num_steps=3)
    mg.Run.create("one", trainer, ["names.txt"]).close()
    assert run("train", "--resume", "one", "--quiet")[0] == 0
    assert [line["step"] for line in read_metrics("one")] == [1, 2, 3]


def test_a_score_beyond_all_numbers_is_json(run):
    model = mg.train(NAMES.split(), num_steps=1, dtype="float32").model
    model.tensors["lm_head"][:] *= 1e6
    mg.save(model, "model")
    code, out, _ = run("score", "names.txt", "--model", "model", "--json")
    summary = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert code == 0 and summary["perplexity"] is None and summary["nats_per_token"] > 1000
