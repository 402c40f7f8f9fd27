"""Which parts of a corpus are trained on, in which order, and which are held out."""

import numpy as np

from .random_stream import seeded
from .text import DataError

PIECE = 1 << 20  # tokens or documents that are looked at at a time


class Lines:
    """Documents in a shuffled order, endlessly repeated; each is read from its beginning.

    With a `val_fraction`, this part of the different documents is held out, all their copies with them.

    Parameters
    ----------
    corpus : Corpus
    config : TrainConfig
    block_size : int
        Longest part of a document that is read.
    random : random stream
        Shuffles the documents that are left.
    backend : module

    Attributes
    ----------
    validation : (int64 array, int32 array) or None
        Starts and lengths of the sequences held out, each different document once.
    longest : int
        Tokens of the longest sequence.
    """

    def __init__(self, corpus, config, block_size, random, backend):
        self.corpus, self.block_size = corpus, block_size
        self.validation = None
        if not config.val_fraction:
            self.order = random.permutation(len(corpus))
        else:
            _, firsts, kinds = np.unique(fingerprints(corpus), return_index=True, return_inverse=True)
            held = round(config.val_fraction * len(firsts))
            if not 0 < held < len(firsts):
                raise DataError(
                    f"val_fraction {config.val_fraction} of {len(firsts)} different documents leaves none to "
                    f"{'train on' if held else 'validate with'}"
                )
            is_held = np.zeros(len(firsts), bool)
            is_held[seeded(config.seed, backend).permutation(len(firsts))[:held]] = True
            self.validation = corpus.batches(np.sort(firsts[is_held]), 0, held, block_size)
            documents = np.flatnonzero(~is_held[kinds])
            self.order = documents[random.permutation(len(documents))]
        pieces = range(0, len(corpus), PIECE)
        self.longest = max(int(np.diff(corpus.offsets[i : i + PIECE + 1]).max()) - 1 for i in pieces)
        self.longest = min(self.longest, block_size)

    def sequences(self, first, count):
        """Starts and lengths of the sequences at positions first ... first + count - 1 of the run."""
        return self.corpus.batches(self.order, first, count, self.block_size)


class Stream:
    """Blocks from random places of one long text: a function of the seed and of the position in the run.

    With a `val_fraction`, this part of the text, its end, is held out; validation reads it block after block.
    Parameters and attributes are those of `Lines`.
    """

    def __init__(self, corpus, config, block_size, random, backend):
        total = len(corpus.tokens)
        held = round(config.val_fraction * total)
        end = total - held  # the first token held out
        self.longest = min(block_size, end - 1)
        if self.longest < 1 or config.val_fraction and held < 2:
            raise DataError(
                f"a text of {total - 2} tokens is too short for val_fraction {config.val_fraction}"
            )
        self.places = end - self.longest
        self.seed = config.seed
        self.validation = None
        if held:
            starts = np.arange(end, total - 1, block_size)
            self.validation = starts, np.minimum(total - 1 - starts, block_size).astype(np.int32)

    def sequences(self, first, count):
        """Starts and lengths of the sequences at positions first ... first + count - 1 of the run."""
        key = np.uint64((self.seed * 0x9E3779B97F4A7C15) % 2**64)
        drawn = mix(np.arange(first, first + count, dtype=np.uint64) + key)
        starts = (drawn % np.uint64(self.places)).astype(np.int64)
        return starts, np.full(count, self.longest, np.int32)


def make_batches(corpus, *arguments):
    """The `Lines` or `Stream` of a corpus."""
    return (Stream if corpus.mode == "stream" else Lines)(corpus, *arguments)


def mix(x):
    """A bijection of uint64 that scatters (the output function of SplitMix64); overwrites its argument."""
    x *= np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def fingerprints(corpus):
    """A number for each document, uint64 array; the same for the same tokens.

    The sum of mix(token, place in the document) over its tokens.
    """
    result = np.empty(len(corpus), np.uint64)
    first = 0
    while first < len(corpus):
        start = corpus.offsets[first]
        last = max(first + 1, int(np.searchsorted(corpus.offsets, start + PIECE)) - 1)
        bounds = corpus.offsets[first : last + 1] - start
        tokens = np.asarray(corpus.tokens[start : start + bounds[-1]])
        places = np.arange(len(tokens)) - np.repeat(bounds[:-1], np.diff(bounds))
        mixed = mix(tokens.astype(np.uint64) + (places.astype(np.uint64) << np.uint64(24)))
        result[first:last] = np.add.reduceat(mixed, bounds[:-1])
        first = last
    return result
