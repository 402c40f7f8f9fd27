r"""Text from files to code points, piece by piece: memory does not grow with the text.

A document may span pieces. So documents travel as segments: (codes, lengths, continues), the codes of some
documents end to end, how many each has, and whether the first of them continues the last document before.
"""

import codecs
import io

import numpy as np

from ..config import UsageError

PIECE = 1 << 18  # bytes that are read at a time: the scratch arrays of a piece stay in the processor's caches
CODE_POINTS = 0x110000  # of Unicode
NEWLINE = 10
MOST_STEPS = 16  # of white space, taken one by one from the ends of lines
BYTE_ORDER_MARK = "\ufeff"


class DataError(UsageError):
    """Text that cannot be trained on."""


def decode(name, file, keeps_mark=True):
    r"""UTF-8 text in pieces, "\r\n" and "\r" turned into "\n" as open() does.

    Parameters
    ----------
    name : str
        Of the file, for errors.
    file : binary file
    keeps_mark : bool
        Whether a byte order mark at the beginning stays a character, as for open().

    Yields
    ------
    text : str

    Raises
    ------
    DataError
        for what is not UTF-8; it tells where.
    """
    offset, rest, final = 0, b"", False
    while not final:
        data = file.read(PIECE)
        final = not data
        data = rest + data
        if not offset:
            _refuse_utf16(name, data)
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            place = offset + error.start
            raise DataError(
                f"{name}: not UTF-8 text: byte 0x{data[error.start]:02x} at offset {place}"
            ) from None
        if text.endswith("\r") and not final:  # perhaps the first half of "\r\n"
            text, used = text[:-1], used - 1
        if not offset and not keeps_mark:
            text = text.removeprefix(BYTE_ORDER_MARK)
        offset, rest = offset + used, data[used:]
        yield text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _refuse_utf16(name, data):
    """Refuse text that begins like UTF-16 or UTF-32: by its byte order mark, or as every other byte is 0."""
    is_marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
    even, odd = data[:1000:2], data[1:1000:2]
    is_ascii = len(odd) >= 8 and (any(even), any(odd)) in ((True, False), (False, True))
    if is_marked or is_ascii and (all(even) or all(odd)):
        raise DataError(
            f"{name}: not UTF-8 text: it begins like UTF-16, which can be converted: iconv -f UTF-16 -t UTF-8"
        )


def decoded(name, data):
    """The text of some bytes; see `decode`."""
    return "".join(decode(name, io.BytesIO(data)))


def read_characters(name, file, is_lines):
    """The code points of UTF-8 text, in pieces: uint8 or uint32 arrays; see `decode`.

    Lines keep a byte order mark, which is a character of the original's vocabulary.
    """
    return map(code_points, decode(name, file, keeps_mark=is_lines))


def read_bytes(name, file, is_lines):
    r"""The bytes of a file, in pieces: uint8 arrays.

    A byte order mark is left out, and in lines "\r\n" and "\r" are turned into "\n", as for characters; otherwise
    they are what they are.
    """
    rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    final = False
    while not final:
        data = file.read(PIECE)
        final = not data
        data, rest = rest + data, b""
        if is_lines:
            if data.endswith(b"\r") and not final:  # perhaps the first half of "\r\n"
                data, rest = data[:-1], b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if data:
            yield np.frombuffer(data, np.uint8)


def code_points(text):
    """Code points of a text: uint8 array [len(text)] if it is ASCII, else uint32.

    Raises
    ------
    UsageError
        for half of a surrogate pair, which is no character and which UTF-8 cannot write.
    """
    try:
        ascii = text.isascii()
        return np.frombuffer(text.encode("ascii" if ascii else "utf-32-le"), np.uint8 if ascii else np.uint32)
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise UsageError(f"the text holds a lone surrogate (U+{code:04X}, at index {error.start})") from None


def whole(pieces):
    """The segments of one text that is one document."""
    continues = False
    for codes in pieces:
        if len(codes):
            yield codes, np.array([len(codes)]), continues
            continues = True


def lines(pieces, is_space):
    r"""The segments of the documents that are the lines of a text.

    A document is what str.strip() leaves of a line, if anything; "\n" alone ends lines.

    Parameters
    ----------
    pieces : iterable of array
        The text's codes.
    is_space : bool array
        By code, whether strip() takes it away.
    """
    splitter = LineSplitter(is_space)
    for codes in pieces:
        yield splitter.split(codes)
    yield splitter.split(np.array([NEWLINE], np.uint8))


class LineSplitter:
    """Splits a text that arrives in pieces; after the last piece, split a line end."""

    def __init__(self, is_space):
        self._is_space = is_space
        self._open = False  # a document has begun in an earlier piece, and its line has not ended
        self._rest = []  # the white space after it so far, which is within the document or at its end

    def split(self, codes):
        """The segments in the next codes of the text."""
        if self._rest:
            if self._is_space[codes].all() and NEWLINE not in codes:
                self._rest.append(
                    codes
                )  # not looked at again with each piece: that would take quadratic time
                return codes[:0], np.empty(0, np.int64), False
            codes = np.concatenate([*self._rest, codes])
        ends = np.append(np.flatnonzero(codes == NEWLINE), len(codes))
        begins = np.empty_like(ends)
        begins[0], begins[1:] = 0, ends[:-1] + 1
        firsts, lasts = strip(codes, begins, ends, self._is_space)
        kept = firsts < lasts
        continues = self._open and bool(kept[0])
        if continues:
            firsts[0] = 0
        firsts, lasts = firsts[kept], lasts[kept]
        if kept[-1]:
            rest = codes[lasts[-1] :]
            self._open, self._rest = True, [rest] * bool(len(rest))
        elif self._open and len(ends) == 1:
            self._rest = [codes] * bool(len(codes))
        else:
            self._open, self._rest = False, []
        lengths = lasts - firsts
        if lengths.sum() == len(codes) - (len(ends) - 1):  # nothing but line ends is left out
            return codes[codes != NEWLINE], lengths, continues
        steps = np.zeros(len(codes) + 1, np.int8)
        steps[firsts], steps[lasts] = 1, -1
        return codes[np.cumsum(steps[:-1], dtype=np.int8).view(bool)], lengths, continues


def strip(codes, begins, ends, is_space):
    """The parts codes[begins[i] : ends[i]] without the white space at both ends: (begins, ends)."""
    firsts, lasts = begins.copy(), ends.copy()
    for places, offset, step in ((firsts, 0, 1), (lasts, -1, -1)):
        active = np.flatnonzero(firsts < lasts)
        for _ in range(MOST_STEPS):
            active = active[is_space[codes[places[active] + offset]]]
            if not len(active):
                break
            places[active] += step
            active = active[firsts[active] < lasts[active]]
        else:  # much white space: count what is not, before each place
            solid = ~is_space[codes]
            count = np.zeros(len(codes) + 1, np.int32)
            np.cumsum(solid, out=count[1:])
            inside = np.append(np.flatnonzero(solid), len(codes))
            first, last = count[begins], count[ends]
            kept = first < last
            return inside[first], np.where(kept, inside[last - 1] + 1, inside[first])
    return firsts, lasts


def character_spaces():
    """By code point, whether str.strip() takes it away: bool array."""
    table = np.zeros(CODE_POINTS, bool)
    table[[*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B)]] = True
    table[[0x2028, 0x2029, 0x202F, 0x205F, 0x3000]] = True
    return table


def byte_spaces():
    """By byte, whether bytes.strip() takes it away: bool array."""
    table = np.zeros(256, bool)
    table[[*range(9, 14), 32]] = True
    return table


def unread_share(codes, block_size):
    """The share of a text that lies beyond the first `block_size` codes of a line."""
    ends = np.append(np.flatnonzero(codes == NEWLINE), len(codes))
    lengths = np.diff(ends, prepend=-1) - 1
    return float(np.maximum(lengths - block_size, 0).sum() / max(1, lengths.sum()))


def looks_like_a_stream(codes, block_size):
    """Why a text is one long text rather than a document a line; None if it is not.

    Parameters
    ----------
    codes : array
        The text's first codes.
    block_size : int
        The part of a line that training would read.
    """
    ends = np.append(np.flatnonzero(codes == NEWLINE), len(codes))
    lengths = np.diff(ends, prepend=-1) - 1
    used = np.flatnonzero(lengths)
    if not len(used):
        return None
    lengths = lengths[: used[-1] + 1]
    unread = unread_share(codes, block_size)
    blank = np.mean(lengths == 0)
    if unread > 0.5:
        return f"{unread:.0%} of it lies beyond the first {block_size} tokens of a line"
    if blank > 0.02:
        return f"{blank:.0%} of its lines are blank, as between paragraphs"
    return None
