"""Training: the data once, then chunks of steps."""

import os
from time import perf_counter

import numpy as np

from . import backends
from .config import UsageError, resolve
from .data import Corpus, load_corpus
from .model import GPT, resolve_numerics
from .random_stream import seeded

CHUNK_SECONDS = 0.03  # of training between two chances to stop or to report
CHUNK_GROWTH = 8  # at most, from one chunk to the next, until CHUNK_SECONDS are reached


class Trainer:
    """One training run, step by step.

    Order of the random stream: the documents are shuffled, the parameters drawn; samples may follow.

    Parameters
    ----------
    data : path, iterable of str, or Corpus, optional
        See `load_corpus`; None is the built-in list of first names.
    preset : {"microgpt", "first-revision"}
    **options
        Any field of `GPTConfig` (but vocab_size) or `TrainConfig`, in place of the preset's.

    Attributes
    ----------
    model : GPT
        Trained in place.
    config : TrainConfig
    corpus : Corpus
    order : int64 array
        The shuffled order of the documents.
    random : random stream
        After all draws so far: `generate(run.model, random=run.random)` continues it.
    step, tokens, seconds : int, int, float
        Steps taken, tokens predicted in them, and the time that they took.
    stopping : bool
        Set it to end `chunks` before the last step.
    note : str or None
        Why a float64 run is not exact, where nobody asked for that.

    Raises
    ------
    UsageError
        (a ValueError) for options that are not allowed, data that cannot be used, or too large a model.
    OSError
        if the data cannot be read.
    """

    def __init__(self, data=None, *, preset="microgpt", **options):
        make_model_config, self.config = resolve(preset, **options)
        config = self.config
        backend = backends.load(config.backend)
        numerics, self.note = resolve_numerics(config.numerics, config.dtype, config.batch_size, backend)
        self.corpus = data if isinstance(data, Corpus) else load_corpus(data, config.bos)
        model_config = make_model_config(self.corpus.tokenizer.vocab_size)
        check_memory(model_config, config, self.corpus)

        self.random = seeded(config.seed, backend)
        self.order = self.random.permutation(len(self.corpus))
        self.model = GPT(
            model_config,
            self.corpus.tokenizer,
            dtype=config.dtype,
            backend=config.backend,
            numerics=numerics,
            threads=config.threads,
        )
        self.model.train_config = config
        self.model.initialise(self.random, config.init_std, config.zero_init)

        self.step = self.tokens = 0
        self.seconds = 0.0
        self.stopping = False
        self._moments = np.zeros((2, model_config.num_params), config.dtype)
        self._losses = []

    @property
    def losses(self):
        """The loss of each step so far: float64 array [step]."""
        return np.concatenate(self._losses) if self._losses else np.empty(0)

    def chunks(self):
        """Train to the last step, and yield after every few steps, about 30 ms of work.

        Yields
        ------
        losses : float64 array
            Of the steps since the last yield.

        Raises
        ------
        UsageError
            when a loss is not finite.
        """
        config, corpus, model = self.config, self.corpus, self.model
        B, block_size = config.batch_size, model.config.block_size
        adam = (config.beta1, config.beta2, config.eps_adam, 0.0)
        m, v = self._moments
        engine = model.engine
        count = 1
        while self.step < config.num_steps and not self.stopping:
            start = perf_counter()
            count = min(count, config.num_steps - self.step)
            steps = np.arange(self.step, self.step + count)
            starts, lengths = corpus.batches(self.order, self.step * B, count * B, block_size)
            learning_rates = config.learning_rate * (1 - steps / config.num_steps)
            losses = np.empty(count)
            engine.train_steps(
                losses,
                model.parameters,
                m,
                v,
                corpus.tokens,
                starts,
                lengths,
                B,
                learning_rates,
                adam,
                self.step + 1,
            )
            self.step += count
            self.tokens += int(lengths.sum())
            self._losses.append(losses)
            elapsed = perf_counter() - start
            self.seconds += elapsed
            bad = np.flatnonzero(~np.isfinite(losses))
            if bad.size:
                raise UsageError(
                    f"the loss of step {self.step - count + bad[0] + 1} is {losses[bad[0]]}: training "
                    f"diverged; try a smaller learning_rate ({config.learning_rate}) or init_std"
                )
            count = max(1, min(count * CHUNK_GROWTH, int(count * CHUNK_SECONDS / elapsed)))
            yield losses


def train(data=None, *, preset="microgpt", **options):
    """Train a model.

    Parameters
    ----------
    data, preset, **options
        See `Trainer`.

    Returns
    -------
    run : Trainer
        Finished: see run.model, run.losses, run.random.

    Examples
    --------
    >>> run = train(["anna", "hannah"], num_steps=100)
    >>> run.losses.shape
    (100,)
    """
    run = Trainer(data, preset=preset, **options)
    for _ in run.chunks():
        pass
    return run


def check_memory(model_config, train_config, corpus):
    """Refuse, before anything is allocated, what this machine's memory cannot hold.

    Counted are parameters, gradient, Adam's moments, and, roughly, the activations of the largest batch. What
    fails later is a MemoryError, but most systems rather end a process that uses more than there is.
    """
    longest = int(min(np.diff(corpus.offsets).max() - 1, model_config.block_size))
    rows = train_config.batch_size * longest
    activations = rows * (14 * model_config.n_layer * model_config.n_embd + 2 * model_config.vocab_size)
    needed = (4 * model_config.num_params + activations) * np.dtype(train_config.dtype).itemsize
    memory = _memory_bytes()
    if needed > memory or rows >= 2**31:
        raise UsageError(
            f"too large: {model_config.num_params:,} parameters and batches of {rows:,} tokens need "
            f"about {needed / 1e9:,.1f} GB; this machine has {memory / 1e9:,.1f} GB of memory"
        )


def _memory_bytes():
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not every system tells
        return 2**62
