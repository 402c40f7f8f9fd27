"""How the C core is compiled: its units, their flags, and which of them are out of date.

setup.py calls this; it needs neither NumPy nor a compiled package.
"""

import os
import platform
import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

INCLUDE = ["microgpt_fast/include", "csrc"]

# No -march=native and no -ffast-math: what is installed runs on every processor of its kind and leaves the process's
# floating-point modes alone.
CXX = ["-std=c++17", "-O2"]
COMMON = ["-std=gnu11", "-O3", "-fvisibility=hidden"]
FAST = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
EXACT = ["-ffp-contract=off", "-fno-builtin"]
MIXED = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
MODULE = ["-O1"]  # it only checks and passes on
MODULE_SOONER = ["-O0"]  # where few instruction sets are built, to try something

# What comes last and so overrides the above.
RELEASE = ["-g0"]
DEBUG = ["-Og", "-g"]
SANITIZE = [
    "-O0",  # more takes minutes to compile
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
]

# The processor's features that each instruction set takes, from the plainest to the widest; see csrc/dispatch.c.
FEATURES = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    FEATURES["avx2"] = ["avx2", "fma"]
    FEATURES["avx512"] = ["avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"]
    FEATURES["avx512bf16"] = [*FEATURES["avx512"], "avx512bf16"]

# Where an instruction set brings the kernels of float32 and float64 nothing, it takes those of another.
KERNELS_OF = {"avx512bf16": "avx512"}


class Unit(NamedTuple):
    """One call of the compiler."""

    source: str
    folder: str  # of its object, below the build's
    macros: list[tuple[str, str]] = []
    flags: list[str] = []


def flags_of(isa):
    """What compiles for an instruction set."""
    flags = [f"-m{feature}" for feature in FEATURES[isa]]
    return [*flags, "-mprefer-vector-width=512"] if isa.startswith("avx512") else flags


def kernels_of(isa):
    """The instruction set whose kernels of float32 and float64 this one takes."""
    return KERNELS_OF.get(isa, isa)


def core_units(isas=tuple(FEATURES)):
    """Every unit of the C core with these instruction sets, those that take the longest first."""
    compiled = tuple(dict.fromkeys(kernels_of(isa) for isa in isas))
    for isa in reversed(compiled):
        flags = flags_of(isa)
        if isa == "baseline" and "avx2" in FEATURES:
            flags = ["-O2"]  # compiles sooner, and runs as fast as -O3's
        for bits in (64, 32):
            macros = [("REAL_BITS", str(bits)), ("MGF_TABLE", f"mgf_f{bits}_{isa}")]
            for source in ("csrc/narrow.c", "csrc/variant.c"):
                yield Unit(source, f"{isa}_f{bits}", macros, FAST + flags)
    for isa in reversed(isas):
        macros = [("REAL_BITS", "32"), ("MGF_MIXED_TABLE", f"mgf_mixed_{isa}")]
        yield Unit("csrc/mixed.c", f"{isa}_mixed", macros, MIXED + flags_of(isa))
    for isa in compiled:
        yield Unit(
            "csrc/exact.c", f"{isa}_exact", [("MGF_EXACT_TABLE", f"mgf_exact_{isa}")], EXACT + flags_of(isa)
        )
    yield Unit("csrc/random.c", "common", [], EXACT)
    yield Unit("csrc/threads.c", "common")
    yield Unit(
        "csrc/dispatch.c",
        "common",
        [("MGF_ISAS(X)", " ".join(f"X({isa}, {kernels_of(isa)})" for isa in isas))],
    )


def jax_unit():
    """The handlers for JAX, where jaxlib is installed and has its headers; else None."""
    jaxlib = find_spec("jaxlib")
    for folder in jaxlib.submodule_search_locations if jaxlib else ():
        headers = Path(folder, "include")
        if (headers / "xla" / "ffi" / "api" / "ffi.h").exists():
            return Unit("microgpt_fast/jax/handlers.cc", "jax", [], ["-isystem", str(headers)])
    return None


def made_from(depfile):
    """The files that a compiler's -MD lists: the source and every header, the system's and the compiler's own too."""
    names = re.findall(r"(?:\\[ \n]|\S)+", depfile.read_text().partition(":")[2].replace("\\\n", " "))
    return [Path(name.replace("\\ ", " ")) for name in names]


def is_current(target, command):
    """Whether an object was made by this command, from files that have not changed since then.

    Beside the object stand its list of files, ``.d``, and a ``.stamp``: the command, dated when it began.
    """
    stamp = target.with_suffix(".stamp")
    try:
        began = stamp.stat().st_mtime_ns
        files = made_from(target.with_suffix(".d"))
        return (
            target.exists()
            and stamp.read_text() == command
            and all(file.stat().st_mtime_ns <= began for file in files)
        )
    except FileNotFoundError:
        return False


def compile_unit(compiler, unit, folder, options):
    """Compile a unit unless its object is current.

    Parameters
    ----------
    compiler : setuptools' CCompiler
    unit : Unit
    folder : str
        Where the objects of this kind of build are.
    options : list of str
        `RELEASE`, `DEBUG` or `SANITIZE`.

    Returns
    -------
    str
        The object's path.
    """
    output_dir = os.path.join(folder, unit.folder)
    [name] = compiler.object_filenames([unit.source], output_dir=output_dir)
    target = Path(name)
    flags = [*(CXX if unit.source.endswith(".cc") else COMMON), *unit.flags, *options]
    command = repr((compiler.compiler_so, compiler.include_dirs, unit.macros, flags))
    if is_current(target, command):
        return name
    stamp, began = target.with_suffix(".stamp"), time.time_ns()
    stamp.unlink(missing_ok=True)
    flags += ["-MD", "-MF", str(target.with_suffix(".d"))]
    compiler.compile([unit.source], output_dir, unit.macros, INCLUDE, extra_postargs=flags)
    stamp.write_text(command)
    os.utime(stamp, ns=(began, began))
    return name
