"""The files that a user's names stand for: files, folders, pipes, stdin."""

import io
import os
import stat
import sys

from . import text
from .text import DataError

STDIN = "-"
RUN = ("config.toml", "metrics.jsonl")  # a folder with both holds a run; see training.runs
RUN_FILES = (*RUN, "last.safetensors", "best.safetensors", "samples.txt")
MODEL = ".safetensors"
MOST_NAMES = 3  # of what is left out, that are told


def find_files(sources, notes=None):
    """The files that names of files and folders stand for.

    Parameters
    ----------
    sources : list of path
        A folder stands for all files in it and in the folders below, in the order of their paths, but for
        hidden ones, saved models and runs, links to folders, and what is no regular file; "-" stands for stdin.
    notes : list of str, optional
        Gets a line on what is left out, if anything is that is not hidden.

    Returns
    -------
    files : list of (name, size, open)
        `open()` gives the content from its start, as a binary file.

    Raises
    ------
    DataError
        for a folder without files, or a stdin that is closed.
    OSError
        for what cannot be read.
    """
    files, left_out = [], []
    for source in map(os.fspath, sources):
        if "\0" in source:
            raise DataError(f"{source}: no file's name: it holds a NUL character")
        if os.path.isdir(source):
            inside = sorted(_files_below(source, left_out))
            if not inside:
                reason = f", but for {left_out[0]}" if left_out else ""
                raise DataError(f"{source}: no documents: a folder without files{reason}")
            files += map(_regular, inside)
        elif source == STDIN:
            files.append(_spooled("stdin", _stdin()))
        elif os.path.isfile(source):
            files.append(_regular(source))
        else:  # a pipe can be read only once; what does not exist fails here
            with open(source, "rb") as pipe:
                files.append(_spooled(source, pipe))
    if left_out and notes is not None:
        more = len(left_out) - MOST_NAMES
        names = ", ".join(left_out[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        notes.append(f"left out of the data: {names}")
    return files


def _files_below(top, left_out):
    for parent, folders, names in os.walk(top, onerror=_raise):
        is_run = set(RUN) <= set(names)
        if is_run and parent != top:
            left_out.append(f"{parent} (a run)")
            folders.clear()
            continue
        folders[:] = [name for name in sorted(folders) if _is_entered(os.path.join(parent, name), left_out)]
        for name in names:
            path = os.path.join(parent, name)
            if name.startswith("."):
                continue
            reason = "of a run" if is_run and name in RUN_FILES else _why_not(path)
            if reason:
                left_out.append(f"{path} ({reason})")
            else:
                yield path


def _raise(error):
    raise error


def _is_entered(folder, left_out):
    if os.path.basename(folder).startswith("."):
        return False
    if os.path.islink(folder):  # it might lead back here
        left_out.append(f"{folder} (a link to a folder)")
        return False
    return True


def _why_not(path):
    """Why a file in a folder is not read, if it is not."""
    if path.endswith(MODEL):
        return "a model"
    return None if stat.S_ISREG(os.stat(path).st_mode) else "no regular file"


def _regular(path):
    return path, os.path.getsize(path), lambda: open(path, "rb")


def _stdin():
    """Standard input as a binary file."""
    if sys.stdin is None or sys.stdin.closed:
        raise DataError("stdin is closed: there is nothing to read")
    return getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode())


def _spooled(name, stream):
    import shutil
    import tempfile
    from contextlib import nullcontext

    spool = tempfile.TemporaryFile()
    shutil.copyfileobj(stream, spool, text.PIECE)
    size = spool.tell()

    def rewind():
        spool.seek(0)
        return nullcontext(spool)

    return name, size, rewind
