"""What a comparison has found, as numbers and as sentences."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from statistics import fmean, median, median_low
from typing import Any

from .arms import Arm
from .one_run import Job
from .statistics import LEVEL, Difference, difference_of, holm, standard_error


class ArmResult:
    """The runs of one arm.

    Parameters
    ----------
    arm : Arm
    results : dict of seed to dict
        Of the runs that have ended; see `records.SCHEMA`.
    first : ArmResult or None
        What it is compared with.

    Attributes
    ----------
    losses : dict of seed to float
        Held-out losses in nats per token.
    diverged : dict of seed to str
    """

    def __init__(self, arm: Arm, results: Mapping[int, Mapping[str, Any]], first: "ArmResult | None") -> None:
        self.name, self.options = arm.name, arm.options
        self._first = first
        self.runs = {seed: result for seed, result in results.items() if "loss" in result}
        self.losses: dict[int, float] = {seed: result["loss"] for seed, result in self.runs.items()}
        self.diverged: dict[int, str] = {
            seed: result["diverged"] for seed, result in results.items() if "diverged" in result
        }

    @property
    def mean(self) -> float | None:
        """The mean held-out loss."""
        return fmean(self.losses.values()) if self.losses else None

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None for fewer than two runs."""
        return standard_error([*self.losses.values()]) if len(self.losses) > 1 else None

    @property
    def us_per_step(self) -> float | None:
        """The median over the seeds."""
        return median(run["us_per_step"] for run in self.runs.values()) if self.runs else None

    @property
    def steps(self) -> int | None:
        """The median over the seeds: with a time budget they differ."""
        return median_low(run["steps"] for run in self.runs.values()) if self.runs else None

    @property
    def num_params(self) -> int | None:
        """Number of parameters."""
        return next((run["num_params"] for run in self.runs.values()), None)

    @property
    def held_out_tokens(self) -> set[tuple[int, int]]:
        """(seed, number of tokens that were predicted) of each run."""
        return {(seed, run["held_out_tokens"]) for seed, run in self.runs.items()}

    @cached_property
    def difference(self) -> Difference | None:
        """The mean of its losses minus the first arm's, over the seeds that both have; None without any."""
        if self._first is None:
            return None
        seeds = [seed for seed in self.losses if seed in self._first.losses]
        if not seeds:
            return None
        return difference_of(
            [self._first.losses[seed] for seed in seeds], [self.losses[seed] for seed in seeds]
        )


class Comparison:
    """Arms that were trained with the same seeds.

    Attributes
    ----------
    arms : list of ArmResult
        All but the first have a `difference` from the first.
    seeds : sequence of int
        Those that were asked for.
    done, total : int
        Runs.
    died : list of (Job, str)
        Runs that ended twice without a result, and how.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        results: Mapping[tuple[int, int], Mapping[str, Any]],
        died: Sequence[tuple[Job, str]] = (),
    ) -> None:
        self._arms, self.seeds, self._results, self.died = arms, seeds, results, list(died)
        self.total = len(arms) * len(seeds)

    @cached_property
    def _wanted(self):
        seeds = set(self.seeds)
        return {key: result for key, result in self._results.items() if key[1] in seeds}

    @property
    def done(self) -> int:
        """Runs that have ended, those that diverged among them."""
        return len(self._wanted)

    @cached_property
    def arms(self) -> list[ArmResult]:
        """What each arm has shown; the first is what the others are compared with."""
        found: list[ArmResult] = []
        for place, arm in enumerate(self._arms):
            results = {
                seed: self._wanted[place, seed] for seed in self.seeds if (place, seed) in self._wanted
            }
            found.append(ArmResult(arm, results, found[0] if found else None))
        return found

    @property
    def sentences(self) -> list[str]:
        """One for each arm but the first, then what must be known to believe them."""
        first, *others = self.arms
        return [sentence(arm, first.name) for arm in others] + self.warnings

    @property
    def warnings(self) -> list[str]:
        """Why the intervals may say less than they seem to."""
        warnings = []
        if len({frozenset(arm.held_out_tokens) for arm in self.arms if arm.runs}) > 1:
            warnings.append(
                "the arms are not measured on the same held-out tokens: block_size or bos differs, or runs failed"
            )
        for arm in self.arms:
            if arm.diverged:
                left_out = "; these are left out, and the others look better than the arm is" * bool(arm.runs)
                warnings.append(
                    f"{arm.name} diverged with {len(arm.diverged)} of {len(self.seeds)} seeds{left_out}"
                )
        for job, reason in self.died:
            warnings.append(f"{self._arms[job.arm].name}, seed {job.seed}: no result, twice: {reason}")
        return warnings + self._many()

    def _many(self):
        """A warning about many comparisons at once."""
        compared = [arm for arm in self.arms if arm.difference is not None and arm.difference.pairs > 1]
        if len(compared) < 2:
            return []
        chance = 1 - LEVEL ** len(compared)
        clear = [arm.name for arm in compared if arm.difference.is_clear]
        kept = [
            arm.name for arm, holds in zip(compared, holm([arm.difference.p for arm in compared])) if holds
        ]
        text = (
            f"{len(compared)} comparisons at once: were there no difference at all, one would seem clear "
            f"in up to {chance:.0%} of such tables"
        )
        if not clear:
            return [text]
        names = (
            "all of them remain"
            if kept == clear
            else f"{', '.join(kept) or 'none'} remain{'s' * (len(kept) < 2)}"
        )
        return [f"{text}; corrected for that (Holm), of {len(clear)} clear ones {names}"]


def sentence(arm: ArmResult, first: str) -> str:
    """What the pairs say about an arm."""
    difference = arm.difference
    if difference is None:
        return f"{arm.name}: no seed with a result of its own and of {first}"
    if difference.pairs < 2:
        return f"{arm.name}: one seed tells nothing about the difference from {first}: give more"
    if difference.mean == difference.deviation == 0:
        return f"{arm.name} is the same as {first}: equal losses with every seed"
    size, half = rounded(abs(difference.mean), difference.half_width)
    if difference.is_clear:
        word = "better" if difference.mean < 0 else "worse"
        return f"{arm.name} is {word} by {size} ± {half} nats than {first}, {difference.pairs} seeds"
    needed = difference.seeds_needed
    many = "more than a million seeds" if needed is None else f"about {brief(needed)} seeds"
    signed, _ = rounded(difference.mean, difference.half_width)
    return (
        f"{arm.name}: whether it is better than {first} cannot be told from {difference.pairs} seeds "
        f"({signed} ± {half} nats); {many} would tell, if the difference is what it seems"
    )


def rounded(value: float, half_width: float) -> tuple[str, str]:
    """A value and the half width of its interval, with two digits of the latter."""
    digits = 2 if half_width == 0 else max(0, 1 - _exponent(half_width))
    return f"{value:z.{digits}f}", f"{half_width:.{digits}f}"


def _exponent(value):
    return int(f"{value:.1e}".partition("e")[2])


def brief(number: int) -> int:
    """A number with two digits that matter."""
    return int(float(f"{number:.1e}"))
