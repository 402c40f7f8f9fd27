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
    assert "6/6" in err and "tokens/s" in err
    watch(bar=False)
    assert "6/6" not in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    watch()
    assert "microgpt-fast: step 6 / 6" in capsys.readouterr().err
