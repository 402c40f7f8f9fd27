"""Builds the compiled backend: csrc once per instruction set and dtype, and the Cython module over it.

Where there is no C compiler the package installs without it and runs on its other backends; where there is one, an error
in compiling fails the installation.
"""

import importlib.util
import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
BACKENDS = ROOT / "microgpt_fast" / "backends"
INCLUDE = ["microgpt_fast/include", "csrc"]

# No -march=native and no -ffast-math: what is installed runs on every processor of its kind and leaves the process's
# floating-point modes alone.
COMMON = ["-std=gnu11", "-O3", "-fvisibility=hidden"]
FAST = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
EXACT = ["-ffp-contract=off", "-fno-builtin"]
INSTRUCTION_SETS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = [
        "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512",
    ]


def core_units():
    """(source, object folder, macros, flags) of every unit of the C core."""
    for isa, flags in INSTRUCTION_SETS.items():
        for bits in (32, 64):
            macros = [("REAL_BITS", str(bits)), ("MGF_TABLE", f"mgf_f{bits}_{isa}")]
            yield "csrc/variant.c", f"{isa}_f{bits}", macros, FAST + flags
        yield "csrc/exact.c", f"{isa}_exact", [("MGF_EXACT_TABLE", f"mgf_exact_{isa}")], EXACT + flags
    yield "csrc/random.c", "common", [], EXACT
    yield "csrc/threads.c", "common", [], []
    yield "csrc/dispatch.c", "common", [], []


def load_signatures():
    """The package's signatures module, which needs nothing of the package that is yet to be built."""
    path = ROOT / "microgpt_fast" / "signatures.py"
    spec = importlib.util.spec_from_file_location("signatures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_signatures()


def cython_type(ctype, real):
    return ctype.replace("real", real)


def declare_table(name, signatures, real):
    """A table of function pointers as Cython sees it."""
    lines = [f"    ctypedef struct {name}:"]
    for s in signatures:
        arguments = ", ".join(f"{cython_type(a.ctype, real)} {a.name}" for a in s.arguments)
        lines.append(f"        {s.result} (*{s.name})({arguments}) noexcept nogil")
    return lines


def write_tables(signatures):
    """cython_tables.pxd: the C structs of microgpt_fast.h."""
    lines = ["# Made by setup.py from include/microgpt_fast_kernels.h.", "from libc.stdint cimport int32_t, int64_t, uint32_t", ""]
    lines += ['cdef extern from "microgpt_fast.h" nogil:']
    lines += ["    ctypedef struct mgf_config:", "        Py_ssize_t n_layer, n_embd, n_head, block_size, vocab_size", "        int activation"]
    lines += ["    ctypedef struct mgf_adam:", "        double beta1, beta2, eps, weight_decay"]
    lines += ["    ctypedef struct mgf_pool:", "        pass"]
    lines += ["    ctypedef struct mgf_random:", "        uint32_t state[624]", "        int32_t index, has_gauss", "        double gauss"]
    lines += declare_table("mgf_kernels_f32", signatures, "float")
    lines += declare_table("mgf_kernels_f64", signatures, "double")
    lines += declare_table("mgf_exact", [s for s in signatures if s.is_model], "double")
    return "\n".join(lines).replace("ptrdiff_t", "Py_ssize_t") + "\n"


def kernel_function(s):
    """The Python function of one kernel: takes arrays, checks their dtypes, and calls the table of that dtype."""
    python = ", ".join(a.name if a.is_pointer else f"{cython_type(a.ctype, 'double')} {a.name}" for a in s.arguments)
    first_real = next(a.name for a in s.arguments if a.base == "real" and a.is_const)  # an input, never NULL
    lines = [f"def {s.name}({python}):", f'    """{s.name}({", ".join(a.name for a in s.arguments)}), see microgpt_fast_kernels.h."""']
    lines += [f"    cdef bint single = is_single({first_real})"]
    for a in s.arguments:
        if a.is_pointer:
            kind = "REAL32 if single else REAL64" if a.base == "real" else a.base.upper()
            lines.append(f'    cdef void *p_{a.name} = address({a.name}, {kind}, {int(not a.is_const)}, "{a.name}")')
    result = "" if s.result == "void" else "    result = "
    if result:
        lines.append(f"    cdef {s.result} result")
    lines.append("    with nogil:")
    for real, table, condition in (("float", "f32", "if single:"), ("double", "f64", "else:")):
        arguments = ", ".join(f"<{cython_type(a.ctype, real)}> p_{a.name}" if a.is_pointer else a.name for a in s.arguments)
        lines += [f"        {condition}", f"        {result or '    '}{table}.{s.name}({arguments})"]
    if result:
        lines.append("    return result")
    return "\n".join(lines).replace("ptrdiff_t", "Py_ssize_t")


def write_if_changed(path, text):
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def generate_cython():
    signatures = load_signatures()
    write_if_changed(BACKENDS / "cython_tables.pxd", write_tables(signatures))
    kernels = "\n\n\n".join(kernel_function(s) for s in signatures if not s.is_model)
    write_if_changed(BACKENDS / "cython_kernels.pxi", "# Made by setup.py from include/microgpt_fast_kernels.h.\n\n" + kernels + "\n")


def has_gnu_compiler(compiler):
    """Whether the C compiler that setuptools would call exists and takes GNU C (MSVC does not)."""
    return compiler.compiler_type == "unix" and shutil.which(compiler.compiler[0]) is not None


class build_core(build_ext):
    """build_ext that first compiles every unit of the C core with its own flags, on all processors."""

    def build_extension(self, ext):
        if not has_gnu_compiler(self.compiler):
            print("microgpt_fast: no GNU-compatible C compiler found: installing without the compiled backend", file=sys.stderr)
            return
        debug = ["-g0"] if not self.debug else ["-g"]

        def compile_unit(unit):
            source, folder, macros, flags = unit
            return self.compiler.compile(
                [source], output_dir=os.path.join(self.build_temp, folder), macros=macros, include_dirs=INCLUDE,
                extra_postargs=COMMON + debug + flags,
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = [name for names in pool.map(compile_unit, list(core_units())) for name in names]
        super().build_extension(ext)

    def copy_extensions_to_source(self):
        built = [os.path.join(self.build_lib, self.get_ext_filename(e.name)) for e in self.extensions]
        self.extensions = [e for e, path in zip(self.extensions, built) if os.path.exists(path)]
        super().copy_extensions_to_source()


def extensions():
    generate_cython()
    extension = Extension(
        "microgpt_fast.backends.cython_backend",
        ["microgpt_fast/backends/cython_backend.pyx"],
        include_dirs=INCLUDE,
        depends=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").iterdir())],
        libraries=["m", "pthread"] if os.name == "posix" else [],
        extra_compile_args=["-O2", "-g0"] if os.name == "posix" else [],
        optional=False,
    )
    from Cython.Build import cythonize

    return cythonize([extension], compiler_directives={"language_level": 3})


setup(ext_modules=extensions(), cmdclass={"build_ext": build_core})
