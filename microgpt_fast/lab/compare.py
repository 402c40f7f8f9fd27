"""`compare`: every arm with every seed, and what the pairs say."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any

from ..config import UsageError, check_integer, resolve
from ..data.load import Corpus, Source, load_corpus
from ..workload import cores
from .arms import Arm, check_arms
from .comparison import Comparison
from .one_run import Data, Job, corpus_of
from .records import Records, identity, name_for
from .runner import Runner

FIRST_SEED = 42
MOST_RUNS = 10_000  # that the command line starts without being told that so many are meant


def compare(
    arms: Mapping[str, Mapping[str, Any]] | Iterable[Mapping[str, Any]],
    seeds: int | Iterable[int] = 32,
    data: Source | Corpus = None,
    *,
    executor: str | Executor = "threads",
    workers: int | None = None,
    out: str | os.PathLike[str] | None = None,
    on_result: Callable[[Comparison], object] | None = None,
    **options: Any,
) -> Comparison:
    """Train every arm with every seed, and compare what they lose on held-out data.

    The arms are paired: with one seed, all have the same documents held out and the same order of training, and
    initial parameters from the same random stream.

    Parameters
    ----------
    arms : dict of name to options, or iterable of options
        What differs: fields of `TrainConfig` and `GPTConfig`, and "preset". All are compared with the first.
    seeds : int or iterable of int
        A number means as many seeds from 42 on.
    data : path, list of paths, iterable of str, or Corpus, optional
        As for `Trainer`. With processes or other machines, a path must name the file there, too.
    executor : "threads", "processes" or concurrent.futures.Executor
        What runs them: threads or processes of this machine, or any executor that follows the interface, as those of
        mpi4py and Dask do.
    workers : int, optional
        Number of threads or processes; None means as many as there are cores for.
    out : path, optional
        A file to which results are appended as they come, and from which a stopped comparison goes on.
    on_result : function of (Comparison), optional
        Called after every run.
    **options
        What all arms share; `val_fraction` is 0.1 and `threads` 1 unless they say otherwise.

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    UsageError
        (a ValueError) for an arm, data or a file that cannot be used, before anything runs.

    Examples
    --------
    >>> names = ["anna", "bert", "clara", "dora", "emil", "fritz", "gerda", "hans", "ida", "jan"]
    >>> result = compare([{"activation": "relu"}, {"activation": "relu2"}], 4, names, num_steps=20)
    >>> [arm.name for arm in result.arms]
    ['activation=relu', 'activation=relu2']
    """
    experiment = Experiment(arms, seeds, data, executor=executor, workers=workers, out=out, **options)
    for comparison in experiment.steps():
        if on_result is not None:
            on_result(comparison)
    return experiment.comparison()


class Experiment:
    """A comparison that can be watched and stopped; see `compare` for the parameters.

    Attributes
    ----------
    stopping : bool
        Set it to end `steps`; finished runs are kept.
    path : str or None
        The file of results. `out` = "auto" gives one that is named after what is compared.
    note : str or None
        What the user should know about how the data were read.
    """

    def __init__(self, arms, seeds=32, data=None, *, executor="threads", workers=None, out=None, **options):
        self.arms: list[Arm] = check_arms(arms, options)
        self.seeds = _seeds(seeds)
        source = source_of(data)
        corpus = _corpus(source, self.arms[0])
        self.note: str | None = corpus.note
        self.identity = identity(self.arms, corpus)
        self._data = Data(source, self.identity["data"])
        self.path = name_for(self.identity) if out == "auto" else out
        if workers is None:
            workers = max(1, cores() // max(arm.options["threads"] for arm in self.arms))
        self._runner = Runner(executor, workers)
        self._results: dict[tuple[int, int], dict[str, Any]] = {}

    @property
    def stopping(self) -> bool:
        return self._runner.stopping

    @stopping.setter
    def stopping(self, value: bool) -> None:
        self._runner.stopping = value

    def jobs(self) -> list[Job]:
        """All runs, the seeds one after the other."""
        return [Job(place, arm.options, seed) for seed in self.seeds for place, arm in enumerate(self.arms)]

    def steps(self):
        """Yield the Comparison so far: first of what the file holds, then after each run."""
        with Records(self.path, self.identity) as records:
            self._results = records.results
            yield self.comparison()
            missing = [job for job in self.jobs() if job.key not in records.results]
            for result in self._runner.results(self._data, missing) if missing else ():
                records.add(result)
                yield self.comparison()
        corpus_of.cache_clear()

    def comparison(self) -> Comparison:
        """What is known so far."""
        return Comparison(self.arms, self.seeds, self._results, self._runner.died)


def source_of(data):
    """What every worker can read, of `compare`'s data."""
    if data is None or isinstance(data, (str, os.PathLike, Corpus)):
        source = data
    else:
        source = tuple(data)
    for part in source if isinstance(source, tuple) else [source]:
        if isinstance(part, (str, os.PathLike)) and os.fspath(part) == "-":
            raise UsageError("a comparison reads its data several times: give a file, not standard input")
    return source


def _corpus(source, arm):
    """The data as the first arm reads them."""
    if isinstance(source, Corpus):
        return source
    make_model_config, train = resolve(**arm.options)
    block_size = make_model_config(1).block_size
    return load_corpus(
        source, train.bos, mode=train.data_mode, tokenizer=train.tokenizer, block_size=block_size
    )


def _seeds(seeds):
    if isinstance(seeds, Iterable):
        seeds = [check_integer("a seed", seed) for seed in seeds]
        if len(set(seeds)) < len(seeds):
            raise UsageError("a seed is given twice")
    else:
        seeds = range(FIRST_SEED, FIRST_SEED + check_integer("seeds", seeds, low=1, high=10**9))
    if not seeds:
        raise UsageError("there are no seeds")
    return seeds
