"""Tokens of large texts in mapped files: made once for a content, in memory that does not grow with it.

The folder is $MICROGPT_FAST_CACHE, or microgpt_fast in $XDG_CACHE_HOME or ~/.cache. It holds a folder for
each content and way to tokenise it, named by a hash of both: tokens.bin, offsets.bin (int64) and, written
last, about.json. Nothing in it is missed when it is deleted.
"""

import json
import os
import shutil
from hashlib import blake2b

import numpy as np

from ..config import UsageError
from .corpus import Corpus, no_documents, segments
from .text import CODE_POINTS
from .tokenizer import ByteTokenizer, Tokenizer, tokenizer_of

FORMAT = "microgpt_fast tokens 1"
PIECE = 1 << 20
ID_TYPES = (np.uint8, np.uint16, np.int32)


def folder():
    """Where the cache is."""
    given = os.environ.get("MICROGPT_FAST_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return given or os.path.join(home, "microgpt_fast")


def cached(files, mode, tokenizer, bos, name):
    """The corpus of some files, its arrays mapped from the cache, where they are put first if need be.

    Parameters
    ----------
    files
        See `files.find_files`.
    mode, tokenizer, bos
        See `load_corpus`; `mode` is not "auto" any more.
    name : str
        Of the data, for errors.

    Raises
    ------
    UsageError
        if the cache cannot be written.
    """
    entry = os.path.join(folder(), _key(files, mode, tokenizer, bos))
    try:
        return _open(entry)
    except (OSError, ValueError, KeyError, TypeError):  # it is not there, or damaged
        pass
    try:
        os.makedirs(folder(), exist_ok=True)
        shutil.rmtree(entry, ignore_errors=True)
        unfinished = f"{entry}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
        os.mkdir(unfinished)
        try:
            _write(unfinished, files, mode, tokenizer, bos, name)
            try:
                os.rename(unfinished, entry)
            except OSError:  # another process was faster
                return _open(entry)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return _open(entry)
    except OSError as error:
        raise UsageError(
            f"cannot write the cache of tokens in {folder()}: {error.strerror or error}; "
            "MICROGPT_FAST_CACHE can name another folder"
        ) from None


def _key(files, mode, tokenizer, bos):
    total = blake2b(f"{FORMAT} {mode} {tokenizer} {bos}".encode(), digest_size=16)
    for _, _, open_file in files:
        content = blake2b(digest_size=16)
        with open_file() as file:
            while data := file.read(PIECE):
                content.update(data)
        total.update(content.digest())
    return total.hexdigest()


def _open(entry):
    with open(os.path.join(entry, "about.json"), encoding="utf-8") as file:
        about = json.load(file)
    tokens = np.memmap(os.path.join(entry, "tokens.bin"), about["dtype"], "r")
    offsets = np.memmap(os.path.join(entry, "offsets.bin"), np.int64, "r")
    if len(tokens) != about["tokens"] or len(offsets) != about["documents"] + 1:
        raise ValueError("damaged")
    return Corpus(tokens, offsets, tokenizer_of(about["tokenizer"]), about["mode"])


def _write(entry, files, mode, tokenizer, bos, name):
    """The files of an entry. Characters get provisional ids first: the final ones need all characters."""
    provisional = os.path.join(entry, "provisional.bin")
    attempts = map(_Characters, ID_TYPES) if tokenizer == "char" else [_Bytes(bos)]
    for numbers in attempts:
        try:
            with open(provisional, "wb") as tokens, open(os.path.join(entry, "offsets.bin"), "wb") as offsets:
                total, documents = _write_tokens(tokens, offsets, segments(files, mode, tokenizer), numbers)
            break
        except OverflowError:  # more characters than ids of this type
            pass
    if not documents:
        raise no_documents(name)

    final, table = numbers.finish(bos)
    path = os.path.join(entry, "tokens.bin")
    if table is None:
        os.rename(provisional, path)
    else:
        with open(provisional, "rb") as source, open(path, "wb") as target:
            while data := source.read(PIECE):
                is_small = numbers.dtype == table.dtype == np.uint8
                target.write(data.translate(table) if is_small else table[np.frombuffer(data, numbers.dtype)])
        os.remove(provisional)
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
    about = {
        "tokens": total,
        "documents": documents,
        "dtype": (numbers if table is None else table).dtype.name,
        "mode": mode,
        "tokenizer": final.constants(),
    }
    with open(os.path.join(entry, "about.json"), "w", encoding="utf-8") as file:
        json.dump(about, file)


def _write_tokens(tokens, offsets, parts, numbers):
    """Write the tokens and offsets of some segments; returns how many tokens and documents there are."""
    total = documents = 0
    is_open = False  # the last document may be continued
    for codes, lengths, continues in parts:
        if not len(lengths):
            continue
        if is_open and not continues:
            tokens.write(numbers.bos)
            total += 1
        begins = np.ones(len(lengths), np.int64)  # a bos before each document but a continued one
        begins[0] -= continues
        sizes = lengths + begins + 1
        sizes[-1] -= 1  # the last document's bos follows when it is known to have ended
        ends = np.cumsum(sizes)
        is_bos = np.zeros(ends[-1], bool)
        is_bos[(ends - sizes)[continues:]] = True
        is_bos[ends[:-1] - 1] = True
        ids = np.full(len(is_bos), numbers.bos)
        ids[~is_bos] = numbers.of(codes)
        tokens.write(ids)
        offsets.write(total + (ends - sizes)[continues:])
        total += int(ends[-1])
        documents += len(lengths) - int(continues)
        is_open = True
    if is_open:
        tokens.write(numbers.bos)
        total += 1
    offsets.write(np.array([total], np.int64))
    return total, documents


class _Bytes:
    """The ids of bytes, which are final at once."""

    def __init__(self, bos):
        self._tokenizer = ByteTokenizer(bos)
        self.dtype = np.dtype(np.uint16)
        self.bos = np.array([self._tokenizer.bos], np.uint16)

    def of(self, codes):
        return codes.astype(np.uint16) + np.uint16(self._tokenizer.bos_place == "first")

    def finish(self, bos):
        return self._tokenizer, None


class _Characters:
    """Provisional ids: 0 for bos, 1 + its code for a character of ASCII, the next for others as they come."""

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)
        self.bos = np.zeros(1, dtype)
        self._ascii = b""  # seen so far
        self._ids = np.zeros(CODE_POINTS, dtype)
        self._ids[:128] = np.arange(1, 129)
        self._others = []

    def of(self, codes):
        """Provisional ids; OverflowError when the type has no more."""
        if codes.dtype == np.uint8:
            new = codes.tobytes().translate(None, self._ascii)
            self._ascii += bytes(set(new))
            return codes.astype(self.dtype) + self.dtype.type(1)
        ids = self._ids[codes]
        if not ids.all():
            new = np.unique(codes[ids == 0])
            following = 129 + len(self._others)
            if following + len(new) - 1 > np.iinfo(self.dtype).max:
                raise OverflowError
            self._ids[new] = np.arange(following, following + len(new))
            self._others += new.tolist()
            ids = self._ids[codes]
        self.of(codes[codes < 128].astype(np.uint8))
        return ids

    def finish(self, bos):
        """The tokenizer, and its id for each provisional id."""
        codes = np.array([*self._ascii, *self._others], np.uint32)
        final = Tokenizer(map(chr, codes.tolist()), bos)
        kind = next(kind for kind in ID_TYPES if final.vocab_size - 1 <= np.iinfo(kind).max)
        table = np.zeros(max(256, 129 + len(self._others)), kind)
        table[0] = final.bos
        table[self._ids[codes]] = final.encode_codes(codes)
        return final, table
