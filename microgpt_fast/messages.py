"""What is told to a user: lines on stderr, and failures that are one line."""

import sys
from contextlib import contextmanager

PROGRAM = "microgpt-fast"


class MachineError(Exception):
    """A failure that is not the user's, in one line."""


def tell(message):
    """One line on stderr; nowhere, if there is no stderr."""
    try:
        if sys.stderr is not None:
            print(f"{PROGRAM}: {message}", file=sys.stderr, flush=True)
    except OSError:
        pass


@contextmanager
def machines_file(path):
    """An OSError in here is a failure to write a file, found late."""
    try:
        yield
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror or error}") from None
