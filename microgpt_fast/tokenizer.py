"""Characters to token ids and back."""

import numpy as np

from .config import BOS_PLACES, UsageError

CODE_POINTS = 0x110000  # of Unicode


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

    def __init__(self, chars, bos="last"):
        if bos not in BOS_PLACES:
            raise UsageError(f"bos must be one of {', '.join(BOS_PLACES)}, not {bos!r}")
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

    def encode_codes(self, codes):
        """Token ids of an array of code points: int32, and -1 for a character that has none."""
        if codes.max(initial=0) >= len(self._ids):
            codes = np.minimum(codes, len(self._ids) - 1)
        return self._ids[codes]

    def encode(self, text):
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
            char = text[int(ids.argmin())]
            raise UsageError(f"the character {char!r} (U+{ord(char):04X}) is not in the vocabulary")
        return ids

    def decode(self, ids):
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


def code_points(text):
    """Code points of a text: uint32 array [len(text)].

    Raises
    ------
    UsageError
        for half of a surrogate pair, which is no character and which UTF-8 cannot write.
    """
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise UsageError(f"the text holds a lone surrogate (U+{code:04X}, at index {error.start})") from None
