"""The compiled backend: csrc's kernels under their C names, and the whole model behind an Engine.

Arrays are passed by address: the functions check dtypes and writability; shapes are the caller's word, as in C.
"""

cimport cython
from cpython.buffer cimport (PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer)
from cpython.number cimport PyNumber_Index
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .cython_tables cimport (
    MGF_ABI_VERSION, mgf_adam, mgf_api, mgf_config, mgf_exact, mgf_kernels_f32, mgf_kernels_f64, mgf_mixed, mgf_pool,
    mgf_random
)

import os
from threading import Lock
from time import perf_counter

import numpy as np

from ..config import ACTIVATIONS as _ACTIVATIONS
from ..config import POSITIONS as _POSITIONS
from ..config import RESIDUALS as _RESIDUALS
from ..parameters import Parameter as _Parameter
from ..random_stream import check_state as _check_state

cdef extern from "dispatch.h" nogil:
    ctypedef struct mgf_peak:
        double (*compute)(Py_ssize_t rounds) noexcept nogil
        double (*read)(const void *data, Py_ssize_t bytes) noexcept nogil
    ctypedef struct mgf_instruction_set:
        const char *name
        const mgf_kernels_f32 *f32
        const mgf_kernels_f64 *f64
        const mgf_exact *exact
        const mgf_mixed *mixed
        const mgf_peak *peak_f32
        const mgf_peak *peak_f64
        const mgf_peak *peak_mixed
    const mgf_instruction_set *mgf_instruction_set_at(int i)
    int mgf_supported(int i)
    const char *mgf_cpu_feature(int i, int *present)

cdef extern from "serves.h" nogil:
    bint exact_serves(const mgf_config *config)
    bint micro_serves(const mgf_config *config)
    bint mixed_serves(const mgf_config *config)
    bint gpt_serves(const mgf_config *config)

cdef extern from "parameters.h" nogil:
    int STARTS_AT_ZERO, NO_DECAY, IS_VECTOR, LOOKUP, OUTSIDE_LAYERS, OF_A_LAYER
    ctypedef struct mgf_parameter:
        const char *name
        Py_ssize_t rows, columns
        int role
        int properties
        int tied_to
        Py_ssize_t at
    ctypedef struct parameters_table "parameter_table":
        mgf_parameter *outside
        mgf_parameter *layer
        Py_ssize_t layer_size, count
    parameters_table parameters_of(const mgf_config *config)

cdef extern from "threads.h" nogil:
    mgf_pool *mgf_pool_create(int threads)
    void mgf_pool_destroy(mgf_pool *pool)

cdef extern from "random.h" nogil:
    void mgf_random_seed(mgf_random *r, const uint32_t *digits, Py_ssize_t count)
    double mgf_random_uniform(mgf_random *r)
    void mgf_random_normal(mgf_random *r, double *out, Py_ssize_t n, double std)
    void mgf_random_permutation(mgf_random *r, int64_t *out, Py_ssize_t n)
    Py_ssize_t mgf_random_choice(mgf_random *r, const double *weights, Py_ssize_t n)

HAS_EXACT = True
HAS_MIXED = True
ISA_VARIABLE = "MICROGPT_FAST_ISA"


# ---- instruction sets

cdef const mgf_instruction_set *active
cdef const mgf_kernels_f32 *f32
cdef const mgf_kernels_f64 *f64
cdef mgf_api api  # what other extension modules see of it


def compiled_isas():
    """Names of the instruction sets this build has, from the plainest to the widest."""
    names, i = [], 0
    while mgf_instruction_set_at(i) != NULL:
        names.append(mgf_instruction_set_at(i).name.decode())
        i += 1
    return names


def isas():
    """Names of those that this machine supports."""
    return [name for i, name in enumerate(compiled_isas()) if mgf_supported(i)]


def cpu_features():
    """Features of this processor, among those that an instruction set here asks for."""
    cdef int present = 0, i = 0
    names = []
    while mgf_cpu_feature(i, &present) != NULL:
        if present:
            names.append(mgf_cpu_feature(i, &present).decode())
        i += 1
    return names


def active_isa():
    """The instruction set in use."""
    return active.name.decode()


cdef const mgf_instruction_set *find_isa(name) except NULL:
    """The instruction set of this name; the one in use for None."""
    if name is None:
        return active
    if name not in isas():
        raise ValueError(f"instruction set {name!r} is not available here: choose one of {', '.join(isas())}")
    return mgf_instruction_set_at(compiled_isas().index(name))


def use_isa(name):
    """Use this instruction set from now on; Engines keep the one they were made with.

    Raises
    ------
    ValueError
        If this build or this machine does not have it.
    """
    global active, f32, f64
    active = find_isa(name)
    f32, f64 = active.f32, active.f64
    api.isa, api.f32, api.f64, api.exact = active.name, f32, f64, active.exact
    api.mixed = active.mixed


def isa_reason():
    """Why the instruction set in use was chosen when this module was imported."""
    return _reason


if not isas():  # a build of a few instruction sets, see CONTRIBUTING.md
    raise ImportError(f"this processor supports none of the instruction sets compiled here ({', '.join(compiled_isas())})")
_forced = os.environ.get(ISA_VARIABLE)
if _forced and _forced not in isas():
    raise ValueError(f"{ISA_VARIABLE}={_forced}: choose one of {', '.join(isas())}")
_reason = f"{ISA_VARIABLE} is set" if _forced else "the widest that this machine and this build have"
use_isa(_forced or isas()[-1])

api.abi_version, api.size, api.table_size = MGF_ABI_VERSION, sizeof(mgf_api), sizeof(mgf_kernels_f32)
api.pool_create, api.pool_destroy, api.random_seed = mgf_pool_create, mgf_pool_destroy, mgf_random_seed
abi_version = MGF_ABI_VERSION
c_api = PyCapsule_New(&api, "microgpt_fast.c_api", NULL)  # MGF_API_CAPSULE of microgpt_fast.h


# ---- what this machine can do at best

def measure_peak(dtype, isa=None, double seconds=0.05):
    """Multiply-adds of one core, in 1e9 operations per second: the best of many short trials.

    Parameters
    ----------
    dtype : numpy dtype or "bfloat16"
        float32, float64, or bfloat16, whose products are summed in float32.
    isa : str, optional
        An instruction set of `isas()`; None is the one in use.
    seconds : float
        How long to try.
    """
    cdef const mgf_instruction_set *chosen = find_isa(isa)
    cdef const mgf_peak *peak = chosen.peak_mixed
    if dtype != "bfloat16":
        peak = chosen.peak_f32 if np.dtype(dtype) == np.float32 else chosen.peak_f64
    cdef double operations, best = 0
    end = perf_counter() + seconds
    while best == 0 or perf_counter() < end:
        start = perf_counter()
        with nogil:
            operations = peak.compute(20_000)
        best = max(best, operations / (perf_counter() - start))
    return best / 1e9


def measure_bandwidth(Py_ssize_t size, double seconds=0.05):
    """Reads of one core from an array of `size` bytes, passed over again and again, in 1e9 bytes per second.

    The best of many trials of at least 1 MB; small arrays measure the caches.
    """
    cdef const unsigned char[::1] data = np.ones(max(size, 1024), np.uint8)
    cdef Py_ssize_t i, passes = 1 + 1_000_000 // data.shape[0]
    cdef double read, best = 0
    end = perf_counter() + seconds
    while best == 0 or perf_counter() < end:
        start = perf_counter()
        with nogil:
            read = 0
            for i in range(passes):
                read += active.peak_f32.read(&data[0], data.shape[0])
        best = max(best, read / (perf_counter() - start))
    return best / 1e9


# ---- kernels

cdef enum:
    REAL32 = 0
    REAL64 = 1
    INT32_T = 2
    INT64_T = 3

_FORMATS = ("f", "d", "i", "lq")
_DTYPES = ("float32", "float64", "int32", "int64")


cdef void *address(object array, int kind, bint writable, str name) except? NULL:
    """Where an array's elements begin; NULL for None."""
    cdef Py_buffer view
    if array is None:
        return NULL
    PyObject_GetBuffer(array, &view, PyBUF_FORMAT | PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
    try:
        if view.format[0] not in _FORMATS[kind].encode():
            raise TypeError(f"{name} must be {_DTYPES[kind]}, not {getattr(array, 'dtype', type(array))}")
        return view.buf
    finally:
        PyBuffer_Release(&view)


cdef bint is_single(object array) except -1:
    if array.dtype == np.float32:
        return True
    if array.dtype == np.float64:
        return False
    raise TypeError(f"kernels work in float32 and float64, not {array.dtype}")


cdef struct engine_tables:  # of an engine: one of them is not NULL
    const mgf_exact *exact
    const mgf_mixed *mixed
    const mgf_kernels_f32 *f32
    const mgf_kernels_f64 *f64


include "cython_kernels.pxi"
include "cython_quick.pxi"
include "cython_model.pxi"
include "cython_workspace.pxi"
include "cython_random.pxi"
include "cython_engine.pxi"
include "cython_decoder.pxi"
