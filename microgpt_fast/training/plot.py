"""Loss curves of runs."""

import os

from ..config import UsageError
from ..messages import printable
from .runs import read_metrics

MUCH = 10


def plot(folders, path, against="step", log=None):
    """Draw the training and validation losses of runs.

    Parameters
    ----------
    folders : list of path
        Run folders.
    path : path
        The picture: .png, .svg, .pdf.
    against : {"step", "seconds", "share"}
        The horizontal axis; "share" is that of each run's steps.
    log : bool, optional
        Whether this axis is logarithmic; None means where one run is `MUCH` times as long as another.

    Raises
    ------
    UsageError
        if matplotlib is missing, a folder has no metrics, or the kind of picture is unknown.
    OSError
        if the picture cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("plots need matplotlib: pip install 'microgpt-fast[plot]'") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    label = "share of the steps" if against == "share" else against
    axes, lengths = figure.add_subplot(xlabel=label, ylabel="loss (nats per token)"), []
    for index, folder in enumerate(folders):
        try:
            metrics = read_metrics(folder)
        except (OSError, ValueError) as error:
            raise UsageError(f"{folder}: no run with metrics ({error})") from None
        if against == "share":
            last = max((line["step"] for line in metrics), default=1)
            metrics = [{**line, "share": line["step"] / last} for line in metrics]
        name, color = printable(os.path.basename(os.path.abspath(folder))), f"C{index % 10}"
        for key, style, label in (
            ("loss", {"alpha": 0.4, "lw": 1}, name),
            ("val_loss", {"marker": "o"}, f"{name}, validation"),
        ):
            points = [(line[against], line[key]) for line in metrics if key in line and against in line]
            if points:
                axes.plot(*zip(*points), color=color, label=label, **style)
                lengths.append(points[-1][0])
        _mark_best(axes, metrics, against, color)
    if log or log is None and lengths and min(lengths) > 0 and max(lengths) > MUCH * min(lengths):
        axes.set_xscale("log")
    axes.legend()
    axes.grid(alpha=0.3)
    try:
        with rc_context({"svg.hashsalt": "microgpt_fast"}):  # equal curves, equal files
            date = {"Date": None} if os.fspath(path).endswith(".svg") else None
            figure.savefig(path, dpi=150, metadata=date)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def _mark_best(axes, metrics, against, color):
    """Mark the best validation, with its loss."""
    validated = [line for line in metrics if "val_loss" in line and against in line]
    if validated:
        best = min(validated, key=lambda line: line["val_loss"])
        place = best[against], best["val_loss"]
        axes.plot(*place, marker="*", markersize=14, color=color, markeredgecolor="black")
        axes.annotate(f"{place[1]:.3f}", place, textcoords="offset points", xytext=(6, 8))
