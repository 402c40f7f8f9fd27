"""Builds the compiled backend: csrc once per instruction set and dtype, and the Cython module over it.

Where there is no C compiler the package installs without it and runs on its other backends; where there is one, failing
compilation fails the installation.
"""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # the package itself, which needs nothing to make its Cython declarations
from microgpt_fast.native import codegen  # noqa: E402

INCLUDE = ["microgpt_fast/include", "csrc"]

# No -march=native and no -ffast-math: what is installed runs on every processor of its kind and leaves the process's
# floating-point modes alone.
COMMON = ["-std=gnu11", "-O3", "-fvisibility=hidden"]
FAST = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
EXACT = ["-ffp-contract=off", "-fno-builtin"]
MODULE = ["-O1"]  # it only checks and passes on
INSTRUCTION_SETS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = [
        "-mavx512f",
        "-mavx512dq",
        "-mavx512bw",
        "-mavx512vl",
        "-mfma",
        "-mprefer-vector-width=512",
    ]


def core_units():
    """(source, object folder, macros, flags) of every unit of the C core, those that take the longest first."""
    for isa, flags in reversed(INSTRUCTION_SETS.items()):
        if isa == "baseline" and "avx2" in INSTRUCTION_SETS:
            flags = ["-O2"]  # compiles sooner, and runs as fast as -O3's
        for bits in (64, 32):
            macros = [("REAL_BITS", str(bits)), ("MGF_TABLE", f"mgf_f{bits}_{isa}")]
            yield "csrc/variant.c", f"{isa}_f{bits}", macros, FAST + flags
    for isa, flags in INSTRUCTION_SETS.items():
        yield "csrc/exact.c", f"{isa}_exact", [("MGF_EXACT_TABLE", f"mgf_exact_{isa}")], EXACT + flags
    yield "csrc/random.c", "common", [], EXACT
    yield "csrc/threads.c", "common", [], []
    yield "csrc/dispatch.c", "common", [], []


def has_gnu_compiler(compiler):
    """Whether the C compiler that setuptools would call exists and takes GNU C (MSVC does not)."""
    return compiler.compiler_type == "unix" and shutil.which(compiler.compiler[0]) is not None


class build_core(build_ext):
    """build_ext that compiles the module and every unit of the C core with its own flags, on all processors."""

    def build_extension(self, ext):
        if not has_gnu_compiler(self.compiler):
            print(
                "microgpt_fast: no GNU-compatible C compiler found: installing without the compiled backend",
                file=sys.stderr,
            )
            return
        debug = ["-g0"] if not self.debug else ["-g"]

        def compile_unit(unit):
            source, folder, macros, flags = unit
            return self.compiler.compile(
                [source],
                output_dir=os.path.join(self.build_temp, folder),
                macros=macros,
                include_dirs=INCLUDE,
                extra_postargs=COMMON + debug + flags,
            )

        def compile_module():
            from Cython.Build import cythonize

            [module] = cythonize([ext], compiler_directives={"language_level": 3})
            return compile_unit((module.sources[0], "module", [], MODULE))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            units = [pool.submit(compile_module), *(pool.submit(compile_unit, unit) for unit in core_units())]
            ext.extra_objects = [name for unit in units for name in unit.result()]
        ext.sources, ext.depends = [], ext.sources + ext.depends  # all that is left is to link
        super().build_extension(ext)

    def copy_extensions_to_source(self):
        built = [os.path.join(self.build_lib, self.get_ext_filename(e.name)) for e in self.extensions]
        self.extensions = [e for e, path in zip(self.extensions, built) if os.path.exists(path)]
        super().copy_extensions_to_source()


def extension():
    codegen.generate()
    return Extension(
        "microgpt_fast.backends.cython_backend",
        ["microgpt_fast/backends/cython_backend.pyx"],
        include_dirs=INCLUDE,
        depends=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").rglob("*.[ch]"))],
        libraries=["m", "pthread"] if os.name == "posix" else [],
        optional=False,
    )


setup(
    packages=[*find_packages(str(ROOT), include=["microgpt_fast*"]), "microgpt_fast.csrc"],
    package_dir={"microgpt_fast.csrc": "csrc"},
    ext_modules=[extension()],
    cmdclass={"build_ext": build_core},
)
