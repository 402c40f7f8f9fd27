"""Kernels and engines raise no FE_INVALID where inputs and results are finite: a caller may trap it."""

import ctypes
import ctypes.util
import platform
import sys

import numpy as np
import pytest
from test_kernels import DTYPES, EVERY_CASE, label
from test_narrow_not_finite import ADAM, CONFIGS

from microgpt_fast import backends
from microgpt_fast.backends.engines import engine_of
from microgpt_fast.checking.cases import CASES

FE_INVALID = 1  # on x86 and on ARM
MACHINES = ("x86_64", "AMD64", "aarch64", "arm64")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32" or platform.machine() not in MACHINES, reason="knows no flags of this machine"
    ),
]


@pytest.fixture(scope="module")
def libm():
    """The C library's functions of the floating-point environment."""
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    assert library.feclearexcept(FE_INVALID) == 0
    library.sqrt.argtypes, library.sqrt.restype = [ctypes.c_double], ctypes.c_double
    return library


@pytest.fixture
def compiled_code(backend):
    """A backend that computes by itself; NumPy's functions clear the flags."""
    if backends.name_of(backend) == "numpy":
        pytest.skip("NumPy reports the flags itself")
    return backend


def raises_invalid(libm, call):
    """Whether a call raises the flag; a first one compiles."""
    call()
    libm.feclearexcept(FE_INVALID)
    call()
    return bool(libm.fetestexcept(FE_INVALID))


def test_the_flag_is_seen(libm):
    assert raises_invalid(libm, lambda: libm.sqrt(-1.0))
    assert not raises_invalid(libm, lambda: libm.sqrt(2.0))


def check(libm, backend, kernel, dtype, size, scale):
    case = CASES[kernel]
    arguments = case.arguments(dtype, seed=1, **size)
    for name in {"q", "logits"} & arguments.keys():
        arguments[name][...] *= scale
    for name in case.outputs:
        if arguments[name] is not None:
            arguments[name][...] = 0.5
    assert not raises_invalid(libm, lambda: case.run(backend, arguments))


@EVERY_CASE
@pytest.mark.parametrize("dtype", DTYPES, ids=label)
def test_no_kernel_raises_it(compiled_code, libm, kernel, size, dtype):
    check(libm, compiled_code, kernel, dtype, size, scale=1)


@pytest.mark.parametrize("kernel", ["attention_forward", "attention_decode", "cross_entropy_forward"])
@pytest.mark.parametrize("dtype", DTYPES, ids=label)
def test_exponentials_of_0_do_not_raise_it(compiled_code, libm, kernel, dtype):
    for size in CASES[kernel].sizes:
        check(libm, compiled_code, kernel, dtype, size, scale=1000)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [0.1, 30])
@pytest.mark.parametrize("name", CONFIGS)
def test_no_step_raises_it(compiled_code, libm, name, dtype, scale):
    config, rng = CONFIGS[name], np.random.default_rng(6)
    lengths = rng.integers(1, config.block_size + 1, 4).astype(np.int32)
    tokens = rng.integers(0, config.vocab_size, lengths.sum() + 4).astype(np.int32)
    batch = tokens, np.cumsum([0, *(lengths[:-1] + 1)]), lengths
    engine, losses = engine_of(compiled_code, config, np.dtype(dtype), "fast", 1), np.zeros(1)
    flat = (scale * rng.standard_normal(config.num_params)).astype(dtype)
    m, v, rate = np.zeros_like(flat), np.zeros_like(flat), np.array([1e-3])
    assert not raises_invalid(
        libm, lambda: engine.train_steps(losses, flat, m, v, *batch, len(lengths), rate, ADAM, 1)
    )
    assert np.isfinite(losses).all() and np.isfinite(flat).all()
