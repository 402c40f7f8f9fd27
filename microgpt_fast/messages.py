"""What is told to the user: lines on stderr, and failures in one line."""

import sys
from contextlib import contextmanager

PROGRAM = "microgpt-fast"


class MachineError(Exception):
    """A failure of the machine, not of the user; the text is one line."""


def tell(message):
    """Write one line to stderr, if there is one."""
    try:
        if sys.stderr is not None:
            print(f"{PROGRAM}: {message}", file=sys.stderr, flush=True)
    except OSError:
        pass


@contextmanager
def machines_file(path):
    """Report an OSError in here as a failure to write this file."""
    try:
        yield
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror or error}") from None
