"""Documents to one array of token ids."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import text
from .text import DataError, code_points
from .tokenizer import ByteTokenizer, Tokenizer


class Corpus:
    """Tokenised documents, end to end.

    Parameters
    ----------
    tokens : int32, uint16 or uint8 array
        For each document: bos, its ids, bos. Perhaps a mapped file.
    offsets : int64 array [n + 1]
        Document d is tokens[offsets[d]:offsets[d + 1]].
    tokenizer : Tokenizer or ByteTokenizer
    mode : {"lines", "stream"}
        Whether documents are learned one by one, each from its beginning, or in blocks out of the long texts
        that they are.
    note : str, optional
        What the user should know about how the text was read.

    Attributes
    ----------
    tokenising : float
        Seconds that it took to put the tokens into the cache; 0 if they were there, or are not kept.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        offsets: NDArray[np.int64],
        tokenizer: Tokenizer | ByteTokenizer,
        mode: str = "lines",
        note: str | None = None,
    ) -> None:
        self.tokens, self.offsets, self.tokenizer, self.mode = tokens, offsets, tokenizer, mode
        self.note, self.tokenising = note, 0.0

    def __repr__(self) -> str:
        size = f"{len(self.tokens):,} tokens, vocabulary of {self.tokenizer.vocab_size}"
        return f"Corpus({len(self):,} documents, {size}, mode {self.mode})"

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def batches(
        self, order: NDArray[np.int64], first: int, count: int, block_size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Where the documents of consecutive positions in an endlessly repeated order lie.

        Parameters
        ----------
        order : int64 array
            Documents.
        first, count : int
            The positions first ... first + count - 1, modulo their number.
        block_size : int
            Longest part of a document that is used.

        Returns
        -------
        starts : int64 array [count]
            Index of the document's first token in `tokens`.
        lengths : int32 array [count]
            How many tokens are predicted: at most `block_size`.
        """
        documents = order[np.arange(first, first + count) % len(order)]
        starts = self.offsets[documents]
        lengths = np.minimum(self.offsets[documents + 1] - starts - 1, block_size)
        return starts, lengths.astype(np.int32)

    def gather(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Some sequences and the token after each, for an Engine.

        Returns
        -------
        tokens : int32 array
            `self.tokens`, if they have this type, or else a copy of what is needed of them.
        starts : int64 array
            Where the sequences begin therein.
        """
        if self.tokens.dtype == np.int32:
            return self.tokens, starts
        sizes = lengths.astype(np.int64) + 1
        ends = np.cumsum(sizes)
        places = np.repeat(starts - (ends - sizes), sizes) + np.arange(ends[-1])
        return self.tokens[places].astype(np.int32), ends - sizes


def segments(files, mode, tokenizer):
    """The segments (see `text`) of the documents in some files, in order."""
    is_space = None
    read = text.read_characters if tokenizer == "char" else text.read_bytes
    for name, _, open_file in files:
        with open_file() as file:
            pieces = read(name, file, mode == "lines")
            if mode == "stream":
                yield from text.whole(pieces)
                continue
            if is_space is None:
                is_space = text.character_spaces() if tokenizer == "char" else text.byte_spaces()
            yield from text.lines(pieces, is_space)


def given(documents, tokenizer):
    """The segments of documents that are strings."""
    for index, document in enumerate(documents):
        if not isinstance(document, str):
            raise DataError(f"document {index} must be a str, not {type(document).__name__}")
    documents = [*filter(None, documents)]
    codes = code_points("".join(documents))
    if tokenizer == "byte":
        documents = [document.encode() for document in documents]
        codes = np.frombuffer(b"".join(documents), np.uint8)
    yield codes, np.fromiter(map(len, documents), np.int64, len(documents)), False


def pack(pieces, tokenizer, bos, mode, name):
    """The corpus of some segments, in memory.

    Parameters
    ----------
    pieces
        See `text`.
    tokenizer : {"char", "byte"} or a tokenizer
        The kind of a new one, or a given one.
    bos, mode
        See `load_corpus`.
    name : str
        Of the data, for errors.
    """
    codes, lengths = [], []
    for part, part_lengths, continues in pieces:
        codes.append(part)
        if continues:
            lengths[-1][-1] += part_lengths[0]
            part_lengths = part_lengths[1:]
        if len(part_lengths):
            lengths.append(part_lengths)
    if not lengths:
        raise no_documents(name)
    codes, lengths = np.concatenate(codes), np.concatenate(lengths)
    if tokenizer == "byte":
        tokenizer = ByteTokenizer(bos)
    elif tokenizer == "char":
        seen = np.zeros(text.CODE_POINTS, bool)
        seen[codes] = True
        tokenizer = Tokenizer(map(chr, np.flatnonzero(seen).tolist()), bos)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths + 2, out=offsets[1:])
    inner = np.ones(offsets[-1], bool)
    inner[offsets[:-1]] = False
    inner[offsets[1:] - 1] = False
    tokens = np.full(len(inner), tokenizer.bos, np.int32)
    ids = tokenizer.encode_codes(codes)
    if ids.min() < 0:
        place = int(ids.argmin())
        code, document = int(codes[place]), int(np.searchsorted(np.cumsum(lengths), place, "right"))
        raise DataError(
            f"{name}: the character {chr(code)!r} (U+{code:04X}), document {document}, is not in the vocabulary"
        )
    tokens[inner] = ids
    return Corpus(tokens, offsets, tokenizer, mode)


def no_documents(name):
    """The error for a text without documents."""
    return DataError(f"{name}: no documents: there is nothing but blank lines")
