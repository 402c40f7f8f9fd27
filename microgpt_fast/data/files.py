"""The files that a user's names stand for: files, folders, pipes, stdin."""

import codecs
import io
import os
import stat
import sys
from fnmatch import fnmatch

from . import text
from .text import DataError

STDIN = "-"
RUN = ("config.toml", "metrics.jsonl")  # a folder with both holds a run; see training.runs
RUN_FILES = (*RUN, "last.safetensors", "best.safetensors", "samples.txt")
MODEL = ".safetensors"
LOOKED_AT = 1 << 16  # bytes of a file that show whether it is text
MOST_NAMES = 3  # of what is left out, that are told


def find_files(sources, notes=None, include=(), exclude=(), skips_binary=False):
    """The files that names of files and folders stand for.

    Parameters
    ----------
    sources : list of path
        A folder stands for all files in it and in the folders below, in the order of their paths, but for
        hidden ones, saved models and runs, links to folders, and what is no regular file; "-" stands for stdin.
    notes : list of str, optional
        Gets a line on what is left out, if anything is that is not hidden.
    include, exclude : sequence of str, optional
        Patterns such as "*.md" for the files in folders: of their names, or of their paths from the folder.
    skips_binary : bool
        Whether files in folders that are not UTF-8 text are left out.

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
    files, left_out, binary = [], [], []
    for source in map(os.fspath, sources):
        if "\0" in source:
            raise DataError(f"{source}: no file's name: it holds a NUL character")
        if os.path.isdir(source):
            inside = sorted(_files_below(source, left_out))
            inside = [path for path in inside if _is_wanted(os.path.relpath(path, source), include, exclude)]
            if skips_binary:
                are_binary = [is_binary(path) for path in inside]
                binary += [path for path, is_one in zip(inside, are_binary) if is_one]
                inside = [path for path, is_one in zip(inside, are_binary) if not is_one]
            if not inside:
                reason = f", but for {left_out[0]}" if left_out else ""
                reason += " that are wanted" * bool(include or exclude) + " that are UTF-8 text" * bool(
                    binary
                )
                raise DataError(f"{source}: no documents: a folder without files{reason}")
            files += map(_regular, inside)
        elif source == STDIN:
            files.append(_spooled("stdin", _stdin()))
        elif os.path.isfile(source):
            files.append(_regular(source))
        else:  # a pipe can be read only once; what does not exist fails here
            with open(source, "rb") as pipe:
                files.append(_spooled(source, pipe))
    if binary and notes is not None:
        which = (
            f"{binary[0]} and {len(binary) - 1} other files, which are"
            if binary[1:]
            else f"{binary[0]}, which is"
        )
        notes.append(f"left out of the data: {which} not UTF-8 text")
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


def _is_wanted(path, include, exclude):
    names = (path, os.path.basename(path))

    def fits(patterns):
        return any(fnmatch(name, pattern) for name in names for pattern in patterns)

    return (not include or fits(include)) and not fits(exclude)


def is_binary(path):
    """Whether a file does not begin as UTF-8 text does, or holds a NUL there."""
    with open(path, "rb") as file:
        data = file.read(LOOKED_AT)
    if b"\0" in data:
        return True
    try:
        codecs.utf_8_decode(data, "strict", len(data) < LOOKED_AT)
    except UnicodeDecodeError:
        return True
    return False


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
