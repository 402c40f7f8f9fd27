import sys

import pytest

import microgpt_fast as mg
from microgpt_fast.training import pace, progress
from microgpt_fast.workload import operations_per_token

NAMES = ["anna", "bob", "hannah", "otto"]
OPTIONS = {"num_steps": 6, "batch_size": 2, "val_fraction": 0.3, "eval_interval": 3, "backend": "numpy"}


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by 4 s whenever it is asked."""
    now = iter(range(0, 10**9, 4))
    monkeypatch.setattr(progress, "perf_counter", lambda: next(now))
    monkeypatch.setattr(pace, "CHUNK_GROWTH", 1)


def watch(**options):
    run = mg.Trainer(NAMES, **OPTIONS)
    watcher = mg.Progress(run, **options)
    for event in run.events():
        watcher.report(event)
    watcher.close()
    return watcher


def test_lines_tell_loss_validation_speed_and_time_left(clock, capsys):
    watch()
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) < 8 and all(line.startswith("microgpt-fast: step ") for line in lines)
    for part in ("step 6 / 6", "loss ", "val ", "tokens/s", "0:00 left"):
        assert part in lines[-1]


def test_the_fraction_of_the_peak_counts_the_models_operations(clock, capsys, monkeypatch):
    monkeypatch.setattr(mg.backends.load("numpy"), "measure_peak", lambda dtype: 1e-6, raising=False)
    watch()
    assert "% of peak" in capsys.readouterr().err
    run = mg.Trainer(NAMES, n_layer=2, n_embd=8, n_head=2, block_size=4, backend="numpy")
    matrices = 2 * 12 * 64 + run.model.config.vocab_size * 8
    assert operations_per_token(run.model.config, run.batches.longest) == 6 * matrices + 6 * 2 * 8 * 4


def test_a_short_training_is_not_reported(capsys):
    run = mg.Trainer(NAMES, num_steps=5, backend="numpy")
    watcher = mg.Progress(run)
    for event in run.events():
        watcher.report(event)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(clock, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    watch()
    err = capsys.readouterr().err
    assert "step 6 / 6" in err and "100%" in err and "tokens/s" in err
    watch(bar=False)
    assert "100%" not in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    watch()
    assert "microgpt-fast: step 6 / 6" in capsys.readouterr().err


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_line_fits_and_holds_whole_figures(width, clock, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    watch()
    frames = [frame.rstrip() for frame in capsys.readouterr().err.replace("\n", "\r").split("\r")]
    assert max(map(len, frames)) < width
    shown = frames[-2]
    assert "step 6 / 6" in shown and "0:00 left" in shown and ("tokens/s" in shown) == (width > 80)


def test_what_matters_most_is_shown_first():
    figures = {"step": "step 1 / 9", "loss": "loss 1.0", "val": "val 2.0", "left": "0:09 left"}
    assert progress.fitted(figures, 100) == "step 1 / 9 | loss 1.0 | val 2.0 | 0:09 left"
    assert progress.fitted(figures, 23) == "step 1 / 9 | 0:09 left"
    assert progress.fitted(figures, 9) == "0:09 left"


def test_a_validation_is_shown_with_its_step(clock, capsys):
    watch()
    lines = capsys.readouterr().err.splitlines()
    assert any(
        line.endswith("left") and " at 3 |" in line for line in lines if "step 4" in line or "step 5" in line
    )


def test_the_time_left_of_a_budget_is_that_of_the_clock():
    run = mg.Trainer(NAMES, backend="numpy", time_budget=0.5)
    events = run.events()
    next(events)
    watcher = mg.Progress(run)
    assert watcher._seconds_left() in (0, 1)


def test_training_from_python_draws_a_bar_on_a_terminal_alone(clock, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    mg.train(NAMES, **OPTIONS)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    mg.train(NAMES, **OPTIONS)
    assert "step 6 / 6" in capsys.readouterr().err
    mg.train(NAMES, progress=False, **OPTIONS)
    assert capsys.readouterr().err == ""
