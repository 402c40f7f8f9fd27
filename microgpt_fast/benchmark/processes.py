"""Other programs, and this one, timed from outside."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

import numpy as np

from ..config import UsageError
from ..data.load import BUILTIN

MAX_STEPS = 1 << 40
LONG_SECONDS = 0.4  # by which the long run of a program is to exceed the short one
STEP_LINE = re.compile(rb"step\s+\d+\s*/\s*\d+\s*\|\s*loss\s+([\d.]+)\s*[\r\n]")
# glibc returns large arrays to the system after every step and faults them in again: up to 1.5x for JAX
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


class PeerProcess:
    """A job in another framework: a program that takes the job on its command line and times it when told.

    The program writes one JSON object on its first line: {"missing": module} if it cannot run here, or its
    "name" with the version and the first "losses". Then it answers each line of input, a number of seconds,
    with {"seconds": [...], "peak_rss_mb": x}: the seconds a step of each of its calls.

    Parameters
    ----------
    path : Path
    job : Job
    dtype, threads : str, int

    Attributes
    ----------
    name : str
    losses : list of float
    missing : str or None
        The module that it needs and that is not installed.
    peak_rss_mb : float
    """

    def __init__(self, path, job, dtype, threads):
        request = json.dumps({"job": asdict(job), "dtype": dtype, "threads": threads})
        environment = {**source_environment(), **KEEP_MEMORY, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, str(path), request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._path = path
        hello = self._read()
        self.missing = hello.get("missing")
        self.name = hello.get("name")
        self.losses = hello.get("losses")
        self.peak_rss_mb = None

    def measure(self, seconds):
        """Train for about this long; returns the seconds a step of each call, an array."""
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        answer = self._read()
        self.peak_rss_mb = answer["peak_rss_mb"]
        return np.array(answer["seconds"])

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise UsageError(f"{self._path} ended with exit code {self._process.wait()}")
        return json.loads(line)


def peer_programs(folder):
    """The programs *_peer.py in a folder."""
    programs = sorted(Path(folder).glob("*_peer.py"))
    if not programs:
        raise UsageError(f"no *_peer.py in {folder}: give the folder bench of microgpt-fast's sources")
    return programs


def time_by_length(name, command, rounds=5):
    """Seconds a step of a whole program: the difference between a long and a short run.

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
        begin = perf_counter()
        run_program(name, [word.replace("{steps}", str(steps)) for word in words])
        return perf_counter() - begin

    short, long = 1, 16
    run(short)
    base = run(short)
    while (excess := run(long) - base) < LONG_SECONDS:
        long *= 2 if excess > LONG_SECONDS / 8 else 8
        if long > MAX_STEPS:
            raise UsageError(f"{name} takes no more time for more steps: where is {{steps}} in its command?")
    return np.array([(run(long) - run(short)) / (long - short) for _ in range(rounds)])


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


def time_startup(rounds=9):
    """Whole processes in turn: the default training run, and the import of NumPy.

    Returns
    -------
    train, numpy : float64 arrays [rounds]
        Seconds.
    """
    programs = (train_command(), [sys.executable, "-c", "import numpy"])
    times = np.empty((len(programs), rounds + 1))
    for i in range(rounds + 1):
        for j, words in enumerate(programs):
            begin = perf_counter()
            run_program("the training run", words)
            times[j, i] = perf_counter() - begin
    return times[:, 1:]


def run_program(name, words):
    """Run to the end; a UsageError if that fails."""
    try:
        done = subprocess.run(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=source_environment()
        )
    except OSError as error:
        raise UsageError(f"cannot run {name}: {words[0]}: {error.strerror or error}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(f"{name} ended with exit code {done.returncode}: {lines[-1] if lines else words}")


def source_environment():
    """The environment in which a child imports this very package."""
    home = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
