"""Objects that one thread uses at a time."""

import threading


class OneThread:
    """A context that only one thread at a time is in; another gets a RuntimeError rather than wrong numbers.

    A copy, or what is unpickled, is one of its own.

    Parameters
    ----------
    name : str
        What is used in here, for the message.
    """

    def __init__(self, name: str) -> None:
        self.name, self._lock = name, threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                f"this {self.name} is at work in another thread, or in the call that made this one: "
                "use it in one thread at a time, or one per thread"
            )

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self):
        return OneThread, (self.name,)


class Guarded:
    """An iterator each of whose steps is taken inside a `OneThread`."""

    def __init__(self, iterator, alone: OneThread) -> None:
        self._iterator, self._alone = iterator, alone

    def __iter__(self):
        return self

    def __next__(self):
        with self._alone:
            return next(self._iterator)
