"""Text to token ids and back: by character, or by byte."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import BOS_PLACES, UsageError, shown
from .text import code_points


class Tokenizer:
    """A token id for each of a set of characters, in their order, and one for the beginning of a sequence.

    Parameters
    ----------
    chars : iterable of str
        The characters, each of length 1; sorted and freed of repetitions here.
    bos : {"last", "first"}
        The beginning-of-sequence token has the id after the characters' ids, or 0 before them.

    Attributes
    ----------
    chars : str
        The characters in the order of their ids.
    bos_place : {"last", "first"}
    bos : int
        The id that begins and ends every document.
    vocab_size : int
    """

    kind = "char"

    def __init__(self, chars: Iterable[str], bos: str = "last") -> None:
        _check_bos(bos)
        self.chars = "".join(sorted(set(chars)))
        self.bos_place = bos
        self.bos = len(self.chars) if bos == "last" else 0
        self.vocab_size = len(self.chars) + 1
        first = 0 if bos == "last" else 1
        codes = code_points(self.chars)
        self._ids = np.full(
            int(codes.max(initial=0)) + 2, -1, np.int32
        )  # the last entry stands for all above
        self._ids[codes] = np.arange(first, first + len(codes), dtype=np.int32)
        self._symbols = [*self.chars, ""] if bos == "last" else ["", *self.chars]

    def encode_codes(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Token ids of an array of code points: int32, and -1 for a character that has none."""
        if codes.max(initial=0) >= len(self._ids):
            codes = np.minimum(codes, len(self._ids) - 1)
        return self._ids[codes]

    def encode(self, text: str) -> NDArray[np.int32]:
        """Token ids of a text, without any beginning-of-sequence token.

        Parameters
        ----------
        text : str

        Returns
        -------
        ids : int32 array [len(text)]

        Raises
        ------
        UsageError
            for a character that has no id.
        """
        ids = self.encode_codes(code_points(text))
        if ids.size and ids.min() < 0:
            place = int(ids.argmin())
            char, line = text[place], text.count("\n", 0, place) + 1
            column = place - text.rfind("\n", 0, place)
            raise UsageError(
                f"the character {char!r} (U+{ord(char):04X}), line {line}, column {column}, is not in the vocabulary"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of an iterable of token ids; the beginning-of-sequence token is nothing.

        Raises
        ------
        IndexError
            for an id outside 0 ... vocab_size - 1.
        """
        symbols = self._symbols
        ids = np.asarray(ids).tolist()
        if ids and not 0 <= min(ids) <= max(ids) < len(symbols):
            raise IndexError(f"token ids must lie in 0 ... {len(symbols) - 1}, not {min(ids)} ... {max(ids)}")
        return "".join([symbols[i] for i in ids])

    def decoder(self) -> Callable[[int], str]:
        """A function of one id after another: the text that each completes."""
        return lambda token: self._symbols[token]

    def constants(self) -> dict[str, Any]:
        """What `tokenizer_of` makes the same tokenizer from."""
        return {"chars": self.chars, "bos": self.bos_place}


class ByteTokenizer:
    """A token id for each of the 256 bytes of UTF-8, and one for the beginning of a sequence.

    It reads and writes any text, with one to four tokens per character.

    Parameters
    ----------
    bos : {"last", "first"}
        See `Tokenizer`, also for the attributes and methods.
    """

    kind = "byte"
    vocab_size = 257

    def __init__(self, bos: str = "last") -> None:
        _check_bos(bos)
        self.bos_place = bos
        self.bos = 256 if bos == "last" else 0
        self._first = 0 if bos == "last" else 1

    def encode_codes(self, codes: NDArray[Any]) -> NDArray[np.int32]:
        """Token ids of an array of bytes: int32."""
        return codes.astype(np.int32) + np.int32(self._first)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Token ids of a text, without any beginning-of-sequence token: int32 array, one a byte of UTF-8."""
        code_points(text)  # refuses half a surrogate pair
        return self.encode_codes(np.frombuffer(text.encode(), np.uint8))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of an iterable of token ids; what is not UTF-8 becomes U+FFFD."""
        decode = self.decoder()
        return "".join([decode(token) for token in np.asarray(ids).tolist()]) + decode(self.bos)

    def decoder(self) -> Callable[[int], str]:
        """A function of one id after another: the text that each completes; bos completes all."""
        from codecs import getincrementaldecoder

        decoder = getincrementaldecoder("utf-8")("replace")

        def decode(token):
            if not 0 <= token < self.vocab_size:
                raise IndexError(f"token ids must lie in 0 ... {self.vocab_size - 1}, not {token}")
            is_bos = token == self.bos
            return decoder.decode(b"" if is_bos else bytes([token - self._first]), is_bos)

        return decode

    def constants(self) -> dict[str, Any]:
        """What `tokenizer_of` makes the same tokenizer from."""
        return {"bytes": True, "bos": self.bos_place}


def tokenizer_of(constants: dict[str, Any]) -> Tokenizer | ByteTokenizer:
    """The tokenizer whose `constants()` these are.

    Raises
    ------
    ValueError
        if they are none's.
    """
    if isinstance(constants, dict) and constants.keys() == {"bytes", "bos"} and constants["bytes"] is True:
        return ByteTokenizer(constants["bos"])
    if (
        isinstance(constants, dict)
        and constants.keys() == {"chars", "bos"}
        and type(constants["chars"]) is str
    ):
        return Tokenizer(constants["chars"], constants["bos"])
    raise ValueError(f"a tokenizer must be chars or bytes, and bos, not {shown(constants)}")


def _check_bos(bos):
    if bos not in BOS_PLACES:
        raise UsageError(f"bos must be one of {', '.join(BOS_PLACES)}, not {shown(bos)}")
