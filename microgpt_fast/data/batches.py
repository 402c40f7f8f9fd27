"""Which parts of a corpus are trained on, in which order, and which are held out."""

import numpy as np

from .text import DataError

PIECE = 1 << 20  # tokens or documents that are looked at at a time
SCRATCH_FROM = 1 << 24  # bytes of an array that has no need to be in memory


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
            is_held, firsts = hold_out(corpus, config.val_fraction, config.seed)
            self.validation = corpus.batches(firsts, 0, len(firsts), block_size)
            self.order = random.permutation(len(corpus) - np.count_nonzero(is_held))
            choose(self.order, ~is_held)
        pieces = range(0, len(corpus), PIECE)
        self.longest = max(int(np.diff(corpus.offsets[i : i + PIECE + 1]).max()) - 1 for i in pieces)
        self.longest = min(self.longest, block_size)

    def sequences(self, first, count):
        """Starts and lengths of the sequences at positions first ... first + count - 1 of the run."""
        return self.corpus.batches(self.order, first, count, self.block_size)


class Blocks:
    """Blocks from random places of one long text: a function of the seed and of the position in the run.

    With a `val_fraction`, this part of the text, its end, is held out; validation reads it block after block.
    Parameters and attributes are those of `Lines`.
    """

    def __init__(self, corpus, config, block_size, random, backend):
        total = len(corpus.tokens)
        held = round(config.val_fraction * total)
        end = total - held  # the first token held out
        self.longest = min(block_size, end - 1)
        if self.longest < 1 or (config.val_fraction and held < 2):
            raise DataError(
                f"a text of {total - 2} tokens is too short for val_fraction {config.val_fraction}: "
                "give more text, or val_fraction 0"
            )
        self.places = end - self.longest
        self.seed = config.seed
        self.validation = None
        if held:
            starts = np.arange(end, total - 1, block_size)
            self.validation = starts, np.minimum(total - 1 - starts, block_size).astype(np.int32)

    def sequences(self, first, count):
        """Starts and lengths of the sequences at positions first ... first + count - 1 of the run."""
        drawn = mix(np.arange(first, first + count, dtype=np.uint64) + key_of(self.seed))
        starts = (drawn % np.uint64(self.places)).astype(np.int64)
        return starts, np.full(count, self.longest, np.int32)


def make_batches(corpus, *arguments):
    """The `Lines` or `Blocks` of a corpus."""
    return (Blocks if corpus.mode == "stream" else Lines)(corpus, *arguments)


def mix(x):
    """A bijection of uint64 that scatters (the output function of SplitMix64); overwrites its argument."""
    x *= np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def key_of(seed):
    """What makes the numbers of one seed others than those of another: uint64."""
    return np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)


def hold_out(corpus, fraction, seed):
    """A part of the different documents: those with the least fingerprints.

    Returns
    -------
    is_held : bool array [n]
        By document.
    firsts : int64 array
        The first copy of each that is held out, in the order of the corpus.

    Raises
    ------
    DataError
        if nothing is left on one side.
    """
    numbers, ordered = fingerprints(corpus, seed), scratch(len(corpus), np.uint64)
    ordered[:] = numbers
    ordered.sort()
    is_new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    different = np.count_nonzero(is_new)
    held = round(fraction * different)
    if not 0 < held < different:
        raise DataError(
            f"val_fraction {fraction} of {different} different documents leaves none to "
            f"{'train on' if held else 'validate with'}: give more text, or val_fraction 0"
        )
    left = held
    for first in range(0, len(ordered), PIECE):
        places = np.flatnonzero(is_new[first : first + PIECE])
        if left < len(places):
            bound = ordered[first + places[left]]
            break
        left -= len(places)
    is_held = numbers < bound
    copies = np.flatnonzero(is_held)
    _, firsts = np.unique(numbers[copies], return_index=True)
    return is_held, np.sort(copies[firsts])


def choose(ranks, is_kept):
    """Replace each rank among the documents that are kept, int64, by the document; in place."""
    documents, known = scratch(len(ranks), np.int64), 0
    for first in range(0, len(is_kept), PIECE):
        kept = np.flatnonzero(is_kept[first : first + PIECE])
        documents[known : known + len(kept)] = kept + first
        known += len(kept)
    for first in range(0, len(ranks), PIECE):
        part = slice(first, first + PIECE)
        ranks[part] = documents[ranks[part]]


def scratch(length, dtype):
    """An uninitialised array; a large one in a file without a name, so that memory does not grow with it."""
    size = length * np.dtype(dtype).itemsize
    if size < SCRATCH_FROM:
        return np.empty(length, dtype)
    import tempfile

    try:
        with tempfile.TemporaryFile() as file:
            for first in range(
                0, size, PIECE
            ):  # written, for a mapping beyond what the disk holds would crash
                file.write(bytes(min(PIECE, size - first)))
            file.flush()
            return np.memmap(file, dtype, "r+", shape=(length,))
    except OSError as error:
        raise DataError(
            f"cannot write a temporary file of {size / 1e6:,.0f} MB in {tempfile.gettempdir()}: "
            f"{error.strerror or error}; TMPDIR can name another folder"
        ) from None


def fingerprints(corpus, seed):
    """A number for each document, uint64 array; the same for the same tokens.

    mix(the sum of mix(token, place in the document) over its tokens, seed).
    """
    result, key = scratch(len(corpus), np.uint64), key_of(seed)
    first = 0
    while first < len(corpus):
        start = corpus.offsets[first]
        last = max(first + 1, int(np.searchsorted(corpus.offsets, start + PIECE)) - 1)
        bounds = corpus.offsets[first : last + 1] - start
        tokens = np.asarray(corpus.tokens[start : start + bounds[-1]])
        places = np.arange(len(tokens)) - np.repeat(bounds[:-1], np.diff(bounds))
        mixed = mix(tokens.astype(np.uint64) + (places.astype(np.uint64) << np.uint64(24)))
        result[first:last] = mix(np.add.reduceat(mixed, bounds[:-1]) + key)
        first = last
    return result
