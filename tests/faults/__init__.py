"""Calls of the system that fail, one after another, while files are written: nothing may be lost.

`python -m tests.faults --faults 1000` tries that many of each use; it needs Linux and a C compiler. A use is a module
in `uses` with

    prepare(folder)    the state before, in an empty folder
    act(folder)        what writes; returns None, or the text of a refusal; raises anything else
    check(folder, refusal)    that nothing was lost; raises AssertionError

Faults are made from a seed and a number, as the inputs of the fuzzer.
"""

import ctypes
import errno
import os
import pkgutil
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
USES = sorted(module.name for module in pkgutil.iter_modules([str(HERE / "uses")]))
ERRORS = ["ENOSPC", "EIO", "EINTR", "EMFILE", "EACCES", "EDQUOT"]


class Fault(NamedTuple):
    """The call that fails, and how; with `lasts` all later ones do."""

    call: int
    error: str
    is_short: bool
    lasts: bool


def build(folder):
    """The compiled shim; OSError or subprocess.CalledProcessError where that cannot be done."""
    shim = Path(folder) / "shim.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", shim, HERE / "shim.c", "-ldl"], check=True
    )
    return shim


def try_faults(use, seed, count, only=None):
    """Try faults in this process, into which the shim is loaded.

    Returns
    -------
    tried : int
    calls : int
        Of the system, that the use makes where none fails.
    failures : list of str
    """
    shim, module, failures = ctypes.CDLL(None), import_module(f".uses.{use}", __package__), []
    shim.faults_hit.restype = ctypes.c_char_p
    calls, text = _try(shim, module, Fault(0, "EIO", False, False))
    assert text is None and calls > 5, text
    for number in range(count) if only is None else [only]:
        draw = random.Random(f"{use} {seed} {number}")
        call, error, is_short = 1 + draw.randrange(calls), draw.choice(ERRORS), draw.random() < 0.15
        lasts = draw.random() < 0.3 and error != "EINTR"  # after which Python tries again, for ever
        fault = Fault(call, error, is_short, lasts)
        _, text = _try(shim, module, fault)
        if text:
            failures.append(
                f"{use}, seed {seed}, fault {number}: {fault} ({shim.faults_hit().decode()})\n{text}"
            )
    return count if only is None else 1, calls, failures


def _try(shim, module, fault):
    """(the calls made, None or what went wrong)."""
    folder = Path(tempfile.mkdtemp(prefix="microgpt_fast-faults-"))
    calls = 0
    try:
        module.prepare(folder)
        code = getattr(errno, fault.error)
        shim.faults_begin(
            os.fsencode(folder), ctypes.c_long(fault.call), code, int(fault.is_short), int(fault.lasts)
        )
        try:
            refusal = module.act(folder)
        finally:
            calls = shim.faults_end()
        module.check(folder, refusal)
    except Exception:
        return calls, traceback.format_exc()
    finally:
        shutil.rmtree(folder)
    return calls, None


def in_a_process(shim, *arguments):
    """Run `python -m tests.faults` with the shim: the finished process."""
    command = [sys.executable, "-m", "tests.faults", *map(str, arguments)]
    environment = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=HERE.parent.parent, errors="replace"
    )
