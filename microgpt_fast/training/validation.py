"""What is held out: which part of it a validation reads, and how well the model predicts that."""

import numpy as np

from ..data.batches import key_of, mix

ROWS = 4096  # tokens per call


def sample(held_out, tokens, seed):
    """A fixed part of the sequences that are held out.

    Parameters
    ----------
    held_out : (int64 array, int32 array)
        Starts and lengths of the sequences.
    tokens : int or None
        About how many tokens the part has; None means all.
    seed : int

    Returns
    -------
    part : (int64 array, int32 array)
        In the order of the data; the same for the same arguments, and part of what a larger number would give.
    """
    starts, lengths = held_out
    if tokens is None or tokens >= lengths.sum(dtype=np.int64):
        return held_out
    ranks = mix(np.arange(len(starts), dtype=np.uint64) + key_of(seed))
    count = max(1, min(len(starts), round(tokens / lengths.mean())))
    chosen = np.sort(np.argpartition(ranks, count - 1)[:count])
    return starts[chosen], lengths[chosen]


def mean_loss(trainer, part):
    """The loss of the trainer's model over these sequences, in nats per token; None where `stopping` is set."""
    starts, lengths = part
    model = trainer.model
    at_once = max(1, ROWS // model.config.block_size)
    if model.numerics == "exact":
        at_once = 1
    sums = []
    for first in trainer.team.share(range(0, len(starts), at_once)):
        if trainer.stopping:
            break
        few = slice(first, first + at_once)
        tokens, places = trainer.corpus.gather(starts[few], lengths[few])
        losses = model.engine.forward(model.parameters, tokens, places, lengths[few])
        sums.append(float(losses @ lengths[few]))
    if trainer.team.any(trainer.stopping):
        return None
    return sum(trainer.team.gather(sums)) / int(lengths.sum(dtype=np.int64))


def is_finite(trainer):
    """Whether the parameters are small enough for rmsnorm, and a sequence of the training has a finite loss."""
    model = trainer.model
    parameters = model.parameters
    largest = np.sqrt(np.finfo(parameters.dtype).max / model.config.n_embd)
    if not -largest < parameters.min() <= parameters.max() < largest:  # NaN fails as well
        return False
    starts, lengths = trainer.batches.sequences(0, 1)
    tokens, starts = trainer.corpus.gather(starts, lengths)
    return bool(np.isfinite(model.engine.forward(parameters, tokens, starts, lengths)).all())
