"""Locks between processes: the system's, which end with the process that holds them, however it ends."""

import errno
import os
import socket
from contextlib import suppress
from functools import partial

from .config import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None  # type: ignore[assignment]

NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # some network file systems
NAME = ".lock"  # in a folder with one writer; hidden, so that the folder as data does not hold it
MOST = 300  # bytes that are read of it
BEYOND = 1 << 30  # the byte that Windows locks: nobody else can read a locked one, and this is in no file


def locked(path, flags, waits=False):
    """A new descriptor of a file or folder that holds the lock on it.

    Parameters
    ----------
    path : path
    flags : int
        As for os.open; links are not followed, where the system can do that.
    waits : bool
        Wait for another process rather than give up; on POSIX alone.

    Returns
    -------
    descriptor : int or None
        None if another process holds the lock.

    Raises
    ------
    OSError
        if it cannot be opened; with an `errno` of `NO_LOCKS` where there are no locks, as for folders on Windows.
    """
    if fcntl is None and (msvcrt is None or os.path.isdir(path)):
        raise OSError(errno.ENOSYS, "no locks")
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        else:
            _lock_byte(descriptor)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def _lock_byte(descriptor):
    """Lock an open file by Windows' means; BlockingIOError if another has."""
    os.lseek(descriptor, BEYOND, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(errno.EAGAIN, "locked") from error
    os.lseek(descriptor, 0, os.SEEK_SET)


def is_same(path, descriptor):
    """Whether a path still names what the descriptor was opened as; by now another process's may have the name."""
    if fcntl is None:  # Windows, where nobody can remove or rename what is open
        return True
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


class Writer:
    """The right to write to a folder, which one object of one process has at a time.

    Where the system has no locks (some network file systems), everybody gets it.

    Parameters
    ----------
    folder : path
        It must exist.

    Raises
    ------
    UsageError
        if another has it; the text names its process and host.
    OSError
        if the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder, self._process = os.fspath(folder), os.getpid()
        self._path = os.path.join(self.folder, NAME)
        self._descriptor: int | None = None
        while self._descriptor is None:
            try:
                descriptor = locked(self._path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                if error.errno in NO_LOCKS:
                    return
                raise
            if descriptor is None:
                raise _refusal(self.folder)
            if is_same(self._path, descriptor):
                self._descriptor = descriptor
            else:  # removed by the one that had it
                os.close(descriptor)
        try:
            os.truncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Refuse to go on where the folder is no longer the one that was locked.

        Raises
        ------
        FileNotFoundError
            if it was removed, or replaced by another.
        """
        if self._descriptor is not None and not is_same(self._path, self._descriptor):
            text = "this folder was removed or replaced while the run wrote to it"
            raise FileNotFoundError(errno.ENOENT, text, self.folder)

    def release(self) -> None:
        """Let others write; what a fork has copied of a writer releases nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        is_ours = self._process == os.getpid() and is_same(self._path, descriptor)
        removes = [partial(os.remove, self._path)] if is_ours else []
        closes = [partial(os.close, descriptor)]
        # Windows removes nothing that is open, by us or by the next writer. A lock that stays is taken over.
        for step in removes + closes if fcntl is not None else closes + removes:
            with suppress(OSError):
                step()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.release()


def refuse_other_writer(folder: str | os.PathLike[str]) -> None:
    """Raise UsageError if another has the right to write to a folder; change nothing."""
    path = os.path.join(folder, NAME)
    try:
        descriptor = locked(path, os.O_RDWR)
    except OSError:  # there is none, or no locks
        return
    if descriptor is None:
        raise _refusal(folder)
    os.close(descriptor)


def _refusal(folder):
    try:
        with open(os.path.join(folder, NAME), "rb") as file:
            process, host = file.read(MOST).decode().split()
        holder = f"process {int(process)} on {host}"
    except (OSError, ValueError):  # just taken, and not yet written
        holder = "another process"
    return UsageError(
        f"{os.fspath(folder)}: {holder} is writing to this folder: "
        "wait until it has ended, or choose another folder"
    )
