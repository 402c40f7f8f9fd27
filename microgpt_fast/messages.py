"""What is told to the user: lines on stderr, and failures in one line."""

import os
import re
import sys
from contextlib import contextmanager

PROGRAM = "microgpt-fast"
# What a terminal obeys rather than shows: the control characters, line and paragraph separators, and what changes
# the direction of text; and lone surrogates, which stand for bytes of file names that are not UTF-8.
CONTROL = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"


class MachineError(Exception):
    """A failure of the machine, not of the user; the text is one line."""


def printable(text, keep=""):
    r"""A text that any terminal shows as it is: control characters become \n, \x1b, \u202e and the like.

    Parameters
    ----------
    text : str
    keep : str
        Characters that are left alone.

    Returns
    -------
    text : str
    """
    return re.sub(CONTROL, lambda match: match[0] if match[0] in keep else _escape(match[0]), str(text))


def _escape(char):
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that is not UTF-8
        code -= 0xDC00
    if char in "\n\r\t":
        return {"\n": r"\n", "\r": r"\r", "\t": r"\t"}[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def tell(message):
    """Write one line to stderr, if there is one."""
    try:
        if sys.stderr is not None:
            print(_wrapped(f"{PROGRAM}: {printable(message)}"), file=sys.stderr, flush=True)
    except (OSError, ValueError):  # it cannot be written to, or is closed
        pass


def _wrapped(line):
    """A line as a terminal shows it, broken between words."""
    if not sys.stderr.isatty():
        return line
    from shutil import get_terminal_size
    from textwrap import fill

    width = get_terminal_size().columns
    return fill(line, width - 1, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


@contextmanager
def machines_file(path):
    """Report an OSError in here as a failure to write this file."""
    try:
        yield
    except OSError as error:
        missing = file_of(error, path) if isinstance(error, FileNotFoundError) else path
        inside = "" if missing == path else f"{missing}: "
        raise MachineError(f"cannot write {path}: {inside}{error.strerror or error}") from None


def file_of(error, path):
    """The file that an OSError names, if it is not a temporary one of ours, or else `path`."""
    name = error.filename
    return name if isinstance(name, str) and not os.path.basename(name).startswith(".") else path
