"""Time budgets: kept whatever the text, its size and the machine's speed; planned anew, recorded, repeated by count."""

import numpy as np
import pytest

from microgpt_fast import workload
from microgpt_fast.config import TrainConfig, UsageError
from microgpt_fast.data import load
from microgpt_fast.data.load import load_corpus
from microgpt_fast.training import budget, pace, trainer, validation
from microgpt_fast.training.resume import resume_training, save_training
from microgpt_fast.training.schedule import learning_rates
from microgpt_fast.training.trainer import Steps, Trainer

TEXT = "".join(f"line {i * i % 37} of a text, {i % 5} times.\n\n" for i in range(60))
SMALL = {"n_embd": 8, "n_head": 2, "block_size": 12, "backend": "numpy", "dtype": "float32", "batch_size": 3}


def stream(text=TEXT, **options):
    return Trainer(load_corpus([text], mode="stream"), **{**SMALL, **options})


class Clock:
    """A clock that steps and validations move on.

    Attributes
    ----------
    a_step, a_token : float
        Seconds of a training step, and of a token of a validation.
    """

    def __init__(self, monkeypatch, a_step=0.01, a_token=0.0):
        self.now, self.a_step, self.a_token = 0.0, a_step, a_token
        take_steps, mean_loss = Trainer.take_steps, validation.mean_loss

        def slow_steps(run, count):
            self.now += self.a_step * count
            return take_steps(run, count)

        def slow_validation(run, part):
            self.now += self.a_token * int(part[1].sum())
            return mean_loss(run, part)

        monkeypatch.setattr(Trainer, "take_steps", slow_steps)
        monkeypatch.setattr(validation, "mean_loss", slow_validation)
        for module in (trainer, pace, budget):
            monkeypatch.setattr(module, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_time_budget_becomes_a_number_of_steps_that_replays(clock):
    run = stream(time_budget=3, warmup_steps=100)
    [*run.events()]
    config = run.config
    assert config.time_budget is None and 250 < config.num_steps == run.step < 300
    assert 2.85 < clock.now < 3
    assert config.warmup_steps == config.plan[0][1] // 10
    again = stream(num_steps=config.num_steps, warmup_steps=config.warmup_steps, plan=config.plan)
    [*again.events()]
    assert np.array_equal(again.losses, run.losses)
    assert np.array_equal(again.model.parameters, run.model.parameters)


@pytest.mark.parametrize("slower", [0.4, 2.0, 5.0])
@pytest.mark.parametrize("val_fraction", [0, 0.1])
def test_a_budget_holds_when_the_machines_speed_changes(clock, slower, val_fraction):
    clock.a_token = 1e-5
    run = stream(time_budget=20, val_fraction=val_fraction, eval_interval=40 if val_fraction else 0)
    clock.a_step = 0.05
    for _ in run.events():
        if clock.now > 10:
            clock.a_step = 0.05 * slower
    assert 19 < clock.now < 20.5
    assert len(run.config.plan) > 5 and run.config.plan[-1][1] == run.step
    planned = {step for step, _ in run.config.plan[1:]}
    assert not val_fraction or planned <= {event.step for event in run.evaluations}
    again = stream(**{**vars(run.config), **SMALL})
    [*again.events()]
    assert again.evaluations == run.evaluations
    assert np.array_equal(again.model.parameters, run.model.parameters)


def test_a_run_with_a_plan_resumes_to_the_bits_of_the_whole(clock, tmp_path):
    run = stream(time_budget=20, val_fraction=0.1, schedule="cosine")
    for event in run.events():
        clock.a_step = 0.04 if clock.now < 9 else 0.08
        if isinstance(event, Steps) and 5 < clock.now < 12:
            save_training(run, tmp_path / "state")
    resumed = resume_training(
        tmp_path / "state", run.corpus, plan=run.config.plan, num_steps=run.config.num_steps
    )
    assert 0 < resumed.step < run.step and len(resumed.config.plan) > 3
    [*resumed.events()]
    assert np.array_equal(resumed.losses, run.losses) and resumed.evaluations == run.evaluations
    assert np.array_equal(resumed.model.parameters, run.model.parameters)


def test_validations_of_a_long_text_read_a_sample_that_takes_little_time(clock):
    clock.a_step, clock.a_token = 0.02, 1e-3  # all 20,000 tokens held out take as long as the budget
    run = stream(TEXT * 80, time_budget=20, val_fraction=0.1)
    [*run.events()]
    assert clock.now < 21 and run.step * 0.02 > 0.8 * 20
    assert run.config.eval_tokens == budget.LEAST_TOKENS and run.whole_loss is None
    clock.now = 0.0
    clock.a_token = 1e-6
    run = stream(TEXT * 80, time_budget=5, val_fraction=0.1)
    [*run.events()]
    assert abs(run.config.eval_tokens - 12500) < 3 and run.whole_loss != run.evaluations[-1].loss
    assert run.step * 0.02 > 0.8 * 5 and clock.now < 5.5


def test_a_sample_of_what_is_held_out_is_fixed_and_nested():
    held_out = np.arange(0, 5000, 5), np.full(1000, 5, np.int32)
    few, more = (set(validation.sample(held_out, n, seed=3)[0].tolist()) for n in (500, 2000))
    assert len(few) == 100 and few < more
    assert few != set(validation.sample(held_out, 500, seed=4)[0].tolist())
    assert validation.sample(held_out, None, 3) is validation.sample(held_out, 5000, 3) is held_out


def test_eval_tokens_choose_what_is_read_and_all_is_read_in_the_end():
    run = stream(TEXT * 10, num_steps=8, val_fraction=0.2, eval_interval=4, eval_tokens=60)
    [*run.events()]
    part = validation.sample(run.batches.validation, 60, run.config.seed)
    assert part[1].sum() == 60
    assert run.evaluations[-1].loss == validation.mean_loss(run, part) == run.validate()
    assert run.whole_loss == validation.mean_loss(run, run.batches.validation) != run.evaluations[-1].loss


def test_the_rate_goes_on_from_where_a_new_plan_finds_it():
    steps = np.arange(200)
    for schedule in ("linear", "cosine"):
        options = {"schedule": schedule, "warmup_steps": 10, "learning_rate": 1.0}
        plan = ((0, 100), (50, 200))
        rates = learning_rates(TrainConfig(num_steps=200, plan=plan, **options), steps)
        once = learning_rates(TrainConfig(num_steps=100, **options), steps[:100])
        assert np.array_equal(rates[:50], once[:50]) and rates[50] == once[50]
        assert np.abs(np.diff(rates[10:])).max() < 0.02 and (np.diff(rates[10:]) <= 0).all()
        assert 0 < rates[199] < 0.02
        single = learning_rates(TrainConfig(num_steps=100, plan=((0, 100),), **options), steps[:100])
        assert np.array_equal(single, once)


@pytest.mark.parametrize("plan", [((1, 5),), ((0, 5), (0, 5)), ((0, 4),), ((0, 5), (9, 5)), "ab", ((0,),)])
def test_plans_that_make_no_sense_are_refused(plan):
    with pytest.raises(UsageError, match="plan"):
        TrainConfig(num_steps=5, plan=plan)


@pytest.mark.parametrize("seconds_a_step", [1e-6, 1e-12, 0.0])
@pytest.mark.parametrize("cores", [1, 2])
def test_a_time_budget_is_fixed_on_any_speed(monkeypatch, seconds_a_step, cores):
    """Where all steps of the preset take less time than a trial of threads counts, or than the clock can tell."""
    monkeypatch.setattr(workload, "cores", lambda: cores)
    now, chunks = [0.0], [0]

    def measured(self, count):
        chunks[0] += 1
        assert chunks[0] < 5000, "measuring does not end"
        now[0] += max(seconds_a_step * count, 1e-3 * (chunks[0] > 100))  # in the end, time passes
        return np.zeros(count), 100 * count

    monkeypatch.setattr(Trainer, "take_steps", measured)
    for module in (trainer, pace, budget):
        monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    run = Trainer(["anna", "bob"] * 50, time_budget=2, batch_size=64, n_embd=64, dtype="float32")
    assert (run.trial is not None) == (cores == 2)
    assert budget.Budget(run).has_plan
    assert run.config.time_budget is None and run.config.num_steps >= 1


def test_a_stop_while_the_speed_is_measured_keeps_the_budget(tmp_path):
    run = stream(time_budget=1000)
    take_steps, begun = run.take_steps, run.model.parameters.copy()

    def stopping(count):
        run.stopping = True
        return take_steps(count)

    run.take_steps = stopping
    assert [*run.events()] == [] and run.step == 0
    assert np.array_equal(run.model.parameters, begun) and not run.moments.any()
    save_training(run, tmp_path / "model")
    assert resume_training(tmp_path / "model", run.corpus).config.time_budget == 1000


def test_a_time_budget_is_resumed_only_before_the_first_step(tmp_path):
    run = stream(time_budget=0.1)
    save_training(run, tmp_path / "state")
    resumed = resume_training(tmp_path / "state", run.corpus)
    [*resumed.events()]
    assert resumed.step == resumed.config.num_steps
    save_training(resumed, tmp_path / "state")
    with pytest.raises(UsageError, match="give num_steps"):
        resume_training(tmp_path / "state", run.corpus, time_budget=5)


def test_the_first_tokenising_of_a_large_text_is_beside_the_budget(tmp_path, monkeypatch):
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "CACHED_FROM", 1)
    (tmp_path / "text").write_text(TEXT)
    runs = [Trainer(tmp_path / "text", data_mode="stream", time_budget=1, **SMALL) for _ in range(2)]
    assert runs[0].corpus.tokenising > 0 == runs[1].corpus.tokenising
    assert runs[0].began > runs[0].corpus.tokenising
