"""How the Numba backend's functions are compiled: lazily, without the GIL, and kept on disk.

`helper` marks functions that are compiled once and called, `inline` those that become part of their caller,
`kernel` those that are called from Python, or from a user's jitted code.
"""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from numba import njit
from numba.core import config, types

from ..messages import tell


def _cache_directory():
    """Where the compiled functions are kept, or None: a folder in the first of these that can be written to:
    NUMBA_CACHE_DIR, the user's folder for caches, the folder for temporary files. It is named by the sources
    of all jitted code here, since Numba itself looks at a function's own file only."""
    here = Path(__file__).parent
    sources = sorted([here / "composed.py", *here.glob("numba_*.py"), *here.glob("numba_*/*.py")])
    name = "numba-" + hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else None
    caches = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    caches = caches or os.path.expanduser("~/.cache")
    for folder in (config.CACHE_DIR, caches, os.path.join(tempfile.gettempdir(), f"cache-{user}")):
        if not os.path.isabs(folder):
            continue
        parent = Path(folder, "microgpt_fast")
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=parent):
                about = parent.stat()
        except OSError:
            continue
        # what is loaded from a cache is run: nobody else may have put it there
        if user is None or (about.st_uid == user and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            return str(parent / name)
    return None


DIRECTORY = _cache_directory()
_OPTIONS = dict(nogil=True, error_model="numpy", boundscheck=False)


def _plain(argument):
    """The type to compile for: an array of any strides, a number rather than a constant"""
    if isinstance(argument, types.Array):
        return argument.copy(layout="A")
    return types.unliteral(argument)


def _jit(**options):
    def decorate(function):
        dispatcher = njit(**_OPTIONS, **options)(function)
        template = dispatcher.get_call_template
        dispatcher.get_call_template = lambda args, keywords: template(tuple(map(_plain, args)), keywords)
        return dispatcher

    return decorate


_announced: set[str] = set()


def _announce():
    """One line of a process that what follows takes long, lest it be thought to hang."""
    if not _announced:
        _announced.add("compiling")
        kept = f"kept in {os.path.dirname(DIRECTORY)}" if DIRECTORY else "no folder to keep it in was found"
        tell(f"Numba compiles, which can take half a minute ({kept})")


helper = _jit()
inline = _jit(inline="always")


def kernel(function):
    """A function of the module: kept on disk. Arrays being nothing but pointers here, what was compiled for
    one type of array serves those of any strides, and the read-only ones."""
    before, config.CACHE_DIR = config.CACHE_DIR, DIRECTORY or ""
    try:
        dispatcher = _jit(cache=DIRECTORY is not None)(function)
    finally:
        config.CACHE_DIR = before
    kept = dispatcher._cache.load_overload

    def load_overload(*arguments):  # the last that is tried before compiling
        entry = kept(*arguments)
        if entry is None:
            _announce()
        return entry

    dispatcher._cache.load_overload = load_overload

    def compile_for(*arguments):  # called from Python with types that are new
        given = [dispatcher.typeof_pyval(argument) for argument in arguments]
        plain = [t.copy(layout="A", readonly=False) if isinstance(t, types.Array) else t for t in given]
        entry = dispatcher.compile(tuple(plain))
        if plain != given:  # the next call finds it by itself
            dispatcher._insert([t._code for t in given], entry, False)
        return entry

    dispatcher._compile_for_args = compile_for
    return dispatcher
