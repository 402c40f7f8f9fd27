"""A port's program, run for its output until it has printed enough."""

import codecs
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..config import UsageError
from .printed import split_lines

PIECE = 1 << 16
MOST_BYTES = 1 << 26  # of output


class Program:
    """A command whose output is read line by line.

    Parameters
    ----------
    words : list of str
        The program and its arguments; it runs in the current folder.
    seconds : float
        After which it is ended.

    Attributes
    ----------
    exit_code : int or None
        None where it was ended before its own end.
    was_late : bool
        Whether it was ended for the time that it took.

    Raises
    ------
    UsageError
        if the command cannot be run.
    """

    def __init__(self, words: list[str], seconds: float) -> None:
        self._errors = tempfile.TemporaryFile()
        self.exit_code: int | None = None
        self.was_late = False
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._errors.close()
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot run {words[0]}: {reason}") from None
        self._timer = threading.Timer(seconds, self._end_late)
        self._timer.start()

    def lines(self) -> Iterator[str]:
        """The lines of its output, each as it comes; stop asking to end the program."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest, size = "", 0
        while piece := os.read(self._process.stdout.fileno(), PIECE):
            size += len(piece)
            *lines, rest = split_lines(rest + decoder.decode(piece))
            yield from lines
            if size > MOST_BYTES or len(rest) > MOST_BYTES:
                raise UsageError(f"the program printed more than {MOST_BYTES:,} bytes")
        self.exit_code = self._process.wait()
        yield rest

    def last_error(self) -> str:
        """The last line of what it wrote to stderr; empty if that is nothing."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - PIECE))
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """End it, and what it has started."""
        self._timer.cancel()
        self._end()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _end_late(self):
        self.was_late = True
        self._end()

    def _end(self):
        try:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, 9)
            else:
                self._process.kill()
        except ProcessLookupError:
            pass


@contextmanager
def running(words: list[str], seconds: float) -> Iterator[Program]:
    """A `Program`, ended when the context is left."""
    program = Program(words, seconds)
    try:
        yield program
    finally:
        program.close()
