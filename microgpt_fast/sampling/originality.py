"""How many samples are copies: lines of the data, or long pieces of it."""

import numpy as np

LONG = 50  # tokens in a row of a long text that are a copy
READ = 1 << 22  # tokens of the text that are looked through
PREFIX = np.uint64(48)  # bits of a hash, all but the first 16
PIECE = 1 << 20  # tokens at a time
FACTOR = 0x9E3779B97F4A7C15  # odd, so that hashing loses no bits


def lines_copied(corpus, texts, block_size):
    """The number of texts that are documents of a corpus, or what a model of this block size reads of one.

    Parameters
    ----------
    corpus : Corpus
    texts : list of str
        Of the corpus's characters.
    block_size : int

    Returns
    -------
    count : int
    """
    lengths = np.diff(corpus.offsets) - 2  # bos at both ends
    known = {text: _is_line(corpus, lengths, text, block_size) for text in set(texts)}
    return sum(known[text] for text in texts)


def _is_line(corpus, lengths, text, block_size):
    ids = corpus.tokenizer.encode(text)
    is_cut = len(ids) >= block_size
    places = corpus.offsets[:-1][lengths >= len(ids) if is_cut else lengths == len(ids)] + 1
    for i, token in enumerate(ids.tolist()):
        if not len(places):
            return False
        places = places[corpus.tokens[places + i] == token]
    return len(places) > 0


def pieces_copied(corpus, texts):
    """The number of texts with `LONG` tokens in a row that stand in the corpus (in its first `READ` tokens)."""
    wanted = [_hashes(corpus.tokenizer.encode(text)) for text in texts]
    every = np.unique(np.concatenate([np.empty(0, np.uint64), *wanted]))
    found = [np.empty(0, np.uint64)]
    is_likely = np.zeros(1 << 16, bool)
    is_likely[every >> PREFIX] = True
    if len(every):
        for first in range(0, min(READ, len(corpus.tokens)), PIECE):
            hashes = _hashes(corpus.tokens[first : first + PIECE + LONG - 1])
            hashes = hashes[is_likely[hashes >> PREFIX]]
            found.append(hashes[np.isin(hashes, every)])
    found = np.concatenate(found)
    return sum(bool(np.isin(hashes, found).any()) for hashes in wanted)


def _hashes(tokens):
    """A hash of each `LONG` tokens in a row: uint64 array, made of those of 1, 2, 4, ... in a row."""
    hashes, length, factor = np.asarray(tokens).astype(np.uint64) + np.uint64(1), 1, FACTOR
    if len(hashes) < LONG:
        return hashes[:0]
    while length < LONG:
        step = min(length, LONG - length)  # the last two overlap
        hashes = hashes[:-step] * np.uint64(factor) + hashes[step:]
        hashes ^= hashes >> np.uint64(29)
        length, factor = length + step, factor * FACTOR % 2**64
    return hashes
