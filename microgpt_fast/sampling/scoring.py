"""How well a model predicts a text, token by token."""

import os
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import UsageError, shown
from ..data import unknown as unknown_characters
from ..data.corpus import Corpus, given, pack, segments
from ..data.files import STDIN, find_files
from ..data.load import Source, parts_of
from ..data.text import DataError
from ..model import GPT

LOGITS = 1 << 23  # the most that are computed in one call


@dataclass(frozen=True)
class Score:
    """The surprise of a model at a text.

    Attributes
    ----------
    corpus : Corpus
        The text in the model's tokens.
    surprises : float64 array
        -log(probability) of each predicted token, in nats, document after document, with their ends.
    documents : int64 array [n + 1]
        The surprises of document d are surprises[documents[d]:documents[d + 1]].
    characters : int
        Number of characters in all documents.
    """

    corpus: Corpus
    surprises: NDArray[np.float64]
    documents: NDArray[np.int64]
    characters: int

    def summary(self) -> dict[str, Any]:
        """The figures of the whole text, by name."""
        nats = float(self.surprises.sum())
        tokens = len(self.surprises)
        characters = max(1, self.characters)  # data that are not UTF-8 may have none
        return {
            "documents": len(self.corpus),
            "tokens": tokens,
            "characters": self.characters,
            "nats_per_token": nats / tokens,
            "bits_per_token": nats / tokens / log(2),
            "nats_per_character": nats / characters,
            "bits_per_character": nats / characters / log(2),
            "perplexity": _exp(nats / tokens),
        }


def _exp(nats):
    with np.errstate(over="ignore"):  # infinite where it is beyond all floating-point numbers
        return float(np.exp(nats))


def score(
    model: GPT,
    source: Source,
    mode: str | None = None,
    unknown: str = "error",
) -> Score:
    """Score a text.

    Every token is predicted once, in windows of block_size tokens that overlap by half. So except at the
    beginning of a document, a token is predicted from at least half a block of context.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    source : str, path, list of pathlib.Path, or iterable of str
        As for `load_corpus`; and a string of several words that names no file is a text.
    mode : {"lines", "stream"}, optional
        Whether each line is a document, or each file; None means as in the model's training.
    unknown : {"error", "skip", "replace"}
        What becomes of characters that the model does not know; `Score.corpus.note` tells how many there were.

    Returns
    -------
    Score

    Raises
    ------
    UsageError
        if the text is empty, has a character that the model does not know, or if the model's logits are not finite.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise UsageError("a model without a tokenizer cannot read text")
    mode = mode or (model.train_config.data_mode if model.train_config else "lines")
    corpus = _corpus(source, tokenizer, mode, unknown)
    predicted = np.diff(corpus.offsets) - 1
    documents = np.concatenate([[0], np.cumsum(predicted)])
    surprises = np.empty(documents[-1])
    if tokenizer.kind == "char":
        characters = int(predicted.sum()) - len(corpus)
    else:  # a byte 10xxxxxx of UTF-8 continues a character
        first = 0 if tokenizer.bos_place == "last" else 1
        characters = int(np.sum((corpus.tokens != tokenizer.bos) & ((corpus.tokens - first) & 0xC0 != 0x80)))
    starts, lengths, skipped = windows(corpus.offsets, model.config.block_size)
    document = np.searchsorted(corpus.offsets, starts, "right") - 1
    places = starts - document  # in the surprises: each earlier document has one token more than surprises
    at_once = max(1, LOGITS // (model.config.block_size * model.config.vocab_size))
    if model.numerics == "exact":
        at_once = 1
    for first in range(0, len(starts), at_once):
        part = slice(first, first + at_once)
        logits = np.empty((lengths[part].sum(), model.config.vocab_size), model.parameters.dtype)
        model.engine.forward(model.parameters, corpus.tokens, starts[part], lengths[part], logits)
        logits = logits.astype(np.float64)
        row = 0
        for start, length, skip, place in zip(starts[part], lengths[part], skipped[part], places[part]):
            rows = logits[row + skip : row + length]
            targets = corpus.tokens[start + skip + 1 : start + length + 1]
            highest = rows.max(1)
            total = highest + np.log(np.exp(rows - highest[:, None]).sum(1))
            surprises[place + skip : place + length] = total - rows[np.arange(len(rows)), targets]
            row += length
    if not np.isfinite(surprises).all():
        raise UsageError(
            "the model's logits are not finite, so that no text can be scored: did its training diverge?"
        )
    return Score(corpus, surprises, documents, characters)


def is_text(source):
    """Whether a string is a text rather than the name of a file.

    Raises
    ------
    UsageError
        if it is no file, and might be meant as one.
    """
    if not isinstance(source, str) or source == STDIN or ("\0" not in source and os.path.exists(source)):
        return False
    if len(source.split()) > 1 or "\n" in source:
        return True
    raise UsageError(f"{shown(source)} is no file; to score it as a text, give a list: [{shown(source)}]")


def _corpus(source, tokenizer, mode, choice):
    """The text in the model's tokens."""
    unknown_characters.check(choice)
    parts, name = parts_of([source] if is_text(source) else source)
    if name is None:
        pieces = given(parts, tokenizer.kind)
    else:
        files = find_files(parts)
        pieces = segments(files, mode, tokenizer.kind)
    if choice != "error" and tokenizer.kind == "char":
        pieces = unknown_characters.Known(pieces, tokenizer, choice)
    try:
        corpus = pack(pieces, tokenizer, tokenizer.bos_place, mode, name or "the data")
    except DataError:
        if name is not None and tokenizer.kind == "char" and choice == "error":
            unknown_characters.refuse(files, mode, tokenizer)
        raise
    if getattr(pieces, "count", 0):
        corpus.note = f"{pieces.count} characters that the model does not know: {choice}"
    return corpus


def windows(offsets, block_size):
    """Windows over documents: (starts int64, lengths int32, how many predictions the window before has made)."""
    starts, lengths, skipped = [], [], []
    stride = max(1, block_size // 2)
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist()):
        total = end - begin - 1  # predictions
        start, done = 0, 0
        while done < total:
            length = min(block_size, total - start)
            starts.append(begin + start)
            lengths.append(length)
            skipped.append(done - start)
            done = start + length
            start += stride
    return np.array(starts, np.int64), np.array(lengths, np.int32), np.array(skipped, np.int64)
