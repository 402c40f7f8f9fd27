"""A comparison as a picture: a dot for each seed, the intervals of the differences, and the curves."""

from typing import Any

import numpy as np

from ..config import UsageError
from ..messages import printable
from .comparison import Comparison

FADED = {"alpha": 0.2, "lw": 0}


def plot(comparison: Comparison, path: Any) -> None:
    """Draw it.

    Raises
    ------
    UsageError
        if matplotlib is missing, or the kind of picture is unknown.
    OSError
        if the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("plots need matplotlib: pip install 'microgpt-fast[plot]'") from None
    figure = Figure(figsize=(13, 2 + max(3, 0.5 * len(comparison.arms))), layout="constrained")
    losses, differences, curves = figure.subplots(1, 3)
    names = [printable(arm.name) for arm in comparison.arms]
    for axes in (losses, differences):
        axes.set_yticks(range(len(names)), names if axes is losses else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
    losses.set_xlabel("held-out loss (nats per token)")
    differences.set_xlabel(f"difference from {names[0]}, 95 %")
    differences.axvline(0, color="gray", lw=1)
    for place, arm in enumerate(comparison.arms):
        color = f"C{place % 10}"
        _dots(losses, arm, place, color)
        _interval(differences, arm, place, color)
        _curve(curves, arm, names[place], color)
    curves.set_xlabel("step")
    curves.set_ylabel("loss ± standard deviation")
    curves.grid(alpha=0.3)
    if curves.lines:
        curves.legend()
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def _dots(axes, arm, place, color):
    values = [*arm.losses.values()]
    heights = place + np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [place] * len(values)
    axes.plot(values, heights, ".", color=color, alpha=0.5)
    if values:
        axes.plot([arm.mean] * 2, [place - 0.3, place + 0.3], color=color)


def _interval(axes, arm, place, color):
    difference = arm.difference
    if difference is not None and difference.pairs > 1:
        axes.errorbar(
            [difference.mean], [place], xerr=[difference.half_width], fmt="o", color=color, capsize=4
        )


def _curve(axes, arm, name, color):
    """Held-out losses if there are several of a run, or else the training losses; the runs that have all points."""
    runs = [*arm.runs.values()]
    if not runs:
        return
    if max(len(run["evaluations"]) for run in runs) > 1:
        longest = max((run["evaluations"] for run in runs), key=len)
        steps = [step for step, _ in longest]
        curves = [[loss for _, loss in run["evaluations"]] for run in runs]
    else:
        curves = [run["curve"] for run in runs]
        parts = max(map(len, curves))
        steps = [arm.steps * (part + 0.5) / parts for part in range(parts)]
    values = np.array([curve for curve in curves if len(curve) == len(steps)])
    mean, spread = values.mean(axis=0), values.std(axis=0)
    axes.plot(steps, mean, color=color, label=name)
    axes.fill_between(steps, mean - spread, mean + spread, color=color, **FADED)
