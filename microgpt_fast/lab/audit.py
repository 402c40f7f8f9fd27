"""`audit`: whether the losses that a port prints are those of microgpt, and if not, which known defect has them."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ..config import UsageError
from ..training.trainer import Trainer
from .defects import DEFECTS, Defect, losses_with
from .printed import Printed

EXACT = 1e-9  # by which losses differ at most that were computed in float64, in another order
LEAST_DRIFT = 1e-6  # of float32: some units in the last place of a loss
DRIFTS = 30  # two float32 programs may differ by so many times what ours differs from float64
FINE = 1e-8  # digits that tell float64 from float32
SAME = Defect("none", "no defect")


class Candidate(NamedTuple):
    """Losses that a port could have.

    Attributes
    ----------
    defect : Defect
    dtype : str
    losses : float64 array
        By step.
    agrees : int
        How many of the printed losses agree, from the first on.
    """

    defect: Defect
    dtype: str
    losses: np.ndarray
    agrees: int

    @property
    def text(self) -> str:
        return self.defect.text + (", in float32" if self.dtype == "float32" else "")


class Audit:
    """The printed losses, beside those of the reference and of known defects.

    Parameters
    ----------
    trainer : Trainer
        With what the port trains on and its constants, before its first step.
    printed : iterable of Printed

    Attributes
    ----------
    printed : list of Printed
        Those of steps that the run has.
    reference : Candidate
    matches : list of Candidate
        Those that agree with all printed losses: the reference in float64 or else in float32, or else defects.
    unseen : list of Candidate
        Where the reference agrees, the defects that do, too.
    tried : list of Candidate
        All that were looked at, those that agree longest first.
    """

    def __init__(self, trainer: Trainer, printed: Iterable[Printed]) -> None:
        self.trainer = trainer
        self.printed = [p for p in printed if p.step <= trainer.config.num_steps]
        if not self.printed:
            raise UsageError("no losses to compare: the program printed none of the first steps")
        self.last = self.printed[-1].step
        self._known: dict[tuple[str, str], np.ndarray] = {}
        self.tried: list[Candidate] = []
        self.reference = self._candidate(SAME, "float64", self._tolerance(EXACT))
        self.unseen: list[Candidate] = []
        self.matches = [self.reference] if self._is_match(self.reference) else self._search()
        if self.holds:
            slack = self._tolerance(EXACT) if self.parts_at is None else self._drift()
            self.unseen = self._matching("float64", slack)

    @property
    def holds(self) -> bool:
        """Whether the port computes what microgpt does."""
        return any(match.defect is SAME for match in self.matches)

    @property
    def parts_at(self) -> Printed | None:
        """The first printed loss that is not the reference's."""
        return None if self._is_match(self.reference) else self.printed[self.reference.agrees]

    def _search(self):
        drift, exact = self._drift(), self._tolerance(EXACT)
        has_many_digits = (
            min(printed.unit for printed in self.printed) <= FINE
        )  # zeros at the end may be left out
        if has_many_digits and (found := self._matching("float64", exact)):
            return found
        single = self._candidate(SAME, "float32", drift)
        if self._is_match(single):
            return [single]
        return self._matching("float64", exact) or self._matching("float32", drift)

    def _matching(self, dtype, slack):
        """The defects that agree with all printed losses."""
        is_single = self.trainer.config.batch_size == 1
        defects = [d for d in DEFECTS if d.weights is None or not is_single]
        found = [self._candidate(defect, dtype, slack) for defect in defects]
        self.tried = sorted([*self.tried, *found], key=lambda c: -c.agrees)
        return [c for c in found if self._is_match(c)]

    def _is_match(self, candidate):
        return candidate.agrees == len(self.printed)

    def _candidate(self, defect, dtype, slack):
        losses = self._losses(defect, dtype)
        agrees = 0
        for printed in self.printed:
            error = abs(printed.loss - losses[printed.step - 1])
            if not error <= printed.unit / 2 + slack[printed.step - 1]:
                break
            agrees += 1
        return Candidate(defect, dtype, losses, agrees)

    def _losses(self, defect, dtype):
        key = (defect.name, dtype)
        if key not in self._known:
            self._known[key] = self._computed(defect, dtype)
        return self._known[key]

    def _computed(self, defect, dtype):
        if defect is SAME and dtype == "float64":
            trainer = self.trainer
            arrays = trainer.model.parameters, trainer.moments
            kept = [array.copy() for array in arrays]
            losses, _ = trainer.take_steps(self.last)
            for array, before in zip(arrays, kept):
                array[:] = before
            return losses
        return np.array([*islice(losses_with(defect, self.trainer, dtype), self.last)])

    def _tolerance(self, slack):
        return np.full(self.last, slack)

    def _drift(self):
        """By how much a program in float32 may differ from float64, by step."""
        single = self._losses(SAME, "float32")
        return DRIFTS * np.maximum(LEAST_DRIFT, np.maximum.accumulate(np.abs(single - self.reference.losses)))


def lines(audit: Audit) -> list[str]:
    """The report; its last line is the verdict."""
    count = len(audit.printed)
    report = [f"{count} printed losses compared, of steps {audit.printed[0].step} to {audit.last}"]
    parting = audit.parts_at
    if parting is not None:
        wanted = audit.reference.losses[parting.step - 1]
        report.append(
            f"first loss that differs: step {parting.step}: printed {parting.loss!r}, reference {wanted:.9g}"
        )
    if not audit.matches:
        report += [f"{c.text}: agrees with the first {c.agrees}" for c in audit.tried[:3] if c.agrees]
    if audit.unseen:
        report.append(
            "these defects would not show in these losses: " + "; ".join(c.text for c in audit.unseen)
        )
    return [*report, f"verdict: {verdict(audit)}"]


def verdict(audit: Audit) -> str:
    """The finding, in one line."""
    parting = audit.parts_at
    if parting is None:
        return "the same losses as the reference"
    if audit.holds:
        return f"the same algorithm in float32: its rounding shows from step {parting.step} on"
    if audit.matches:
        causes = "; or: ".join(match.text for match in audit.matches)
        return f"DIFFERS from step {parting.step} on, as it would if: {causes}"
    if parting is audit.printed[0]:
        return (
            f"DIFFERS from its first loss, at step {parting.step}, on: other initial parameters, data, order or "
            "forward pass, and no known defect"
        )
    return f"DIFFERS from step {parting.step} on, like no known defect"


def as_dict(audit: Audit) -> dict[str, Any]:
    """The finding, for programs."""
    parting = audit.parts_at
    return {
        "holds": audit.holds,
        "verdict": verdict(audit),
        "compared": len(audit.printed),
        "parts_at": parting and parting.step,
        "printed": parting and float_or_text(parting.loss),
        "reference": parting and float(audit.reference.losses[parting.step - 1]),
        "matches": [_as_dict(c) for c in audit.matches],
        "unseen": [_as_dict(c) for c in audit.unseen],
        "tried": [_as_dict(c) for c in audit.tried],
    }


def float_or_text(value: float) -> float | str:
    """A number, or the word for what JSON cannot hold."""
    return value if np.isfinite(value) else str(value)


def _as_dict(candidate):
    return {"defect": candidate.defect.name, "dtype": candidate.dtype, "agrees": candidate.agrees}
