"""Tokens of large texts in mapped files: made once for a content, in memory that does not grow with it.

The cache (see `cache_folder`) holds a folder for each content and way to tokenise it, named by a hash of both; see
`token_entry`. Nothing in it is missed when it is deleted.
"""

import errno
import os
import shutil
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from time import perf_counter

import numpy as np

from ..config import UsageError
from ..messages import tell
from .cache_folder import ADVICE, private_folder, remove_leftovers, sync_folder, unfinished
from .corpus import no_documents, segments
from .text import CODE_POINTS, DataError
from .token_entry import OFFSETS, TOKENS, Damaged, create, describe, open_entry
from .tokenizer import ByteTokenizer, Tokenizer

FORMAT = "microgpt_fast tokens 1"
PIECE = 1 << 20
ID_TYPES = (np.uint8, np.uint16, np.int32)


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
        if the cache cannot be written, or is not this user's alone.
    """
    parent, begin, seconds = private_folder(), perf_counter(), 0.0
    contents = [_digest(open_file) for _, _, open_file in files]
    key = blake2b(
        f"{FORMAT} {mode} {tokenizer} {bos}".encode() + b"".join(contents), digest_size=16
    ).hexdigest()
    entry, wanted = os.path.join(parent, key), (mode, tokenizer, bos)
    try:
        corpus = _known(entry, wanted, tell)
        while corpus is None:
            with unfinished(parent, key) as path:
                corpus = _known(entry, wanted)  # another process may have made it
                if path is not None and corpus is None:
                    _write(path, key, _watched(files, contents), *wanted, name)
                    corpus = _put(path, entry, wanted)
                    seconds = perf_counter() - begin
        remove_leftovers(parent)
        corpus.tokenising = seconds
        return corpus
    except OSError as error:
        reason = error.strerror or error
    except Damaged as damage:  # though just made
        reason = damage
    raise UsageError(f"cannot write the cache of tokens in {parent}: {reason}; {ADVICE}")


def _known(entry, wanted, tell_damage=lambda message: None):
    """The corpus of an entry; None if it must be made first."""
    try:
        return open_entry(entry, *wanted)
    except FileNotFoundError:
        pass
    except Damaged as damage:
        tell_damage(f"the cache of tokens in {entry} cannot be trusted and is made again: {damage}")
    return None


def _put(path, entry, wanted):
    """Give a finished entry its name, in place of a damaged one; all of it is on the disk before that.

    Returns
    -------
    corpus : Corpus or None
        Of the entry, or the same that another process has put there where there are no locks. None if it has
        just been taken away.
    """
    sync_folder(path)
    while True:
        try:
            os.rename(path, entry)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EACCES):
                raise
            corpus = _known(entry, wanted)
            if corpus is not None:
                return corpus
            if os.path.lexists(entry):
                _move_away(entry, os.path.join(path, "replaced"))
            elif error.errno == errno.EACCES:
                raise
    sync_folder(os.path.dirname(entry))
    try:
        return open_entry(entry, *wanted)
    except FileNotFoundError:
        return None


def _move_away(entry, replaced):
    """Remove a damaged entry, at once: nobody sees a part of it."""
    try:
        os.rename(entry, replaced)
    except FileNotFoundError:  # another process did
        return
    if os.path.isdir(replaced):
        shutil.rmtree(replaced)
    else:
        os.remove(replaced)


def _digest(open_file):
    with open_file() as file:
        hashed = _Hashed(file)
        while hashed.read(PIECE):
            pass
    return hashed.digest()


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file):
        self._file, self._hash = file, blake2b(digest_size=16)
        self.digest = self._hash.digest

    def read(self, size):
        data = self._file.read(size)
        self._hash.update(data)
        return data


def _watched(files, contents):
    """The same files; reading one to the end fails if its content has changed since it was hashed."""

    @contextmanager
    def watch(name, open_file, content):
        with open_file() as file:
            hashed = _Hashed(file)
            yield hashed
            if hashed.digest() != content:
                raise DataError(f"{name} changed while it was read: try again")

    return [
        (name, size, partial(watch, name, open_file, content))
        for (name, size, open_file), content in zip(files, contents)
    ]


def _write(entry, key, files, mode, tokenizer, bos, name):
    """The files of an entry. Characters get provisional ids first: the final ones need all characters."""
    provisional, path = os.path.join(entry, "provisional.bin"), os.path.join(entry, TOKENS)
    attempts = map(_Characters, ID_TYPES) if tokenizer == "char" else [_Bytes(bos)]
    for numbers in attempts:
        try:
            with create(provisional) as tokens, create(os.path.join(entry, OFFSETS)) as offsets:
                total, documents = _write_tokens(tokens, offsets, segments(files, mode, tokenizer), numbers)
            break
        except OverflowError:  # more characters than ids of this type
            pass
    if not documents:
        raise no_documents(name)

    final, table = numbers.finish(bos)
    if table is None:
        os.rename(provisional, path)
    else:
        with open(provisional, "rb") as source, create(path) as target:
            while data := source.read(PIECE):
                is_small = numbers.dtype == table.dtype == np.uint8
                target.write(data.translate(table) if is_small else table[np.frombuffer(data, numbers.dtype)])
        os.remove(provisional)
    describe(
        entry,
        key=key,
        mode=mode,
        tokens=total,
        documents=documents,
        dtype=(numbers if table is None else table).dtype.name,
        tokenizer=final.constants(),
    )


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
