"""The C core for WebAssembly: compiled once from the package's own sources, then kept in the user's cache."""

import os
import shlex
import shutil
import sys
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from ..config import UsageError
from ..data.cache_folder import ADVICE, not_private, private_folder
from ..locks import NO_LOCKS, locked
from ..messages import MachineError, tell
from ..native import get_include, get_sources
from ..native.wasm import COMPILER, FLAGS, CompileError, compile_core

SHIPPED = Path(__file__).parents[1] / "web"  # where a wheel has the compiled cores
MAGIC = b"\0asm\1\0\0\0"
DIGEST = 16  # bytes, after the module in a file of the cache


def core(bits=32):
    """The compiled core, a WebAssembly module that imports nothing.

    Parameters
    ----------
    bits : {32, 64}
        Of its floating-point numbers.

    Returns
    -------
    bytes

    Raises
    ------
    UsageError
        if it is not there yet and there is no compiler for it.
    MachineError
        if the compiler fails.
    """
    shipped = SHIPPED / f"core_f{bits}.wasm"
    if shipped.is_file():
        return shipped.read_bytes()
    folder = os.path.join(private_folder("compiled cores"), "wasm")
    path = os.path.join(folder, f"core_f{bits}-{_key(bits)}.wasm")
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        module = _cached(path)
        if module is None:
            command = compiler()
            lock = _lock(path)
            try:
                module = _cached(path) or _made(path, command, bits)
            finally:
                if lock is not None:
                    os.close(lock)
        return module
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(
            f"cannot write the cache of compiled cores in {folder}: {reason}; {ADVICE}"
        ) from None


def compiler():
    """The command that compiles for WebAssembly: $MICROGPT_FAST_WASM_CC, or ziglang's."""
    given = shlex.split(os.environ.get(COMPILER, ""))
    if given:
        if not shutil.which(given[0]):
            raise UsageError(f"{COMPILER} is {given[0]}, but there is no such command")
        return given
    if not find_spec("ziglang"):
        raise UsageError(
            "a page needs the C core compiled for WebAssembly, once: install a compiler for it with "
            "pip install 'microgpt-fast[web]'"
        )
    return [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi"]


def _key(bits):
    """Names what a core is made from: its sources and flags."""
    digest = blake2b(repr((bits, FLAGS)).encode(), digest_size=DIGEST)
    root = Path(get_sources())
    files = [file for ending in ("*.c", "*.h") for file in root.rglob(ending)]
    for file in sorted([*files, *Path(get_include()).glob("*.h")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _cached(path):
    """The module in a file of the cache, or None where there is none that can be trusted."""
    try:
        about = os.lstat(path)
        content = Path(path).read_bytes() if not not_private(about) else b""
    except FileNotFoundError:
        return None
    module, digest = content[:-DIGEST], content[-DIGEST:]
    if module.startswith(MAGIC) and blake2b(module, digest_size=DIGEST).digest() == digest:
        return module
    tell(f"{path} cannot be trusted and is made again")
    os.remove(path)
    return None


def _made(path, command, bits):
    tell("compiling the C core for WebAssembly, once: this takes about half a minute")
    try:
        module = compile_core(command, bits, get_sources(), get_include())
    except CompileError as error:
        raise MachineError(error) from None
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "xb") as file:
        os.chmod(temporary, 0o600)
        file.write(module + blake2b(module, digest_size=DIGEST).digest())
    os.replace(temporary, path)
    return module


def _lock(path):
    """A lock that makes others wait while this process compiles; None where the system has none."""
    try:
        return locked(f"{path}.lock", os.O_RDWR | os.O_CREAT, waits=True)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise
