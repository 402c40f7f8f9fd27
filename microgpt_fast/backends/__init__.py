"""Which backend computes, and why.

A backend is a module with the kernels under their C names and an ``Engine``; modules are imported when they are asked
for, the best first.
"""

import importlib
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from ..messages import tell

BACKENDS = {"cython": "cython_backend", "numba": "numba_backend", "numpy": "numpy_backend"}


class BackendError(RuntimeError):
    """A backend cannot be used here; the text says why."""


def load(name="auto"):
    """The module of a backend.

    Parameters
    ----------
    name : str
        "cython", "numba", "numpy", or "auto" for the first of these that works; where that is not the compiled one, a
        line on stderr says so.

    Returns
    -------
    module
        With the kernels, ``Engine``, ``path_of``, ``HAS_EXACT`` and ``HAS_MIXED``.

    Raises
    ------
    BackendError
        If the backend does not exist or cannot be imported.
    """
    if name == "auto":
        return _best()
    if name not in BACKENDS:
        raise BackendError(f"backend must be one of {', '.join(['auto', *BACKENDS])}, not {name!r}")
    try:
        return importlib.import_module(f".{BACKENDS[name]}", __name__)
    except ModuleNotFoundError as error:
        raise BackendError(f"backend {name!r} is not installed: {_reason(error)}") from error
    except (
        Exception
    ) as error:  # numba_backend leans on Numba's internals: a new version may break it in any way
        raise BackendError(f"backend {name!r} cannot be used: {error}") from error


def kernel_addresses():
    """Where the compiled kernels are, for ctypes, cffi and other languages' foreign function interfaces.

    Returns
    -------
    dict of str to int
        Address by name and dtype, such as "gemm_nn_f32", for the instruction set in use. They are good for the life of
        the process. microgpt_fast_kernels.h in `microgpt_fast.get_include()` has the signatures.

    Raises
    ------
    BackendError
        Where there is no compiled backend.
    """
    return load("cython").kernel_addresses()


def name_of(module):
    """The name under which `load` knows a backend's module."""
    return next(name for name, home in BACKENDS.items() if module.__name__.endswith("." + home))


def describe():
    """What is here, for ``microgpt-fast info``.

    Returns
    -------
    dict
        "backends": name -> "ok" or why not; and, with the compiled backend, "cpu_features", "isas_compiled",
        "isas_supported", "isa": the instruction set in use, and "isa_reason".
    """
    report = {"backends": {}}
    for name in BACKENDS:
        try:
            module = load(name)
        except BackendError as error:
            report["backends"][name] = str(error)
            continue
        report["backends"][name] = "ok"
        if name == "cython":
            report["cpu_features"] = module.cpu_features()
            report["isas_compiled"] = module.compiled_isas()
            report["isas_supported"] = module.isas()
            report["isa"] = module.active_isa()
            report["isa_reason"] = module.isa_reason()
    return report


_announced: set[str] = set()


def _best():
    reasons = []
    for name in BACKENDS:
        try:
            module = load(name)
        except BackendError as error:
            if name == "cython" and not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            reasons.append(str(error))
            continue
        if reasons and name not in _announced:
            _announced.add(name)
            tell(f"using the slower {name} backend: {'; '.join(reasons)}")
        return module
    raise BackendError("no backend can be used: " + "; ".join(reasons))


def _reason(error):
    if "cython_backend" not in str(error):
        return str(error)
    sources = Path(__file__).resolve().parents[2]
    if not (sources / "setup.py").is_file():
        return "the package was installed without a C compiler; install gcc or clang, then install the package again"
    installed = _installed_beside(sources)
    if installed:
        return (
            f"Python imports the sources in {sources}, which are not compiled, and not the package installed in "
            f"{installed}: start it in another folder, or as python -P"
        )
    return (
        f"these are the sources in {sources}, which are not compiled: pip install -e {sources}, or there "
        "python setup.py build_ext --inplace"
    )


def _installed_beside(sources):
    """The folder of a package that would be imported if it were not for the sources; None if there is none."""
    others = [path for path in sys.path if Path(path or os.curdir).resolve() != sources]
    spec = PathFinder.find_spec("microgpt_fast", others)
    return spec and spec.origin and os.path.dirname(os.path.dirname(spec.origin))
