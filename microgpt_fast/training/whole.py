"""A whole training in one call."""

from collections.abc import Callable
from typing import Any

from ..data.load import Corpus, Source
from .events import Evaluation, Steps
from .progress import Progress
from .trainer import Trainer


def train(
    data: Source | Corpus = None,
    *,
    preset: str = "microgpt",
    on_step: Callable[[Trainer, Steps], object] | None = None,
    on_eval: Callable[[Trainer, Evaluation], object] | None = None,
    progress: bool = True,
    **options: Any,
) -> Trainer:
    """Train a model; a terminal or notebook shows the progress of a long training.

    Parameters
    ----------
    data, preset, **options
        See `Trainer`.
    progress : bool
        Whether progress may be shown.
    on_step, on_eval : function of (Trainer, event), optional
        Called with `Steps` after some steps, and with `Evaluation` after each validation. Set the Trainer's
        `stopping` to end the training.

    Returns
    -------
    run : Trainer
        The finished run: see run.model, run.losses, run.evaluations, run.random.

    Examples
    --------
    >>> run = train(["anna", "hannah"], num_steps=100)
    >>> run.losses.shape
    (100,)
    """
    run = Trainer(data, preset=preset, **options)
    shown = Progress(run, bar=progress, lines=False)
    for event in run.events():
        shown.report(event)
        if isinstance(event, Steps):
            if on_step is not None:
                on_step(run, event)
        elif on_eval is not None:
            on_eval(run, event)
    shown.close()
    return run
