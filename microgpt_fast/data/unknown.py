"""Characters that a model does not know: where they are, and what stands in for them."""

import io

import numpy as np

from ..config import UsageError
from .text import BYTE_ORDER_MARK, DataError, code_points

CHOICES = ("error", "skip", "replace")
STAND_INS = "?_ .-"  # the first of them that a model knows replaces what it does not know


def check(choice):
    """Refuse what is none of `CHOICES`."""
    if choice not in CHOICES:
        raise UsageError(f"unknown must be one of {', '.join(CHOICES)}, not {choice!r}")


def stand_in(tokenizer):
    """The character that replaces unknown ones."""
    known = [char for char in STAND_INS if char in tokenizer.chars]
    if not known:
        raise UsageError("the model knows no character to replace unknown ones with: skip them instead")
    return known[0]


def known_text(tokenizer, prompt, choice):
    """A text in which each unknown character is skipped or replaced, or left for `encode` to refuse."""
    if choice == "error" or tokenizer.kind == "byte":
        return prompt
    other = stand_in(tokenizer) if choice == "replace" else ""
    return "".join(char if char in tokenizer.chars else other for char in prompt)


class Known:
    """The segments (see `text`) of a text, without the characters that a tokenizer does not know.

    Attributes
    ----------
    count : int
        How many there were so far.
    """

    def __init__(self, pieces, tokenizer, choice):
        self._pieces, self._tokenizer, self._choice, self.count = pieces, tokenizer, choice, 0

    def __iter__(self):
        other = ord(stand_in(self._tokenizer)) if self._choice == "replace" else None
        for codes, lengths, continues in self._pieces:
            is_known = self._tokenizer.encode_codes(codes) >= 0
            self.count += int(np.count_nonzero(~is_known))
            if other is not None:
                yield np.where(is_known, codes, other), lengths, continues
                continue
            before = np.concatenate([[0], np.cumsum(is_known)])
            ends = np.cumsum(lengths)
            lengths = before[ends] - before[ends - lengths]
            first = 1 if continues else 0  # an empty document is none, but the rest of one before is
            kept = (lengths > 0) | (np.arange(len(lengths)) < first)
            yield codes[is_known], lengths[kept], continues


def refuse(files, mode, tokenizer):
    """Raise the error for the first unknown character in some files, with its line and column, if there is one."""
    for name, _, open_file in files:
        with open_file() as file:
            reader = io.TextIOWrapper(file, "utf-8")
            for number, line in enumerate(reader, 1):
                if mode == "stream" and number == 1:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                used = line.strip() if mode == "lines" else line
                unknown = np.flatnonzero(tokenizer.encode_codes(code_points(used)) < 0)
                if len(unknown):
                    place = int(unknown[0])
                    column = line.index(used) + place + 1
                    raise DataError(f"{name}: {message(used[place], number, column)}")
            reader.detach()


def message(char, line, column):
    """What to say of an unknown character."""
    return (
        f"the character {char!r} (U+{ord(char):04X}), line {line}, column {column}, is not in the vocabulary "
        "(--unknown skip or --unknown replace reads the rest)"
    )
