"""The folder of the cache: this user's alone, with one writer for each entry.

An entry is written as NAME.tmp, a folder that its writer holds a lock on, and renamed when it is whole. Such a
folder without a lock was left behind by a process that was killed.
"""

import os
import re
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress

from ..config import UsageError
from ..locks import NO_LOCKS, is_same, locked
from ..messages import tell

UNFINISHED = re.compile(
    r"[0-9a-f]{32}(?:\.(\d+)\.[0-9a-f]{8})?\.tmp"
)  # the process's id where no lock can be had
OLD = 24 * 3600  # seconds after which nobody can be writing any more
SHARED = "others may write to it (chmod go-w it)"
ADVICE = "MICROGPT_FAST_CACHE can name another folder"


def folder():
    """Where the cache is, whether or not it exists.

    $MICROGPT_FAST_CACHE; or microgpt_fast in $XDG_CACHE_HOME or ~/.cache; or, for a user without a home, one in the
    folder for temporary files.
    """
    return _candidates()[0]


def private_folder(of="tokens"):
    """The folder of the cache, made if need be, which nobody but this user can write to.

    Parameters
    ----------
    of : str
        What is kept there, for errors.

    Raises
    ------
    UsageError
        if there is none.
    """
    candidates = _candidates()
    for path in candidates:
        is_last = path == candidates[-1]
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            about = os.lstat(path) if path == _temporary() else os.stat(path)
            reason = not_private(about)
            if reason == SHARED and not os.environ.get("MICROGPT_FAST_CACHE"):  # as a umask of 002 leaves it
                os.chmod(path, 0o700)
                reason = None
            if not reason and not is_last and not os.access(path, os.W_OK):
                reason = "it cannot be written to"
        except OSError as error:
            reason = error.strerror or str(error)
        if not reason:
            return path
        if is_last:
            raise UsageError(f"cannot write the cache of {of} in {path}: {reason}; {ADVICE}")
        tell(f"the cache of {of} is in {candidates[-1]}, not in {path}: {reason}")


def _candidates():
    given = os.environ.get("MICROGPT_FAST_CACHE")
    if given:
        path = os.path.expanduser(given)
        if path.startswith("~"):
            raise UsageError(f"MICROGPT_FAST_CACHE is {given}, but there is no such home folder")
        return [os.path.abspath(path)]
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):  # which the specification wants ignored
        caches = os.path.join(os.path.expanduser("~"), ".cache")
    mine = [os.path.join(caches, "microgpt_fast")] if os.path.isabs(caches) else []
    return [*mine, _temporary()]


def _temporary():
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return os.path.join(tempfile.gettempdir(), f"microgpt_fast-{user}")


def not_private(about):
    """Why others than this user may have written a file or folder, whose os.stat this is; None if they cannot."""
    if not hasattr(os, "getuid"):
        return None
    if not stat.S_ISDIR(about.st_mode) and not stat.S_ISREG(about.st_mode):
        return "it is no regular file or folder"
    if about.st_uid != os.getuid():
        return "it belongs to another user"
    return SHARED if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


@contextmanager
def unfinished(parent, name):
    """A new, empty folder for the entry of this name, removed at the end if it is still there.

    Yields
    ------
    path : str or None
        None if another process has just made the entry, or given up.
    """
    path, lock = _locked(parent, name)
    try:
        yield path
    finally:
        is_ours = lock is None or is_same(path, lock)  # by now another process's may have its name
        if path is not None and is_ours:
            shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(parent, name):
    """The path of an empty folder, or None; and the lock on it, or None where no lock can be had."""
    path = os.path.join(parent, f"{name}.tmp")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    try:
        lock = _lock(path)
        if lock is None:
            tell("another process is tokenising this text: waiting for it")
            lock = _lock(path, waits=True)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        with suppress(OSError):
            os.rmdir(path)
        path = os.path.join(parent, f"{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        os.mkdir(path, 0o700)
        return path, None
    if not is_same(path, lock):  # renamed or removed by the one that had the lock
        os.close(lock)
        return None, None
    os.chmod(path, 0o700)
    for left in os.scandir(path):
        shutil.rmtree(left.path) if left.is_dir(follow_symlinks=False) else os.remove(left.path)
    return path, lock


def _lock(path, waits=False):
    return locked(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0), waits)


def remove_leftovers(parent):
    """Remove what killed processes left unfinished."""
    for name in os.listdir(parent):
        match = UNFINISHED.fullmatch(name)
        if not match:
            continue
        path = os.path.join(parent, name)
        try:
            is_old = time.time() - os.lstat(path).st_mtime > OLD
            if match[1] and _is_alive(int(match[1])) and not is_old:
                continue
            lock = _lock(path)
        except OSError as error:  # among them: another process has removed it
            if error.errno in NO_LOCKS and is_old:
                shutil.rmtree(path, ignore_errors=True)
            continue
        if lock is not None:
            if is_same(path, lock):
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _is_alive(process):
    if os.name == "nt":  # where os.kill ends it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def sync_folder(path):
    """Have the names in a folder written to the disk, where the system can do that for folders."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)
