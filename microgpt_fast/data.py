"""Documents to one array of token ids."""

import os

import numpy as np

from .config import UsageError
from .tokenizer import CODE_POINTS, Tokenizer, code_points

BUILTIN = os.path.join(os.path.dirname(__file__), "datasets", "us_census_1990_first_names.txt")
PIECE = 1 << 20  # characters of a file that are split into documents at a time: bounds the scratch memory


class DataError(UsageError):
    """Text that cannot be trained on."""


class Corpus:
    """Tokenised documents, end to end.

    Parameters
    ----------
    codes : uint32 array
        The code points of all documents.
    lengths : int64 array [n]
        How many each document has.
    bos : {"last", "first"}
        Where the tokenizer puts the beginning-of-sequence token.

    Attributes
    ----------
    tokenizer : Tokenizer
        Over the characters that occur.
    tokens : int32 array
        For each document: bos, its ids, bos.
    offsets : int64 array [n + 1]
        Document d is tokens[offsets[d]:offsets[d + 1]].
    """

    def __init__(self, codes, lengths, bos="last"):
        seen = np.zeros(CODE_POINTS, bool)
        seen[codes] = True
        self.tokenizer = Tokenizer(map(chr, np.flatnonzero(seen).tolist()), bos)
        self.offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths + 2, out=self.offsets[1:])
        inner = np.ones(self.offsets[-1], bool)
        inner[self.offsets[:-1]] = False
        inner[self.offsets[1:] - 1] = False
        self.tokens = np.full(len(inner), self.tokenizer.bos, np.int32)
        self.tokens[inner] = self.tokenizer.encode_codes(codes)

    def __len__(self):
        """Number of documents."""
        return len(self.offsets) - 1

    def batches(self, order, first, count, block_size):
        """Where the documents of consecutive positions in an endlessly repeated order lie.

        Parameters
        ----------
        order : int64 array [len(self)]
            A permutation of the documents.
        first, count : int
            The positions first ... first + count - 1, modulo the number of documents.
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


def load_corpus(source=None, bos="last"):
    """Read and tokenise documents.

    Parameters
    ----------
    source : path, or iterable of str, optional
        A UTF-8 text file, each line of which is a document, stripped, if anything is left of it; or the
        documents themselves, used as they are, empty ones dropped. None is the built-in list of first names.
    bos : {"last", "first"}
        See `Tokenizer`.

    Returns
    -------
    corpus : Corpus

    Raises
    ------
    DataError
        for text that is not UTF-8, or without any document.
    OSError
        if the file cannot be read.
    """
    if source is None:
        source = BUILTIN
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        codes, lengths = split_documents(read_text(name))
    else:
        name = "the data"
        documents = list(source)
        for index, document in enumerate(documents):
            if not isinstance(document, str):
                raise DataError(f"document {index} must be a str, not {type(document).__name__}")
        codes, lengths = _join([*filter(None, documents)])
    if not len(lengths):
        raise DataError(f"{name}: no documents: there is nothing but blank lines")
    return Corpus(codes, lengths, bos)


def read_text(path):
    r"""The text of a UTF-8 file, "\r\n" and "\r" turned into "\n" as open() does; a BOM stays a character."""
    with open(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text: byte 0x{content[error.start]:02x} at offset {error.start}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def split_documents(text):
    r"""The documents of a text: what str.strip() leaves of each "\n"-separated line, if anything.

    Returns
    -------
    codes : uint32 array
        The code points of all documents, end to end.
    lengths : int64 array [n]
    """
    pieces = []
    start = 0
    while start < len(text) or not pieces:
        end = text.find("\n", start + PIECE) + 1 or len(text)
        pieces.append(_join([*filter(None, map(str.strip, text[start:end].split("\n")))]))
        start = end
    codes, lengths = zip(*pieces)
    return np.concatenate(codes), np.concatenate(lengths)


def _join(documents):
    return code_points("".join(documents)), np.fromiter(map(len, documents), np.int64, len(documents))
