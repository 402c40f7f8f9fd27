"""Documents to one array of token ids."""

import os
import warnings
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import text
from .config import DATA_MODES, TOKENIZERS, UsageError
from .text import DataError, code_points
from .tokenizer import ByteTokenizer, Tokenizer

BUILTIN = os.path.join(os.path.dirname(__file__), "datasets", "us_census_1990_first_names.txt")
Source: TypeAlias = str | os.PathLike[str] | Iterable[str] | Iterable[os.PathLike[str]] | None
CACHED_FROM = 8 << 20  # bytes of text; less is tokenised again in no time


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
        self.note = note

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


def load_corpus(
    source: Source = None,
    bos: str = "last",
    *,
    mode: str = "lines",
    tokenizer: str = "char",
    block_size: int = 16,
) -> Corpus:
    """Read and tokenise documents.

    Text of more than 8 MB is tokenised once, into a cache: see `token_cache`.

    Parameters
    ----------
    source : path, list of paths, or iterable of str, optional
        UTF-8 text files, or folders of such; "-" is stdin; paths in a list must be pathlib.Path objects.
        Strings in an iterable are the documents themselves, used as they are, empty ones dropped. None is
        the built-in list of first names.
    bos : {"last", "first"}
        See `Tokenizer`.
    mode : {"lines", "stream", "auto"}
        In files, each line is a document, stripped, if anything is left of it; or each file is one. "auto"
        takes the latter if that is what the text looks like, and `Corpus.note` tells why.
    tokenizer : {"char", "byte"}
    block_size : int
        What training will read of a line: "auto" looks at how much that leaves out.

    Returns
    -------
    corpus : Corpus

    Raises
    ------
    DataError
        for text that is not UTF-8 (as characters), or without any document.
    OSError
        if a file cannot be read.
    """
    for name, value, allowed in (("mode", mode, DATA_MODES), ("tokenizer", tokenizer, TOKENIZERS)):
        if value not in allowed:
            raise UsageError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    parts, name = parts_of(source)
    if name is None:
        if parts and all(isinstance(part, str) and os.path.isfile(part) for part in parts):
            warnings.warn("these documents are names of files: pathlib.Path objects are read", stacklevel=2)
        mode = "lines" if mode == "auto" else mode
        return pack(given(parts, tokenizer), tokenizer, bos, mode, "the data")

    files = text.find_files(parts)
    mode, note = _choose_mode(files, mode, tokenizer, block_size)
    if sum(size for _, size, _ in files) < CACHED_FROM:
        corpus = pack(segments(files, mode, tokenizer), tokenizer, bos, mode, name)
    else:
        from .token_cache import cached

        corpus = cached(files, mode, tokenizer, bos, name)
    corpus.note = note
    return corpus


def parts_of(source):
    """What a source (see `load_corpus`) consists of: (a list, its name if these are paths, else None)."""
    if source is None:
        source = BUILTIN
    if isinstance(source, (str, os.PathLike)):
        return [source], os.fspath(source)
    parts = list(source)
    are_paths = bool(parts) and all(isinstance(part, os.PathLike) for part in parts)
    return parts, " ".join(map(os.fspath, parts)) if are_paths else None


def segments(files, mode, tokenizer):
    """The segments (see `text`) of the documents in some files, in order."""
    is_space = None
    for name, _, open_file in files:
        with open_file() as file:
            pieces = (text.read_characters if tokenizer == "char" else text.read_bytes)(name, file)
            if mode == "stream":
                yield from text.whole(pieces)
                continue
            if is_space is None:
                is_space = text.character_spaces() if tokenizer == "char" else text.byte_spaces()
            yield from text.lines(pieces, is_space)


def no_documents(name):
    """The error for a text without documents."""
    return DataError(f"{name}: no documents: there is nothing but blank lines")


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


def _choose_mode(files, mode, tokenizer, block_size):
    """The mode, and what to say about it."""
    sample = np.empty(0, np.uint8)
    if files:
        name, _, open_file = files[0]
        with open_file() as file:
            sample = np.frombuffer(file.read(text.PIECE).replace(b"\r\n", b"\n"), np.uint8)
    reason = text.looks_like_a_stream(sample, block_size)
    if mode == "auto":
        if reason:
            return "stream", f"data mode stream, one long text cut into blocks: {reason}"
        return "lines", "data mode lines, a document a line"
    if mode == "lines" and reason:
        return mode, f"data mode lines, but the text looks like one long text (--data-mode stream): {reason}"
    return mode, None


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
        code = int(codes[ids.argmin()])
        raise DataError(f"{name}: the character {chr(code)!r} (U+{code:04X}) is not in the vocabulary")
    tokens[inner] = ids
    return Corpus(tokens, offsets, tokenizer, mode)
