"""Student's t: what the differences of pairs tell, and how many pairs would tell more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, stdev

LEVEL = 0.95  # of the intervals
POWER = 0.8  # the chance with which the seeds that are asked for would show a difference
LARGE = 1000  # degrees of freedom from which t is the normal distribution with one correction
MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Difference:
    """The mean difference of pairs, with its interval.

    Parameters
    ----------
    mean : float
    deviation : float
        Standard deviation of the differences; NaN for a single pair.
    pairs : int
    """

    mean: float
    deviation: float
    pairs: int

    @property
    def half_width(self) -> float:
        """mean ± this is the interval that holds the true difference in 95 % of experiments; infinite for one pair."""
        if self.pairs < 2:
            return math.inf
        return t_quantile(LEVEL, self.pairs - 1) * self.deviation / math.sqrt(self.pairs)

    @property
    def p(self) -> float:
        """How often a difference at least as large would come from pairs without any."""
        if self.pairs < 2 or self.mean == 0:
            return 1.0
        if self.deviation == 0:
            return 0.0
        return 1 - t_within(abs(self.mean) / self.deviation * math.sqrt(self.pairs), self.pairs - 1)

    @property
    def is_clear(self) -> bool:
        """Whether 0 is outside the interval."""
        return abs(self.mean) > self.half_width

    @property
    def seeds_needed(self) -> int | None:
        """Seeds with which 4 of 5 experiments would show a difference of this size; None for more than a million."""
        return seeds_needed(self.mean, self.deviation) if self.pairs > 1 else None


def difference_of(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The mean of second_i - first_i."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    deviation = stdev(differences) if len(differences) > 1 else math.nan
    return Difference(fmean(differences), deviation, len(differences))


def standard_error(values: Sequence[float]) -> float:
    """The standard deviation of the mean of values; NaN for a single one."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def t_within(t: float, freedom: int) -> float:
    """P(|T| <= t) of Student's t with `freedom` degrees of freedom, an integer.

    With θ = atan(t / √ν), by its finite sums (Abramowitz and Stegun 26.7.3 and 26.7.4)

        even ν: sin θ (1 + 1/2 cos²θ + 1·3/(2·4) cos⁴θ + ... to cos^(ν-2) θ)
        odd ν:  2/π (θ + sin θ (cos θ + 2/3 cos³θ + ... to cos^(ν-2) θ))
    """
    theta = math.atan2(t, math.sqrt(freedom))
    is_odd = freedom % 2
    term = math.cos(theta) ** is_odd
    total = term if freedom > 1 else 0.0
    for power in range(2 + is_odd, freedom - 1, 2):
        term *= (power - 1) / power * math.cos(theta) ** 2
        total += term
    return 2 / math.pi * (theta + math.sin(theta) * total) if is_odd else math.sin(theta) * total


@lru_cache(maxsize=1024)
def t_quantile(level: float, freedom: int) -> float:
    """The t with P(|T| <= t) = level."""
    if freedom > LARGE:
        z = NormalDist().inv_cdf((1 + level) / 2)
        return z + (z**3 + z) / (4 * freedom)
    low, high = 0.0, math.pi / 2  # of atan(t / √ν)
    while low < (middle := (low + high) / 2) < high:
        if t_within(math.tan(middle) * math.sqrt(freedom), freedom) < level:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def seeds_needed(mean: float, deviation: float) -> int | None:
    """The least n with (t of the interval + t of the power) · deviation / √n <= |mean|."""

    def shows(n):
        factor = t_quantile(LEVEL, n - 1) + t_quantile(2 * POWER - 1, n - 1)
        return factor * deviation / math.sqrt(n) <= abs(mean)

    if mean == 0 or not shows(MOST_SEEDS):
        return None
    low, high = 1, 2
    while not shows(high):
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def holm(ps: Sequence[float]) -> list[bool]:
    """Which of several comparisons stay clear when there are so many of them (Holm's correction of Bonferroni's).

    From the least p on, each is held against (1 - LEVEL) / the number of those not yet passed.
    """
    clear = [False] * len(ps)
    for passed, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[place] > (1 - LEVEL) / (len(ps) - passed):
            break
        clear[place] = True
    return clear
