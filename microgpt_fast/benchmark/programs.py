"""Whole programs, this one among them, timed from outside."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None

from ..config import UsageError
from ..data.load import BUILTIN

MAX_STEPS = 1 << 40
LONG_SECONDS = 0.4  # by which the long run of a program is to exceed the short one
STEP_LINE = re.compile(rb"step\s+\d+\s*/\s*\d+\s*\|\s*loss\s+([\d.]+)\s*[\r\n]")


def time_by_length(name, command, rounds=5):
    """Seconds per step of a whole program: the difference between a long and a short run.

    Parameters
    ----------
    name : str
        For messages.
    command : str or list of str
        With {steps} where the number of steps is to stand.
    rounds : int
        Pairs of runs.

    Returns
    -------
    seconds : float64 array [rounds]

    Raises
    ------
    UsageError
        if the program cannot be run, ends with an error, or takes as long for any number of steps.
    """
    words = shlex.split(command) if isinstance(command, str) else command

    def run(steps):
        return time_program(name, [word.replace("{steps}", str(steps)) for word in words])[0]

    short, long = 1, 16
    run(short)
    base = run(short)
    while (excess := run(long) - base) < LONG_SECONDS:
        long *= 2 if excess > LONG_SECONDS / 8 else 8
        if long > MAX_STEPS:
            raise UsageError(f"{name} takes no more time for more steps: where is {{steps}} in its command?")
    return np.array([(run(long) - run(short)) / (long - short) for _ in range(rounds)])


def first_losses(name, command, steps=3):
    """The losses of the first steps that a program prints, as microgpt.py prints them."""
    words = [word.replace("{steps}", str(steps)) for word in shlex.split(command)]
    return [float(loss) for loss in STEP_LINE.findall(run_program(name, words, captures=True))]


def parse_peer(text):
    """NAME=COMMAND or NAME:DTYPE:BATCH=COMMAND as (name, dtype or None, batch size or None, command)."""
    label, equals, command = text.partition("=")
    name, *work = label.split(":")
    if not (name and equals) or len(work) not in (0, 2) or (work and not work[1].isdigit()):
        raise UsageError(f"--peer must be NAME=COMMAND or NAME:DTYPE:BATCH=COMMAND, not {text!r}")
    if "{steps}" not in command:
        raise UsageError(f"the command of --peer {name} must contain {{steps}}, not {command!r}")
    return name, work[0] if work else None, int(work[1]) if work else None, command


def time_original(path, max_steps=20, max_seconds=15.0):
    """The user's copy of microgpt.py, as it is, on the built-in names: the time between its step lines.

    Parameters
    ----------
    path : path
    max_steps, max_seconds : int, float
        The program is stopped after the first of these.

    Returns
    -------
    seconds : float64 array
        Of each step but the first.
    losses : list of float
        As printed.
    """
    path = Path(path).resolve()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "input.txt").write_bytes(Path(BUILTIN).read_bytes())
        process = subprocess.Popen(
            [sys.executable, "-u", str(path)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        begin = perf_counter()
        output, times = b"", []
        while len(times) <= max_steps and (perf_counter() - begin < max_seconds or len(times) < 2):
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            output += piece
            times += [perf_counter()] * (len(STEP_LINE.findall(output)) - len(times))
        process.kill()
        process.stdout.close()
        process.wait()
    if len(times) < 2:
        raise UsageError(f"--original: {path} printed no lines like 'step 1 / 1000 | loss 3.3'")
    return np.diff(times), [float(loss) for loss in STEP_LINE.findall(output)]


def train_command(*options):
    """The words of a training run of ours; -P, since a folder microgpt_fast may be where we are."""
    return [sys.executable, "-P", "-m", "microgpt_fast", "train", *options]


def startup_commands(python=sys.executable):
    """The words of the default training run, and of the package's import, by an interpreter."""
    return [python, "-P", "-m", "microgpt_fast", "train"], [python, "-P", "-c", "import microgpt_fast"]


def time_startup(rounds=9):
    """Whole processes in turn: the default training run, our import, and the import of NumPy.

    Returns
    -------
    train, package, numpy : float64 arrays [2, rounds]
        Seconds by the wall clock, and of processor time; see `time_program`.
    """
    programs = (*startup_commands(), [sys.executable, "-c", "import numpy"])
    times = np.empty((len(programs), 2, rounds + 1))
    for i in range(rounds + 1):
        for j, words in enumerate(programs):
            times[j, :, i] = time_program("the training run", words)
    return times[:, :, 1:]


def time_program(name, words, environment=None):
    """Seconds that a whole process takes, and seconds of processor time: see `run_program`.

    The processor time is NaN where the system does not tell it.
    """
    begin, cpu_begin = perf_counter(), processor_time_of_children()
    run_program(name, words, environment)
    return perf_counter() - begin, processor_time_of_children() - cpu_begin


def processor_time_of_children():
    """Seconds of all that have ended; NaN where the system does not tell."""
    if resource is None:
        return np.nan
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_program(name, words, environment=None, captures=False):
    """Run to the end, by default with this package to import; a UsageError if that fails.

    Returns
    -------
    output : bytes or None
        What it writes to stdout, where that is captured.
    """
    try:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE if captures else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=source_environment() if environment is None else environment,
        )
    except OSError as error:
        raise UsageError(f"cannot run {name}: {words[0]}: {error.strerror or error}") from None
    if done.returncode:
        raise UsageError(
            f"{name} ended with exit code {done.returncode}{last_line(done.stderr) or f': {words}'}"
        )
    return done.stdout


def last_line(errors):
    """What a program wrote last on stderr (bytes), after a colon; empty if that is nothing."""
    lines = errors.decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def brief(value):
    """A value from outside, short enough for a message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def source_environment():
    """The environment in which a child imports this very package."""
    home = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
