"""One run of an arm: trained in whichever thread, process or machine, and reported as plain numbers."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from time import perf_counter, thread_time
from typing import Any, NamedTuple

import numpy as np

from ..config import UsageError, resolve
from ..data.load import Corpus, load_corpus
from ..training.events import Steps
from ..training.trainer import Trainer

CURVE = 50  # points of a run's curve of training losses


class Data(NamedTuple):
    """What is trained on: a Corpus, a path, or a tuple of paths or strings. The digest tells a file that changed."""

    source: Any
    digest: str


class Job(NamedTuple):
    """A run to be done: the place of its arm among all, the arm's options, and the seed."""

    arm: int
    options: dict[str, Any]
    seed: int

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from the other runs of a comparison."""
        return self.arm, self.seed


def run(data: Data, job: Job, must_stop: Callable[[], bool] | None = None) -> dict[str, Any] | None:
    """Train, and measure the loss on what is held out.

    Parameters
    ----------
    data : Data
    job : Job
    must_stop : function, optional
        Asked every 30 ms or so; once it is true, the result is None.

    Returns
    -------
    result : dict
        As `records.SCHEMA` has it. A training that diverged has the reason in "diverged", and no loss.

    Raises
    ------
    UsageError
        for what no run of this arm can do.
    OSError
        if the data cannot be read.
    """
    trainer = _trainer(data, job)
    seconds = 0.0
    record: dict[str, Any] = {"arm": job.arm, "seed": job.seed}
    try:
        # A thread's own time does not depend on what else runs, but says nothing of further threads.
        clock = thread_time if trainer.model.threads == 1 else perf_counter
        begin = clock()
        for event in trainer.events():
            if isinstance(event, Steps):
                seconds += clock() - begin
            begin = clock()
            if must_stop is not None and must_stop():
                return None
    except UsageError as error:
        if trainer.diverged is None:
            raise
        return record | {"diverged": str(error)}
    return record | {
        "loss": trainer.evaluations[-1].loss,
        "steps": trainer.step,
        "us_per_step": round(1e6 * seconds / trainer.step, 3),
        "num_params": trainer.model.config.num_params,
        "held_out_tokens": int(trainer.batches.validation[1].sum()),
        "curve": means(trainer.losses, CURVE),
        "evaluations": [[event.step, event.loss] for event in trainer.evaluations],
    }


def _trainer(data, job):
    corpus = data.source
    if not isinstance(corpus, Corpus):
        make_model_config, train = resolve(**job.options)
        block_size = make_model_config(1).block_size
        corpus = corpus_of(data, train.bos, train.data_mode, train.tokenizer, block_size)
    return Trainer(corpus, seed=job.seed, **job.options)


@lru_cache(maxsize=4)
def corpus_of(data, bos, mode, tokenizer, block_size):
    """A corpus, read once by each worker."""
    return load_corpus(data.source, bos, mode=mode, tokenizer=tokenizer, block_size=block_size)


def means(losses: Sequence[float], most: int) -> list[float]:
    """The means of at most so many equal parts of a curve."""
    parts = np.array_split(np.asarray(losses), min(most, len(losses)))
    return [round(float(part.mean()), 5) for part in parts]
