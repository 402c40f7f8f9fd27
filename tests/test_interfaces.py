"""What other languages see: C signatures, the capsule, exported functions, type stubs, symbols for Numba."""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast
from microgpt_fast import backends
from microgpt_fast.checking.cases import CASES
from microgpt_fast.config import GPTConfig
from microgpt_fast.native.signatures import read_signatures

ROOT = Path(__file__).parent.parent
PINNED = json.loads((Path(__file__).parent / "c_signatures.json").read_text())
MODULE = r"microgpt_fast\.backends\.cython_backend"
CYTHON_INTERNALS = MODULE + r"\.(__(reduce_cython|setstate_cython|test)__|Owned|Workspace)" + "\n"


@pytest.fixture(scope="module")
def compiled():
    try:
        return backends.load("cython")
    except backends.BackendError as error:
        pytest.skip(str(error))


def test_c_signatures_are_those_of_this_abi_version():
    """A change here is a new MGF_ABI_VERSION; then write both into c_signatures.json."""
    header = Path(microgpt_fast.get_include(), "microgpt_fast.h").read_text()
    found = {s.name: [s.result, *(f"{a.ctype} {a.name}" for a in s.arguments)] for s in read_signatures()}
    assert list(found.items()) == list(PINNED["functions"].items())
    assert int(re.search(r"#define MGF_ABI_VERSION (\d+)", header)[1]) == PINNED["abi_version"]


def test_concrete_functions_are_exported_with_their_c_signatures(compiled):
    exported = compiled.__pyx_capi__
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    for suffix, real in (("f32", "float"), ("f64", "double")):
        for kernel in CASES:
            result, *arguments = PINNED["functions"][kernel]
            types = [re.sub(r" ?\w+$", "", argument).replace("real", real) for argument in arguments]
            types = [
                re.sub(r"const (\w+)", r"\1 const", kind).replace("ptrdiff_t", "Py_ssize_t") for kind in types
            ]
            result = result.replace("ptrdiff_t", "Py_ssize_t")
            assert name_of(exported[f"{kernel}_{suffix}"]).decode() == f"{result} ({', '.join(types)})"
    assert len(exported) == 2 * len(CASES)


def test_capsule_follows_the_instruction_set(compiled):
    class Api(ctypes.Structure):
        _fields_ = [
            ("abi_version", ctypes.c_int32),
            ("size", ctypes.c_uint32),
            ("table_size", ctypes.c_uint32),
            ("isa", ctypes.c_char_p),
            ("f32", ctypes.POINTER(ctypes.c_void_p)),
        ]

    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    api = Api.from_address(pointer(microgpt_fast.c_api, b"microgpt_fast.c_api"))
    assert api.abi_version == compiled.abi_version == PINNED["abi_version"]
    assert api.table_size == ctypes.sizeof(ctypes.c_void_p) * len(PINNED["functions"])
    assert api.size > Api.f32.offset
    previous, first = compiled.active_isa(), list(PINNED["functions"])[0]
    for isa in compiled.isas():
        compiled.use_isa(isa)
        assert api.isa.decode() == isa
        assert api.f32[0] == compiled.kernel_addresses()[f"{first}_f32"]
    compiled.use_isa(previous)


@pytest.mark.slow
def test_stub_is_the_module(compiled, tmp_path):
    pytest.importorskip("mypy")
    in_tree = Path(microgpt_fast.__file__).parent.parent == ROOT
    search_path = {"MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)} if in_tree else {}
    allowed = tmp_path / "allowed"
    allowed.write_text(CYTHON_INTERNALS)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy.stubtest",
            "microgpt_fast.backends.cython_backend",
            "--allowlist",
            allowed,
            "--ignore-disjoint-bases",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **search_path},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert Path(microgpt_fast.__file__).with_name("py.typed").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kernel", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_jitted_code_calls_the_compiled_kernel(compiled, kernel, dtype):
    numba = pytest.importorskip("numba")
    from microgpt_fast import numba_kernels

    function = getattr(numba_kernels, kernel)

    @numba.njit
    def jitted(arguments):
        return function(*arguments)

    for size in CASES[kernel].sizes[:3]:
        arguments, wanted = (CASES[kernel].arguments(dtype, seed=8, **size) for _ in range(2))
        assert jitted(tuple(arguments.values())) == CASES[kernel].run(compiled, wanted)
        for name, value in wanted.items():
            assert np.array_equal(arguments[name], value, equal_nan=isinstance(value, np.ndarray)), name


@pytest.mark.slow
def test_jitted_code_with_wrong_arguments_does_not_compile(compiled):
    numba = pytest.importorskip("numba")
    from microgpt_fast import numba_kernels

    linear = numba_kernels.linear_forward
    jitted = numba.njit(lambda y, x, w: linear(y, x, w, 2, 2, 2))
    a = np.ones((2, 2))
    frozen = a.copy()
    frozen.flags.writeable = False
    for wrong, words in (
        ((a, a, a.astype(np.float32)), "w of float32"),
        ((a.astype(int), a.astype(int), a.astype(int)), "not a float"),
        ((frozen, a, a), "y is written to"),
        ((a, 1.0, a), "x must be an array"),
    ):
        with pytest.raises(numba.TypingError, match=words):
            jitted(*wrong)
    with pytest.raises(numba.TypingError, match="takes 6 arguments"):
        numba.njit(lambda y: linear(y))(a)  # noqa: PLW0108
    jitted(a.copy(), frozen, a)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        dict(n_layer=3, n_embd=20, n_head=5, block_size=7, activation="relu2"),
        dict(n_layer=2, n_embd=96),
        dict(n_layer=2, tie_embeddings=True, position="rope", norm_gain=True, final_norm=True, mlp="gated"),
        dict(value_embedding=True, residual_scalars=True, mlp_hidden=9, norm_gain=True),
        dict(n_layer=2, residual="attention", norm_gain=True),
    ],
)
def test_c_and_python_have_one_table_of_parameters(compiled, sizes):
    config = GPTConfig(11, **sizes)
    wanted = [parameter._replace(start=None) for parameter in config.parameters()]  # which Python alone draws
    assert compiled.parameter_table(config) == wanted


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_and_pythons_in_either_order(language, tmp_path):
    compiler = "cc" if language == "c" else "c++"
    if shutil.which(compiler) is None:
        pytest.skip(f"needs a compiler, {compiler}")
    includes = ["#include <Python.h>\n", "#include <microgpt_fast.h>\n"]
    use = "const mgf_api *api(void);\nconst mgf_api *api(void) { return mgf_import(); }\n"
    for order in (includes, includes[::-1], includes[1:] + includes):
        source = tmp_path / "user.c"
        source.write_text("".join(order) + use)
        folders = [f"-I{microgpt_fast.get_include()}", f"-I{sysconfig.get_path('include')}"]
        command = [compiler, "-x", language, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", *folders, source]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr


def test_header_leaves_the_macros_of_its_includer(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler, cc")
    source = tmp_path / "user.c"
    source.write_text(
        "#include <complex.h>\n"
        "#define real(z) creal(z)\n#define KERNEL 7\n#define MGF_MODEL 8\n"
        "#include <microgpt_fast.h>\n"
        '_Static_assert(KERNEL == 7 && MGF_MODEL == 8, "macros");\n'
        "double part(double complex z) { return real(z); }\n"
    )
    command = ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{microgpt_fast.get_include()}"]
    run = subprocess.run([*command, "-c", source, "-o", tmp_path / "user.o"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
