"""What is timed: a model, the weights it starts from, and the documents it reads.

Any implementation that starts from `Job.weights` and reads `Job.documents` computes the same losses.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..config import GPTConfig, UsageError, closest, stored_dtype
from ..data.load import load_corpus
from ..parameters import products
from ..random_stream import PythonRandom

ADAM = (0.85, 0.99, 1e-8, 0.0)  # beta1, beta2, eps, weight decay
BATCHES = 64  # of synthetic documents, taken in turn
SEED = 42  # of the order and the weights of the jobs on names


@dataclass(frozen=True)
class Job:
    """Training steps of one model.

    Attributes
    ----------
    name : str
    config : GPTConfig
    batch_size : int
        Documents per step.
    learning_rate : float
        Of every step.
    init_std : float
        Standard deviation of the initial weights.
    names : bool
        Train on the built-in names, as `microgpt-fast train` does; otherwise on synthetic documents, all
        block_size tokens long, of a random chain in which each token has its own likely successors.
    """

    name: str
    config: GPTConfig
    batch_size: int
    learning_rate: float
    init_std: float
    names: bool = False

    def weights(self, dtype):
        """The initial parameters, new and flat: [config.num_params], float32 for bfloat16.

        Those of synthetic jobs are float32 numbers in either dtype.
        """
        n = self.config.num_params
        if self.names:
            weights = np.empty(n)
            random = PythonRandom(SEED)
            random.permutation(len(load_corpus()))
            random.normal(weights, self.init_std)
            return weights.astype(stored_dtype(dtype))
        random = np.random.default_rng(0)
        return random.normal(0, self.init_std, n).astype(np.float32).astype(stored_dtype(dtype))

    def documents(self):
        """What the steps read.

        Returns
        -------
        tokens : int32 array
            All documents, end to end.
        starts, lengths : int64, int32 arrays [a multiple of batch_size]
            The documents of one batch after another, from the first step on; after the last, the first again.
            Document i predicts tokens[starts[i] + 1 : starts[i] + 1 + lengths[i]].
        """
        B, T, V = self.batch_size, self.config.block_size, self.config.vocab_size
        if self.names:
            corpus = load_corpus()
            order = PythonRandom(SEED).permutation(len(corpus))
            return corpus.tokens, *corpus.batches(order, 0, len(corpus) * B, T)
        random = np.random.default_rng(0)
        chain = random.dirichlet(np.full(V, 0.1), size=V).cumsum(1)
        tokens = np.empty((BATCHES, B, T + 1), np.int32)
        tokens[..., 0] = random.integers(0, V, (BATCHES, B))
        for t in range(T):
            draws = random.random((BATCHES, B, 1))
            tokens[..., t + 1] = np.minimum((chain[tokens[..., t]] < draws).sum(-1), V - 1)
        starts = np.arange(BATCHES * B, dtype=np.int64) * (T + 1)
        return tokens.reshape(-1), starts, np.full(BATCHES * B, T, np.int32)

    def tokens(self, lengths):
        """Tokens predicted per step: the mean over documents of these lengths."""
        return float(lengths.mean()) * self.batch_size

    def operations(self, lengths):
        """Multiplications and additions of the matrix products of one step, forward and backward.

        6 for each weight and token, and 6 n_layer C T^2 for each document of T tokens.

        Parameters
        ----------
        lengths : int array [n]
            Of documents; the result is the mean over as many steps as they make.
        """
        L, C = self.config.n_layer, self.config.n_embd
        lengths = lengths.astype(float)
        total = 6 * products(self.config) * lengths.sum() + 6 * L * C * (lengths**2).sum()
        return total * self.batch_size / len(lengths)


NAMES_MODEL = GPTConfig(27)
JOBS = {
    job.name: job
    for job in (
        Job("a", NAMES_MODEL, 1, 0.01, 0.08, names=True),
        Job("a16", NAMES_MODEL, 16, 0.01, 0.08, names=True),
        Job("b", GPTConfig(27, n_layer=1, n_head=4, n_embd=64, block_size=64), 1, 3e-3, 0.08),
        Job("c", GPTConfig(65, n_layer=4, n_head=4, n_embd=128, block_size=64), 12, 1e-3, 0.02),
        Job("d", GPTConfig(65, n_layer=6, n_head=6, n_embd=384, block_size=256), 4, 1e-3, 0.02),
    )
}
# sampling from a job's model, and how many samples at once
DECODE = {"decode": ("a", 1), "decode-c": ("c", 1), "decode-c64": ("c", 64), "decode-d": ("d", 1)}
STARTUP = "startup"  # the default training run as a whole process
NAMES = (*JOBS, *DECODE, STARTUP)

SWEEP_BASE = Job("", GPTConfig(65, n_layer=1, n_head=4, n_embd=64, block_size=64), 4, 1e-3, 0.02)
SWEEP = {
    "n_embd": (16, 20, 24, 32, 48, 64, 100, 128, 192, 256, 384, 512),
    "block_size": (16, 32, 64, 65, 128, 256, 512, 1024),
    "batch_size": (1, 2, 4, 8, 16, 32, 64),
}


def sweep():
    """Jobs along each axis of `SWEEP`, named like n_embd=20."""
    for axis, values in SWEEP.items():
        for value in values:
            name = f"{axis}={value}"
            if axis == "batch_size":
                yield replace(SWEEP_BASE, name=name, batch_size=value)
            else:
                yield replace(SWEEP_BASE, name=name, config=replace(SWEEP_BASE.config, **{axis: value}))


def check_name(kind, name, allowed):
    """Raise a UsageError, with what is allowed, for a name that is not."""
    if name not in allowed:
        raise UsageError(f"unknown {kind} {name!r}{closest(name, allowed)} (allowed: {', '.join(allowed)})")
