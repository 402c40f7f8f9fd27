"""Programs that time a job when told: other frameworks, and other versions of this package."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..config import UsageError
from .programs import brief, last_line, source_environment

MAX_LINE = 1 << 24  # characters of an answer
END_SECONDS = 10  # that a program has to end in, once its input is closed
# glibc returns large arrays to the system after every step and faults them in again: up to 1.5x for JAX
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


class TimedProcess:
    """A program that times a job when told.

    It writes one JSON object on its first line: who it is, or {"missing": module} if it cannot run here, or
    {"error": text}. Then it answers each line of input, a number of seconds, with {"seconds": [...]}: the
    seconds per step of each of its calls.

    Parameters
    ----------
    name : str
        For messages.
    words : list of str
        The command.
    environment : dict
    show_errors : bool
        Let the program write to our stderr; otherwise its last line there explains a failure.

    Attributes
    ----------
    hello : dict
        The first line.

    Raises
    ------
    UsageError
        if the program cannot be started, ends early, reports an error or answers anything else.
    """

    def __init__(self, name, words, environment, show_errors=False):
        self.name = name
        self._errors = None if show_errors else tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
                errors="replace",
                env=environment,
            )
        except OSError as error:
            raise UsageError(f"cannot run {name}: {words[0]}: {error.strerror or error}") from None
        try:
            self.hello = self._read()
        except BaseException:
            self.close()
            raise

    def measure(self, seconds):
        """Train for about this long; returns the seconds per step of each call, an array."""
        return np.array(self.ask(seconds)["seconds"])

    def ask(self, seconds):
        """The whole answer to a number of seconds."""
        try:
            self._process.stdin.write(f"{seconds}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: reading says how
        answer = self._read()
        times = answer.get("seconds")
        if not (
            isinstance(times, list) and times and all(type(t) is float and 0 < t < np.inf for t in times)
        ):
            raise UsageError(f"{self.name} answered {brief(answer)}, not its seconds per step")
        return answer

    def close(self):
        """Let the program end, or make it."""
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        self._process.stdout.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._errors is not None:
            self._errors.close()

    def _read(self):
        line = self._process.stdout.readline(MAX_LINE)
        if not line:
            code = self._process.wait()
            raise UsageError(f"{self.name} ended with exit code {code}{self._last_error()}")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise UsageError(f"{self.name} wrote {brief(line)}, not an answer to the bench")
        if "error" in answer:
            raise UsageError(f"{self.name}: {answer['error']}")
        return answer

    def _last_error(self):
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return last_line(self._errors.read())


class PeerProcess(TimedProcess):
    """A job in another framework: a program that takes the job on its command line. See `TimedProcess`.

    Its first line gives its "name" with the version, and the first "losses"; its answers "peak_rss_mb", too.

    Parameters
    ----------
    path : Path
    job : Job
    dtype, threads : str, int

    Attributes
    ----------
    title : str
        Name and version.
    losses : list of float
    missing : str or None
        The module that it needs and that is not installed.
    peak_rss_mb : float
    """

    def __init__(self, path, job, dtype, threads):
        request = json.dumps({"job": asdict(job), "dtype": dtype, "threads": threads})
        environment = {**source_environment(), **KEEP_MEMORY, "OMP_NUM_THREADS": str(threads)}
        super().__init__(str(path), [sys.executable, str(path), request], environment, show_errors=True)
        self.missing = self.hello.get("missing")
        self.title = self.hello.get("name")
        self.losses = self.hello.get("losses")
        self.peak_rss_mb = None

    def ask(self, seconds):
        answer = super().ask(seconds)
        self.peak_rss_mb = answer["peak_rss_mb"]
        return answer


def peer_programs(folder):
    """The programs *_peer.py in a folder."""
    programs = sorted(Path(folder).glob("*_peer.py"))
    if not programs:
        raise UsageError(f"no *_peer.py in {folder}: give the folder bench of microgpt-fast's sources")
    return programs
