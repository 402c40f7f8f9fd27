"""`train_many`: thousands of small models, one per thread at a time.

A model in each lane of the vectors was measured first, and does not win: docs/lab.md has the figures.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import Any

from ..config import UsageError, check_integer, resolve, shown
from ..data.load import Corpus, Source, load_corpus
from ..training.trainer import Trainer
from ..workload import cores

AHEAD = 2  # models per thread that are trained before the caller takes them
SHARED = ("bos", "data_mode", "tokenizer")  # how the data are read, which is done once


def train_many(
    configs: Iterable[Mapping[str, Any]],
    data: Source | Corpus = None,
    *,
    workers: int | None = None,
    **options: Any,
) -> Iterator[Trainer]:
    """Train many models on the same data, for ensembles and sweeps.

    Parameters
    ----------
    configs : iterable of dict
        The options of each model: see `Trainer`. They may differ in anything but how the data are read.
    data : path, list of paths, iterable of str, or Corpus, optional
        Read once: see `Trainer`.
    workers : int, optional
        Models that are trained at the same time, one thread each; None means one per core.
    **options
        What all have in common.

    Yields
    ------
    run : Trainer
        In the order of `configs`, each as soon as it is trained. It equals, bit for bit, the run of `train` with these
        options. Where training diverged, `run.diverged` says why. Keep what you need of it: a Trainer holds the order
        of all documents, and no more are trained ahead than two per worker.

    Raises
    ------
    UsageError
        (a ValueError) for options that are not allowed, or data that cannot be used.

    Examples
    --------
    >>> names = ["anna", "bert", "clara"]
    >>> runs = train_many(({"seed": seed} for seed in range(3)), names, num_steps=20, dtype="float32")
    >>> [(run.config.seed, len(run.losses)) for run in runs]
    [(0, 20), (1, 20), (2, 20)]
    """
    workers = cores() if workers is None else check_integer("workers", workers, low=1)
    if not isinstance(data, Corpus):
        make_model_config, train = resolve(**options)
        block_size = make_model_config(1).block_size
        data = load_corpus(
            data, train.bos, mode=train.data_mode, tokenizer=train.tokenizer, block_size=block_size
        )
    return _trained(iter(configs), data, workers, {"threads": 1, **options})


def _trained(configs, corpus, workers, options):
    ahead, running, is_over = deque(), [], Event()
    with ThreadPoolExecutor(workers) as executor:
        try:
            while True:
                for config in islice(configs, AHEAD * workers - len(ahead)):
                    ahead.append(
                        executor.submit(_train, corpus, {**options, **_checked(config)}, running, is_over)
                    )
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:  # the caller may want no more, or be interrupted
            is_over.set()
            for future in ahead:
                future.cancel()
            for trainer in [*running]:
                trainer.stopping = True


def _checked(config):
    for name in SHARED:
        if name in config:
            raise UsageError(
                f"{name} = {shown(config[name])}: the data are read once: give it for all models"
            )
    return config


def _train(corpus, options, running, is_over):
    trainer = Trainer(corpus, **options)
    running.append(trainer)
    if is_over.is_set():  # perhaps since before it was among the others
        trainer.stopping = True
    try:
        for _ in trainer.events():
            pass
    except UsageError:
        if trainer.diverged is None:
            raise
    finally:
        running.remove(trainer)
    return trainer
