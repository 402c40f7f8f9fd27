"""What the command line writes to stdout: losses and samples."""

import errno
import io
import os
import sys
from contextlib import contextmanager
from time import perf_counter

from ..messages import MachineError, printable

REDRAW_SECONDS = 0.1  # between two progress lines on a terminal


class Stdout:
    """Standard output: UTF-8 whatever the locale; on a terminal, at most ten step lines per second.

    Files and pipes get every text as it is. A terminal obeys control characters, which a model may have learned
    from anybody's text: there they are shown escaped, newlines and tabs excepted.

    Attributes
    ----------
    survives_pipe : bool
        When the reader of a pipe or the terminal goes away, work on without output rather than end.
    is_raw : bool
        A terminal gets control characters, too.
    is_terminal : bool
    redraws : bool
        The lines of steps overwrite each other, at most ten per second.
    """

    def __init__(self):
        self.survives_pipe = self.is_raw = False
        self._stream = sys.stdout if sys.stdout is not None else open(os.devnull, "w")
        self._bytes = _bytes_of(self._stream)
        self.is_terminal = self.redraws = _is_terminal(self._stream)
        self._drawn = float("-inf")
        self._width = 0
        self._pending = ""

    def write(self, text):
        """Write a text; a pipe without a reader ends the program, or only its output."""
        self._write(printable(text, keep="\n\t") if self.is_terminal and not self.is_raw else text)

    def _write(self, text):
        with self._pipe():
            if self._bytes is None:
                self._stream.write(text)
            else:
                self._bytes.write(_encoded(text))

    def steps(self, step, num_steps, losses):
        r"""Write the lines, each ended by "\r", of the steps up to `step`, of which these are the losses."""
        first = step - len(losses) + 1
        if not self.redraws:
            values = [value for pair in zip(range(first, step + 1), losses.tolist()) for value in pair]
            self._write(f"step %4d / {num_steps:4d} | loss %.4f\r" * len(losses) % tuple(values))
            self.flush()
            return
        self._pending = f"step {step:4d} / {num_steps:4d} | loss {losses[-1]:.4f}"
        if perf_counter() - self._drawn >= REDRAW_SECONDS:
            self.end_steps()

    def end_steps(self):
        """Show the last step on a terminal."""
        if self._pending:
            self._write(self._pending.ljust(self._width) + "\r")
            self.flush()
            self._drawn, self._width, self._pending = perf_counter(), len(self._pending), ""

    def clear_steps(self):
        """Take the last step from a terminal, for what is drawn in its place."""
        if self.is_terminal and self._width:
            self._write(" " * self._width + "\r")
            self.flush()
            self._width = 0

    def samples(self, texts, is_long=False):
        """Write samples as they are drawn.

        Parameters
        ----------
        texts : iterable of iterable of str
            The pieces of each sample.
        is_long : bool
            Whether each begins on a line of its own.
        """
        self.flush()
        flushed = perf_counter()
        for index, pieces in enumerate(texts, 1):
            self.write(f"sample {index:2d}: " + "\n" * is_long)
            for piece in pieces:
                self.write(piece)
                if perf_counter() - flushed >= REDRAW_SECONDS:
                    self.flush()
                    flushed = perf_counter()
            self.write("\n")

    def flush(self):
        """Pass on what was written."""
        with self._pipe():
            self._stream.flush()
            if self._bytes is not None:
                self._bytes.flush()

    @contextmanager
    def _pipe(self):
        try:
            yield
        except OSError as error:
            is_gone = error.errno in (errno.EPIPE, errno.EIO)  # EIO: a terminal that hung up
            if is_gone and self.survives_pipe:
                self.silence()
                return
            if isinstance(error, BrokenPipeError):
                raise
            raise MachineError(f"cannot write the output: {error.strerror or error}") from None

    def silence(self):
        """Drop what could not be written, and all that follows: the interpreter would complain at its exit."""
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        except (OSError, ValueError):  # not a file of the system
            pass


def _bytes_of(stream):
    """What takes the bytes of a stream; None for one that takes text only: io.StringIO, a notebook's."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        return open(stream.fileno(), "wb", closefd=False)
    except (OSError, ValueError):  # not a file of the system
        return stream.buffer


def _is_terminal(stream):
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _encoded(text):
    """UTF-8; the bytes of a file's name are what they were."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")
