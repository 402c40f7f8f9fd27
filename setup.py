"""Builds the compiled backend: csrc once per instruction set and dtype, and the Cython module over it.

Where there is no C compiler the package installs without it and runs on its other backends; where there is one, failing
compilation fails the installation. CONTRIBUTING.md has the commands of a development build.
"""

import os
import shlex
import shutil
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, LinkError, OptionError

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # the package itself, which needs nothing to make its Cython declarations
from microgpt_fast.native import build, codegen, wasm  # noqa: E402


def has_gnu_compiler(compiler):
    """Whether the C compiler that setuptools would call exists and takes GNU C (MSVC does not)."""
    return compiler.compiler_type == "unix" and shutil.which(compiler.compiler[0]) is not None


class build_core(build_ext):
    """build_ext that compiles what is out of date: the module and the units of the C core, on all processors."""

    user_options = [
        *build_ext.user_options,
        ("isa=", None, f"compile these instruction sets alone, of {','.join(build.FEATURES)}"),
        ("sanitize", None, "compile with gcc's or clang's AddressSanitizer and UndefinedBehaviorSanitizer"),
    ]
    boolean_options = [*build_ext.boolean_options, "sanitize"]

    def initialize_options(self):
        super().initialize_options()
        self.isa = ",".join(build.FEATURES)
        self.sanitize = False

    def finalize_options(self):
        kind = "sanitize" if self.sanitize else "debug" if self.debug else "release"
        self.options = getattr(build, kind.upper())
        if (
            self.build_temp is None or self.editable_mode
        ):  # so that the next build finds the objects of this one
            self.build_temp = f"build/{kind}-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        wanted = self.isa.split(",")
        self.isas = [name for name in build.FEATURES if name in wanted]
        if set(wanted) != set(self.isas):
            raise OptionError(f"--isa={self.isa}: choose from {','.join(build.FEATURES)}")
        super().finalize_options()
        self.force = (
            True  # link and copy, which takes no time: what is linked does not follow from dates alone
        )

    def build_extension(self, ext):
        if not has_gnu_compiler(self.compiler):
            print(
                "microgpt_fast: no GNU-compatible C compiler found: installing without the compiled backend",
                file=sys.stderr,
            )
            return

        def compile_unit(unit):
            return build.compile_unit(self.compiler, unit, self.build_temp, self.options)

        if ext.language == "c++":
            return self.build_jax_handlers(ext, compile_unit)

        def compile_module():
            from Cython.Build import cythonize

            [module] = cythonize(
                [ext], compiler_directives={"language_level": 3, "show_performance_hints": False}
            )
            flags = build.MODULE if len(self.isas) == len(build.FEATURES) else build.MODULE_SOONER
            return compile_unit(build.Unit(module.sources[0], "module", [], flags))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            module = pool.submit(compile_module)  # first, since it takes the longest
            units = [pool.submit(compile_unit, unit) for unit in build.core_units(self.isas)]
            ext.extra_objects = [unit.result() for unit in [module, *units]]
        ext.sources = []  # all that is left is to link
        ext.extra_link_args = self.options if self.sanitize else []
        super().build_extension(ext)

    def build_jax_handlers(self, ext, compile_unit):
        try:
            ext.sources, ext.extra_objects = [], [compile_unit(build.jax_unit())]
            super().build_extension(ext)
        except (CompileError, LinkError) as error:
            print(f"microgpt_fast: no handlers for JAX, whose calls will be slower: {error}", file=sys.stderr)

    def copy_extensions_to_source(self):
        built = [os.path.join(self.build_lib, self.get_ext_filename(e.name)) for e in self.extensions]
        self.extensions = [e for e, path in zip(self.extensions, built) if os.path.exists(path)]
        super().copy_extensions_to_source()


class build_modules(build_py):
    """build_py that adds, where a compiler for WebAssembly is named, what pages need, so that nobody else needs one."""

    def run(self):
        super().run()
        command = shlex.split(os.environ.get(wasm.COMPILER, ""))
        if not command or self.editable_mode:
            return
        # pip's isolated build has a PYTHONPATH that hides what is installed, a compiler in Python among it
        hiding = os.environ.pop("PYTHONPATH", None)
        try:
            for bits in wasm.BITS:
                module = wasm.compile_core(
                    command, bits, str(ROOT / "csrc"), str(ROOT / "microgpt_fast" / "include")
                )
                Path(self.build_lib, "microgpt_fast", "web", f"core_f{bits}.wasm").write_bytes(module)
        finally:
            if hiding is not None:
                os.environ["PYTHONPATH"] = hiding


def extensions():
    codegen.generate()
    yield Extension(
        "microgpt_fast.backends.cython_backend",
        ["microgpt_fast/backends/cython_backend.pyx"],
        include_dirs=build.INCLUDE,
        libraries=["m", "pthread"] if os.name == "posix" else [],
        optional=False,
    )
    if build.jax_unit():
        yield Extension("microgpt_fast.jax.handlers", ["microgpt_fast/jax/handlers.cc"], language="c++")


setup(
    packages=[*find_packages(str(ROOT), include=["microgpt_fast*"]), "microgpt_fast.csrc"],
    package_dir={"microgpt_fast.csrc": "csrc"},
    ext_modules=list(extensions()),
    cmdclass={"build_ext": build_core, "build_py": build_modules},
)
