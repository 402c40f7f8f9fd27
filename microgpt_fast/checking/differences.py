"""How far two arrays of floating-point numbers are apart."""

from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """The largest difference of some numbers.

    Attributes
    ----------
    ulps : int
        In units in the last place: how many floating-point numbers on. 0 means identical bits; zeros of
        different sign are 1 apart.
    relative : float
        Relative to the largest of the numbers.
    """

    ulps: int = 0
    relative: float = 0.0

    def __str__(self):
        if self.ulps == 0:
            return "identical"
        return f"{self.ulps if self.ulps < 10**6 else format(self.ulps, '.0e')} ulp {self.relative:.1e}"

    def or_larger(self, other):
        """The larger of each."""
        return Difference(max(self.ulps, other.ulps), float(np.maximum(self.relative, other.relative)))


def difference(got, wanted, floor=0.0):
    """How far `got` is from `wanted`.

    Parameters
    ----------
    got : float32 or float64 array, or a number
    wanted : float64 array of the same shape
        Rounded to got's dtype for counting in ulp, but not for the relative difference.
    floor : float
        The relative difference is one relative to at least this.

    Returns
    -------
    Difference
    """
    got, wanted = np.atleast_1d(got), np.atleast_1d(wanted)
    a, b = ordered(got), ordered(wanted.astype(got.dtype))
    ulps = int((np.maximum(a, b) - np.minimum(a, b)).max())
    with np.errstate(all="ignore"):
        error, largest = np.abs(got - wanted).max(), max(floor, np.abs(wanted).max())
        return Difference(ulps, float(error / largest) if error != 0 else 0.0)


def distance(got, wanted):
    """The norm of got - wanted relative to that of wanted; 0 where both are 0."""
    wanted = wanted.astype(np.float64)
    error, norm = np.linalg.norm(got - wanted), np.linalg.norm(wanted)
    return float(error / norm) if error else 0.0


def ordered(array):
    """Unsigned integers in the order of the floating-point numbers, neighbours 1 apart."""
    bits = array.view(np.dtype(f"u{array.itemsize}"))
    sign = bits.dtype.type(1 << (8 * array.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign)
