"""How the C core is compiled for WebAssembly; setup.py calls this, which has no NumPy."""

import os
import subprocess
import tempfile
from pathlib import Path

UNITS = ("wasm/core.c", "wasm/pool.c", "random.c")
FLAGS = [
    "-O3", "-s", "-msimd128", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-w",
    "-mexec-model=reactor", "-Wl,--export=malloc,--export=free",
]  # fmt: skip
COMPILER = "MICROGPT_FAST_WASM_CC"  # the environment variable that names one, with its target
BITS = (32, 64)


class CompileError(Exception):
    """The compiler failed; the text is one line."""


def compile_core(command, bits, sources, include):
    """Compile the core.

    Parameters
    ----------
    command : list of str
        The compiler, with its target.
    bits : {32, 64}
        Of its floating-point numbers.
    sources, include : path
        The folders csrc and include.

    Returns
    -------
    bytes
        A WebAssembly module that imports nothing.

    Raises
    ------
    CompileError
    """
    with tempfile.TemporaryDirectory(prefix="microgpt_fast-") as work:
        out = os.path.join(work, "core.wasm")
        units = [os.path.join(sources, unit) for unit in UNITS]
        caches = {
            name: os.path.join(work, "cache") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
        }
        run = subprocess.run(
            [*command, *FLAGS, f"-DREAL_BITS={bits}", "-I", include, "-I", sources, *units, "-o", out],
            capture_output=True, text=True, errors="replace", env={**os.environ, **caches},
        )  # fmt: skip
        if run.returncode:
            lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
            reason = next((line for line in lines if "error" in line), lines[-1])
            raise CompileError(f"cannot compile the C core for WebAssembly with {command[0]}: {reason}")
        return Path(out).read_bytes()
