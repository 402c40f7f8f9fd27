"""A comparison as a table, as one JSON object and as rows of CSV."""

import csv
from collections.abc import Iterator
from typing import Any

from .comparison import ArmResult, Comparison, rounded
from .statistics import LEVEL

COLUMNS = ("arm", "seed", "loss", "steps", "us_per_step", "num_params", "held_out_tokens", "diverged")


def table(comparison: Comparison) -> Iterator[str]:
    """The lines of the report: a row for each arm, then the sentences."""
    arms = comparison.arms
    has_steps = len({arm.steps for arm in arms}) > 1
    heads = ["arm", "parameters", "µs per step", "steps", "held-out loss ± s.e.", f"difference, {LEVEL:.0%}"]
    rows = [heads, *(_cells(arm) for arm in arms)]
    if not has_steps:
        rows = [[*row[:3], *row[4:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        first, *cells = (cell.rjust(width) for cell, width in zip(row, widths))
        yield "  ".join([first.strip().ljust(widths[0]), *cells]).rstrip()
    yield ""
    yield from comparison.sentences


def _cells(arm: ArmResult) -> list[str]:
    if arm.mean is None:
        return [arm.name, "", "", "", "no result", ""]
    loss = f"{arm.mean:.4f}"
    if arm.standard_error is not None:
        loss = " ± ".join(rounded(arm.mean, arm.standard_error))
    difference = ""
    if arm.difference is not None and arm.difference.pairs > 1:
        size, half = rounded(arm.difference.mean, arm.difference.half_width)
        difference = f"{size} ± {half}" if size.startswith("-") else f"+{size} ± {half}"
    return [arm.name, f"{arm.num_params:,}", f"{arm.us_per_step:.2f}", f"{arm.steps:,.0f}", loss, difference]


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything that the table says, and each run's loss."""
    return {
        "level": LEVEL,
        "seeds": list(comparison.seeds),
        "runs": comparison.done,
        "died": [{"arm": job.arm, "seed": job.seed, "reason": reason} for job, reason in comparison.died],
        "arms": [_arm(arm) for arm in comparison.arms],
        "sentences": comparison.sentences,
        "warnings": comparison.warnings,
    }


def _arm(arm):
    difference = arm.difference
    return {
        "name": arm.name,
        "options": arm.options,
        "num_params": arm.num_params,
        "us_per_step": arm.us_per_step,
        "steps": arm.steps,
        "loss": arm.mean,
        "standard_error": arm.standard_error,
        "losses": {str(seed): loss for seed, loss in arm.losses.items()},
        "diverged": {str(seed): reason for seed, reason in arm.diverged.items()},
        "difference": difference and _difference(difference),
    }


def _difference(difference):
    has_interval = difference.pairs > 1
    low, high = (difference.mean + sign * difference.half_width for sign in (-1, 1))
    return {
        "mean": difference.mean,
        "interval": [low, high] if has_interval else None,
        "p": difference.p if has_interval else None,
        "pairs": difference.pairs,
        "is_clear": difference.is_clear,
        "seeds_needed": difference.seeds_needed,
    }


def write_csv(comparison: Comparison, path: Any) -> None:
    """A row for each run."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        for arm in comparison.arms:
            runs = arm.runs | {seed: {"diverged": reason} for seed, reason in arm.diverged.items()}
            for seed, run in runs.items():
                writer.writerow({**run, "arm": arm.name, "seed": seed})
