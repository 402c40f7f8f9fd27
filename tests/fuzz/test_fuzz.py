"""Some hundred inputs of each target, always the same; and that the fuzzer finds what is wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from microgpt_fast.data import text, token_entry
from microgpt_fast.ops import _call
from microgpt_fast.training import checkpoint, settings

from . import TARGETS, fuzz, load

pytestmark = [pytest.mark.fuzz, pytest.mark.thorough]
REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_fails(target):
    tried, failures = fuzz(target, seed=0, count=400)
    assert tried == 400 and not failures, str(failures[0])


def test_an_entry_that_is_not_checked_is_found(monkeypatch):
    monkeypatch.setattr(token_entry, "check", lambda *arguments: None)
    assert fuzz("token_cache", seed=0, count=400)[1]


@pytest.mark.parametrize("target", ["models", "run_folders"])
def test_a_state_that_is_not_checked_is_found(target, monkeypatch):
    monkeypatch.setattr(checkpoint, "state_of", lambda content: SimpleNamespace(**content))
    assert fuzz(target, seed=0, count=400)[1]


def test_a_number_that_is_not_checked_is_found(monkeypatch):
    monkeypatch.setattr(_call, "real", lambda name, value: value)
    assert fuzz("kernels", seed=0, count=4000)[1]


def test_options_that_are_nested_too_deep_are_found(monkeypatch):
    monkeypatch.setattr(settings, "RecursionError", ZeroDivisionError, raising=False)
    assert fuzz("toml", seed=0, count=400)[1]


def test_a_line_end_that_is_not_known_is_found(monkeypatch):
    monkeypatch.setattr(text, "read_bytes", lambda *a, read=text.read_bytes: read(*a[:2], False))
    assert fuzz("text", seed=0, count=400)[1]


def test_an_input_that_takes_too_long_is_found(monkeypatch):
    monkeypatch.setattr("signal.setitimer", lambda *a, set=signal.setitimer: set(a[0], a[1] / 1000))
    monkeypatch.setattr(load("text"), "run", lambda case: [None for _ in iter(int, 1)])
    [failure] = fuzz("text", seed=0, count=1)[1]
    assert "it took more than" in str(failure) and "--seed 0 --input 0" in str(failure)


def test_an_input_is_the_same_each_time():
    command = [sys.executable, "-m", "tests.fuzz", "--target", "text", "--seed", "3", "--input", "17"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    runs = [subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout and runs[0].stdout.endswith(b"passed\n")


def test_an_input_that_ends_the_process_is_a_failure(tmp_path):
    """A target that kills its process at one input: the run goes on after it, and names it."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "fuzz").symlink_to(Path(__file__).parent)
    program = tmp_path / "program.py"
    program.write_text("""
import os, sys
from tests import fuzz
from tests.fuzz import runner

class Deadly:
    make = staticmethod(lambda random: random.random())
    run = staticmethod(lambda case: os.abort() if case > 0.999 else None)

fuzz.load = lambda target: Deadly
if __name__ == "__main__":
    from time import monotonic
    tried, failures = runner.run("text", 0, monotonic() + 1)
    print(tried > 0 and failures and failures[0].text)
""")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    result = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True)
    assert result.stdout == "the process ended with -6\n", result.stderr
