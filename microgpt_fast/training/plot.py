"""Loss curves of runs."""

import os

from ..config import UsageError
from ..messages import printable
from .runs import read_metrics


def plot(folders, path, against="step"):
    """Draw the training and validation losses of runs.

    Parameters
    ----------
    folders : list of path
        Run folders.
    path : path
        The picture: .png, .svg, .pdf.
    against : {"step", "seconds"}
        The horizontal axis.

    Raises
    ------
    UsageError
        if matplotlib is missing, a folder has no metrics, or the kind of picture is unknown.
    OSError
        if the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("plots need matplotlib: pip install 'microgpt-fast[plot]'") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel=against, ylabel="loss (nats per token)")
    for index, folder in enumerate(folders):
        try:
            metrics = read_metrics(folder)
        except (OSError, ValueError) as error:
            raise UsageError(f"{folder}: no run with metrics ({error})") from None
        name, color = printable(os.path.basename(os.path.abspath(folder))), f"C{index % 10}"
        for key, style, label in (
            ("loss", {"alpha": 0.4, "lw": 1}, name),
            ("val_loss", {"marker": "o"}, f"{name}, validation"),
        ):
            points = [(line[against], line[key]) for line in metrics if key in line and against in line]
            if points:
                axes.plot(*zip(*points), color=color, label=label, **style)
    axes.legend()
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
