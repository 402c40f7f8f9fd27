"""What ends a training early saves it, whoever sends the signal."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults.signals import send_signals

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.training import checkpoint
from microgpt_fast.training.trainer import Trainer

pytestmark = pytest.mark.slow

SOURCE = Path(mg.__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE)}
JOB = "train --data names.txt --numerics fast --num-steps 1000000000 --num-samples 0".split()
COMMAND = [sys.executable, "-m", "microgpt_fast", *JOB]
SIGNALS = {"SIGINT": "interrupted", "SIGTERM": "ended by SIGTERM", "SIGHUP": "ended by SIGHUP"}


@pytest.fixture(autouse=True)
def names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("anna\nbob\nhannah\n")


def begun(command, **options):
    """A training that has taken steps."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, **options
    )
    while b"\r" not in process.stdout.read(60):
        pass
    return process


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("place", ["--out", "--save"])
def test_a_signal_ends_the_training_and_saves_it(name, place):
    number = getattr(signal, name)
    process = begun([*COMMAND, place, "place"])
    process.send_signal(number)
    err = process.communicate()[1].decode().splitlines()[-1]
    assert process.returncode == 128 + number
    assert err.startswith(f"microgpt-fast: {SIGNALS[name]} after step ") and "; saved place" in err
    assert err.endswith("place" if place == "--save" else "microgpt-fast train --resume place continues")
    step = int(err.split(" after step ")[1].split()[0])
    if place == "--save":
        assert mg.load("place").config.vocab_size == 6
        return
    assert cli.main(["train", "--resume", "place", "--num-steps", str(step + 1), "--quiet"]) == 0
    assert mg.resume_training("place/last.safetensors", Path("names.txt")).step == step + 1


def test_what_ends_a_group_may_arrive_twice(monkeypatch):
    """As from `timeout`, which sends its signal to the process and then to the group: also while the model is saved."""

    def replace_file(*arguments, replace=checkpoint.replace_file):
        os.kill(os.getpid(), signal.SIGTERM)
        replace(*arguments)

    def take_steps(trainer, count, take=Trainer.take_steps):
        os.kill(os.getpid(), signal.SIGTERM)
        return take(trainer, count)

    monkeypatch.setattr(checkpoint, "replace_file", replace_file)
    monkeypatch.setattr(Trainer, "take_steps", take_steps)
    before = signal.signal(signal.SIGTERM, lambda *arguments: pytest.fail("it was not caught"))
    try:
        assert cli.main([*JOB, "--save", "model"]) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert mg.load("model").config.vocab_size == 6


@pytest.mark.parametrize("name", SIGNALS)
def test_an_ignored_signal_stays_ignored(name):
    process = begun(["sh", "-c", f'trap "" {name[3:]}; exec "$@"', "sh", *COMMAND, "--save", "model"])
    process.send_signal(getattr(signal, name))
    for _ in range(3):
        assert b"\r" in process.stdout.read(4096)
    process.kill()
    assert b"after step" not in process.communicate()[1]


def test_a_terminal_that_is_closed_ends_the_training_and_saves_it():
    child, leader = pty.fork()
    if not child:
        os.execve(sys.executable, [*COMMAND, "--save", "model"], ENVIRONMENT)
    seen = b""
    while b"\rstep" not in seen:
        seen += os.read(leader, 4096)
    os.close(leader)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 129
    assert mg.load("model").config.vocab_size == 6


def test_handlers_are_as_before():
    before = [signal.getsignal(getattr(signal, name)) for name in SIGNALS]
    assert cli.main([*JOB[:-3], "3", "--num-samples", "0", "--quiet"]) == 0
    assert [signal.getsignal(getattr(signal, name)) for name in SIGNALS] == before


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.thorough)])
def test_signals_at_random_moments_change_no_bit(count):
    assert send_signals(count, seed=count) >= 1
