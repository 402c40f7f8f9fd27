"""A standing fuzzer: inputs made from a seed and a number, so that each can be made again.

A target is a module in `targets` with

    make(random)   an input, from a random.Random
    run(case)      try it: returns for what is right, a documented error included; raises for what is wrong

Nothing else has to be told about a new one. An input that raises, takes more than `SECONDS`, or ends the process
is a failure. `python -m tests.fuzz --help` tells how to run the targets, and how to run one input again.
"""

import atexit
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import traceback
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import NamedTuple

SECONDS = 5  # that no input may take
TARGETS = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).with_name("targets"))]))


class Failure(NamedTuple):
    """What went wrong with one input."""

    target: str
    seed: int
    number: int
    text: str

    def __str__(self):
        again = f"python -m tests.fuzz --target {self.target} --seed {self.seed} --input {self.number}"
        return f"{self.text.rstrip()}\n  again: {again}"


class TooSlow(Exception):
    """An input took too long."""


def scratch_folder():
    """A folder for the files of a target, in memory if the system has such; removed in the end."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="microgpt_fast-fuzz-", dir=memory))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def load(target):
    """The module of a target."""
    return import_module(f".targets.{target}", __package__)


def case_of(target, seed, number):
    """The input of this number."""
    return load(target).make(random.Random(f"{target} {seed} {number}"))


def attempt(target, seed, number):
    """Try one input: a Failure, or None."""
    try:
        with _limit():
            load(target).run(case_of(target, seed, number))
    except TooSlow:
        return Failure(target, seed, number, f"it took more than {SECONDS} s")
    except Exception:
        return Failure(target, seed, number, traceback.format_exc())
    return None


def fuzz(target, seed, first=0, count=None, until=None, begin=lambda number: None):
    """Try inputs from a number on.

    Parameters
    ----------
    target : str
    seed, first : int
    count : int, optional
    until : float, optional
        When to stop, by time.monotonic().
    begin : function of int, optional
        Is told each number before its input is tried.

    Returns
    -------
    tried : int
    failures : list of Failure
    """
    number, failures = first, []
    while (count is None or number < first + count) and (until is None or monotonic() < until):
        begin(number)
        failure = attempt(target, seed, number)
        if failure:
            failures.append(failure)
        number += 1
    return number - first, failures


@contextmanager
def _limit():
    """Ends what is in here after so many seconds, where the system can do that."""
    if sys.platform == "win32":
        yield
        return

    def stop(number, frame):
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
