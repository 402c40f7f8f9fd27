"""The losses that a program of any make prints: found in its text, with the number of digits that it shows."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..config import UsageError

COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf)"
LOSS = re.compile(rf"(?:\b|_)loss\b[^\w+.-]*({NUMBER})(?![\w.])", re.IGNORECASE)
STEP = re.compile(r"\b(?:step|iter|iteration|it)\b[^\w+.-]*(\d{1,15})", re.IGNORECASE)
OTHER = re.compile(rf"\b(?:val|valid|validation|eval|test)[ _]*loss\b[^\w+.-]*{NUMBER}", re.IGNORECASE)
LONGEST = 1000  # characters of a line in which a loss is looked for


class Printed(NamedTuple):
    """A printed loss.

    Attributes
    ----------
    step : int
        From 1.
    loss : float
    unit : float
        What the last of its digits is worth.
    """

    step: int
    loss: float
    unit: float


def losses_in(lines: Iterable[str]) -> Iterator[Printed]:
    """The training losses in some lines, each as soon as it is known.

    A step's number is what follows "step" or "iter" in its line, counted from 0 or 1 as the first one is; without
    such words, the losses are those of successive steps.

    Raises
    ------
    UsageError
        if the numbers of the steps do not rise.
    """
    first, last = None, 0
    for line in lines:
        line = OTHER.sub("", COLOURS.sub("", line[:LONGEST]))
        found = LOSS.search(line)
        if found is None:
            continue
        numbered = STEP.search(line)
        if numbered is None:
            step = last + 1
        else:
            number = int(numbered[1])
            first = number if first is None else first
            step = number + (first == 0)
        if step <= last:
            raise UsageError(
                f"the printed steps do not rise: {step} follows {last}; give the output of one run"
            )
        last = step
        yield Printed(step, float(found[1]), unit_of(found[1]))


def unit_of(text: str) -> float:
    """What the last digit of a number is worth: 0.0001 for 3.3660, 0.001 for 1.23e-1."""
    mantissa, _, exponent = text.lower().partition("e")
    if not mantissa.strip("+-.0123456789") == "":
        return math.nan
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def split_lines(text: str) -> list[str]:
    r"""Lines ended by "\n" or, as those that overwrite each other on a terminal, by "\r"."""
    return re.split(r"[\r\n]+", text)
