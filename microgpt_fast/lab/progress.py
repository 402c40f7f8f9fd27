"""How many runs are done and how long the others take, on stderr: a bar if tqdm is installed, or else lines."""

import sys
from contextlib import suppress
from time import perf_counter
from typing import Any

from ..messages import tell

QUIET_SECONDS = 2  # shorter comparisons are not reported
LINE_SECONDS = 10  # between two lines


class RunProgress:
    """A context in which the progress of runs is reported.

    Parameters
    ----------
    total : int
        Runs, those of earlier calls included.
    """

    def __init__(self, total: int) -> None:
        self._total, self._initial = total, None
        self._begin = self._told = perf_counter()
        self._bar: Any = None
        self._may_draw = True

    def __enter__(self) -> "RunProgress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()

    def report(self, done: int) -> None:
        """Say how far it is, if it is time."""
        now = perf_counter()
        if self._initial is None:
            self._initial = done
            return
        if now - self._begin < QUIET_SECONDS:
            return
        if self._may_draw:
            self._bar, self._may_draw = _bar_of(self._total, self._initial), False
        if self._bar is not None:
            with suppress(OSError):
                self._bar.update(done - self._bar.n)
        elif now - self._told >= LINE_SECONDS or self._told == self._begin:
            self._told = now
            left = round((now - self._begin) / (done - self._initial) * (self._total - done))
            tell(f"{done} of {self._total} runs, {left // 60}:{left % 60:02} left")


def _bar_of(total, initial):
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, initial=initial, unit="run", dynamic_ncols=True)
