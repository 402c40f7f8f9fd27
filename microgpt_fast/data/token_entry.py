"""An entry of the token cache: what it must hold to be trained on.

tokens.bin, offsets.bin (int64), and about.json, which describes both. Nothing is believed. The files must be this
user's alone; about.json states their checksums and its own; ids must be of the vocabulary, and documents must lie end
to end. All of that is read once for a boot of the machine and a state of the files, which the file `verified` keeps:
their inodes, sizes and times of change. So power lost while they were written, or any change since, has it read again.
"""

import json
import os
import stat
import time
from hashlib import blake2b

import numpy as np

from ..config import UsageError
from .cache_folder import not_private
from .corpus import Corpus
from .tokenizer import tokenizer_of

TOKENS, OFFSETS, ABOUT, VERIFIED = "tokens.bin", "offsets.bin", "about.json", "verified"
DTYPES = ("uint8", "uint16", "int32")
PIECE = 1 << 20  # bytes that are looked at at a time
MOST_ABOUT = 1 << 24  # bytes; all characters of Unicode need 12 MB
LEAST_AGE = 2  # seconds: a file that changed later could change again within a tick of its clock, unseen
BOOT = "/proc/sys/kernel/random/boot_id"


class Damaged(ValueError):
    """An entry that cannot be trusted; the text says why."""


def create(path):
    """A new file, or one emptied, that only this user can write to."""
    return open(path, "wb", opener=lambda path, flags: os.open(path, flags, 0o600))


def describe(path, **values):
    """Write about.json: these values, and the checksums of everything; have all files written to the disk."""
    values["checksums"] = {name: _checksum(os.path.join(path, name)) for name in (TOKENS, OFFSETS)}
    values["checksum"] = _own_checksum(values)
    with create(os.path.join(path, ABOUT)) as file:
        file.write(json.dumps(values).encode())
    for name in (TOKENS, OFFSETS, ABOUT):
        with open(os.path.join(path, name), "r+b") as file:
            os.fsync(file.fileno())


def open_entry(path, mode, tokenizer, bos):
    """The corpus of an entry, its arrays mapped.

    Parameters
    ----------
    path : str
        Named by the key of the entry.
    mode, tokenizer, bos
        See `load_corpus`: what the entry must be of.

    Raises
    ------
    FileNotFoundError
        if there is no entry.
    Damaged
        if it cannot be trusted.
    UsageError
        if its name is a symbolic link.
    """
    about = os.lstat(path)
    if stat.S_ISLNK(about.st_mode):
        raise UsageError(f"{path} is a symbolic link, which the cache of tokens does not follow: remove it")
    if not stat.S_ISDIR(about.st_mode):
        raise Damaged("it is no folder")
    _refuse(not_private(about))
    try:
        return _open_files(path, mode, tokenizer, bos)
    except OSError as error:
        os.lstat(path)  # where another process has taken it away, there is no entry
        raise Damaged(error.strerror or str(error)) from None


def _refuse(reason):
    if reason:
        raise Damaged(reason)


def _open_files(path, mode, tokenizer, bos):
    with _opened(path, ABOUT) as about, _opened(path, TOKENS) as tokens, _opened(path, OFFSETS) as offsets:
        described = _described(about.read(MOST_ABOUT + 1))
        known = _tokenizer(described)
        given = {"key": os.path.basename(path), "mode": mode}
        found = {name: described.get(name) for name in given}
        if found != given or (known.kind, known.bos_place) != (tokenizer, bos):
            raise Damaged("it is the entry of another text")
        dtype = described["dtype"]
        if dtype not in DTYPES:
            raise Damaged(f"tokens are not {dtype!r:.20}")
        mapped = (
            _mapped(tokens, dtype, described["tokens"]),
            _mapped(offsets, "int64", described["documents"], 1),
        )
        state = _state(about, tokens, offsets)
        if state is None or _read(path, VERIFIED) != state:
            for name, file in ((TOKENS, tokens), (OFFSETS, offsets)):
                if _checksum(file) != described["checksums"].get(name):
                    raise Damaged(f"{name} has another checksum")
            check(*mapped, known)
            _note(path, state, (about, tokens, offsets))
        return Corpus(*mapped, known, mode)


def _opened(path, name):
    """A regular file of this user, opened; without waiting for what is a pipe."""
    flags = os.O_RDONLY
    for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, flag, 0)
    file = open(os.open(os.path.join(path, name), flags), "rb")
    reason = not_private(os.fstat(file.fileno()))
    if reason:
        file.close()
        raise Damaged(f"{name}: {reason}")
    return file


def _described(text):
    """What about.json says: a dictionary with all its values."""
    try:
        about = json.loads(text) if len(text) <= MOST_ABOUT else None
    except (ValueError, RecursionError):
        about = None
    types = {"tokens": int, "documents": int, "dtype": str, "tokenizer": dict}
    if not isinstance(about, dict) or any(type(about.get(name)) is not kind for name, kind in types.items()):
        raise Damaged(f"{ABOUT} describes nothing")
    if not isinstance(about.get("checksums"), dict):
        raise Damaged("an older version made it, without checksums")
    if about.pop("checksum", None) != _own_checksum(about):
        raise Damaged(f"{ABOUT} has another checksum")
    return about


def _tokenizer(about):
    try:
        tokenizer = tokenizer_of(about["tokenizer"])
        if tokenizer.constants() == about["tokenizer"]:
            return tokenizer
    except (TypeError, ValueError):
        pass
    raise Damaged("its tokenizer is none")


def _mapped(file, dtype, length, more=0):
    size = os.fstat(file.fileno()).st_size
    if length < 1 or size != (length + more) * np.dtype(dtype).itemsize:
        raise Damaged("a file has another length")
    return np.memmap(file, dtype, "r", shape=(length + more,))


def check(tokens, offsets, tokenizer):
    """Refuse tokens that are not of the vocabulary, and documents that do not lie end to end.

    Raises
    ------
    Damaged
    """
    for first in range(0, len(tokens), PIECE):
        ids = tokens[first : first + PIECE]
        if ids.min() < 0 or ids.max() >= tokenizer.vocab_size:
            raise Damaged("there are ids beyond the vocabulary")
    if offsets[0] != 0 or offsets[-1] != len(tokens):
        raise Damaged("its documents are not all of its tokens")
    for first in range(0, len(offsets) - 1, PIECE):
        places = offsets[first : first + PIECE + 1]
        if places.min() < 0 or places.max() > len(tokens) or (np.diff(places) < 3).any():
            raise Damaged("its documents do not lie end to end")
        if (tokens[places[:-1]] != tokenizer.bos).any() or (tokens[places[1:] - 1] != tokenizer.bos).any():
            raise Damaged("its documents do not begin and end as they should")


def _checksum(file):
    """Of a file, by its path or opened."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            return _checksum(opened)
    digest = blake2b(digest_size=16)
    file.seek(0)
    while data := file.read(PIECE):
        digest.update(data)
    return digest.hexdigest()


def _own_checksum(values):
    return blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


def _state(*files):
    """What tells that none of the files has changed; None where the system does not tell its boots apart."""
    try:
        with open(BOOT, encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        return None
    abouts = [os.fstat(file.fileno()) for file in files]
    return json.dumps(
        [boot, *([a.st_dev, a.st_ino, a.st_size, a.st_mtime_ns, a.st_ctime_ns] for a in abouts)]
    )


def _read(path, name):
    try:
        with _opened(path, name) as file:
            return file.read(1 << 12).decode()
    except (OSError, ValueError):
        return None


def _note(path, state, files):
    """Keep the state of the files whose checksums were right."""
    youngest = max(os.fstat(file.fileno()).st_ctime for file in files)
    if state is None or time.time() - youngest < LEAST_AGE:
        return
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(os.path.join(path, VERIFIED), flags, 0o600), "w") as file:
            file.write(state)
    except OSError:  # a disk that is full, or only to be read
        pass
