"""The compiled backend: csrc's kernels under their C names, and the whole model behind an Engine.

Arrays are passed by address: the functions check dtypes and writability; shapes are the caller's word, as in C.
"""

cimport cython
from cpython.buffer cimport (PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer)
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .cython_tables cimport (
    MGF_ABI_VERSION, mgf_adam, mgf_api, mgf_config, mgf_exact, mgf_kernels_f32, mgf_kernels_f64, mgf_pool, mgf_random
)

import os
from time import perf_counter

import numpy as np

cdef extern from "dispatch.h" nogil:
    ctypedef struct mgf_peak:
        double (*compute)(Py_ssize_t rounds) noexcept nogil
        double (*read)(const void *data, Py_ssize_t bytes) noexcept nogil
    ctypedef struct mgf_instruction_set:
        const char *name
        const mgf_kernels_f32 *f32
        const mgf_kernels_f64 *f64
        const mgf_exact *exact
        const mgf_peak *peak_f32
        const mgf_peak *peak_f64
    const mgf_instruction_set *mgf_instruction_set_at(int i)
    int mgf_supported(int i)
    const char *mgf_cpu_feature(int i, int *present)

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


def isa_reason():
    """Why the instruction set in use was chosen when this module was imported."""
    return _reason


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
    """Multiply-adds of one core, in 1e9 operations a second: the best of many short trials.

    Parameters
    ----------
    dtype : numpy dtype
        float32 or float64.
    isa : str, optional
        An instruction set of `isas()`; None is the one in use.
    seconds : float
        How long to try.
    """
    cdef const mgf_instruction_set *chosen = find_isa(isa)
    cdef const mgf_peak *peak = chosen.peak_f32 if np.dtype(dtype) == np.float32 else chosen.peak_f64
    cdef double operations, best = 0
    end = perf_counter() + seconds
    while best == 0 or perf_counter() < end:
        start = perf_counter()
        with nogil:
            operations = peak.compute(20_000)
        best = max(best, operations / (perf_counter() - start))
    return best / 1e9


def measure_bandwidth(Py_ssize_t size, double seconds=0.05):
    """Reads of one core from an array of `size` bytes, passed over again and again, in 1e9 bytes a second.

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


include "cython_kernels.pxi"


# ---- the model

cdef class Engine:
    """The whole model on the compiled kernels.

    Parameters
    ----------
    config : GPTConfig
    dtype : numpy dtype
        float32 or float64.
    numerics : {"fast", "exact"}
        "exact" keeps the scalar original's order of operations: float64, one document a step, one thread.
    threads : int
        Threads that share a call's work; the results' bits do not depend on it.

    Raises
    ------
    ValueError
        For exact numerics in float32.
    MemoryError
        If the workspace cannot be allocated.
    """
    cdef mgf_config config
    cdef const mgf_kernels_f32 *f32
    cdef const mgf_kernels_f64 *f64
    cdef const mgf_exact *exact
    cdef mgf_pool *pool
    cdef void *workspace
    cdef size_t workspace_size
    cdef Py_ssize_t num_params
    cdef readonly object dtype
    cdef readonly str numerics
    cdef readonly int threads
    cdef readonly str isa

    def __init__(self, config, dtype, str numerics="fast", int threads=1):
        self.dtype = np.dtype(dtype)
        self.numerics = numerics
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype is float32 or float64, not {self.dtype}")
        if numerics not in ("fast", "exact"):
            raise ValueError(f"numerics is 'fast' or 'exact', not {numerics!r}")
        if numerics == "exact" and self.dtype != np.float64:
            raise ValueError(f"exact numerics are float64's; dtype is {self.dtype}")
        self.config = mgf_config(config.n_layer, config.n_embd, config.n_head, config.block_size, config.vocab_size,
                                 {"relu": 0, "relu2": 1}[config.activation])
        self.num_params = config.num_params
        self.isa = active_isa()
        self.exact = active.exact if numerics == "exact" else NULL
        self.f32 = f32 if self.dtype == np.float32 else NULL
        self.f64 = f64
        self.threads = 1 if numerics == "exact" else threads
        if self.threads > 1:
            self.pool = mgf_pool_create(self.threads)
            if self.pool == NULL:
                raise MemoryError("no memory for a pool of threads")

    def __dealloc__(self):
        mgf_pool_destroy(self.pool)
        free(self.workspace)

    cdef int kind(self):
        return REAL32 if self.f32 != NULL else REAL64

    cdef int reserve(self, Py_ssize_t rows, Py_ssize_t documents) except -1:
        """A workspace for batches up to this size; kept from call to call."""
        cdef size_t size
        if self.exact != NULL:
            size = self.exact.gpt_workspace_size(&self.config, rows, documents, self.pool)
        elif self.f32 != NULL:
            size = self.f32.gpt_workspace_size(&self.config, rows, documents, self.pool)
        else:
            size = self.f64.gpt_workspace_size(&self.config, rows, documents, self.pool)
        if size > self.workspace_size:
            free(self.workspace)
            self.workspace_size = 0
            self.workspace = malloc(size)
            if self.workspace == NULL:
                raise MemoryError(f"no memory for a workspace of {size / 2**20:.0f} MiB")
            self.workspace_size = size
        return 0

    cdef int prepare(self, const int32_t[::1] tokens, const int64_t[::1] starts, const int32_t[::1] lengths,
                     Py_ssize_t batch_size) except -1:
        """Checks that the documents lie within tokens, and reserves a workspace for the largest batch."""
        cdef Py_ssize_t i, rows = 0, largest = 0
        if lengths.shape[0] != starts.shape[0] or batch_size < 1 or starts.shape[0] % batch_size:
            raise ValueError(f"starts [{starts.shape[0]}] and lengths [{lengths.shape[0]}] must hold whole batches of {batch_size}")
        if self.exact != NULL and batch_size != 1:
            raise ValueError(f"exact numerics take one document a step, not {batch_size}")
        for i in range(starts.shape[0]):
            if starts[i] < 0 or lengths[i] < 1 or starts[i] + lengths[i] >= tokens.shape[0]:
                raise IndexError(f"document {i}, {lengths[i]} tokens from {starts[i]} on and a target, is not within the "
                                 f"{tokens.shape[0]} tokens")
            rows = lengths[i] if i % batch_size == 0 else rows + lengths[i]
            largest = max(largest, rows)
        self.reserve(largest, batch_size)
        return 0

    cdef check(self, Py_ssize_t bad, const int32_t[::1] tokens, const int64_t[::1] starts, const int32_t[::1] lengths):
        """Turns the index of a refused document into an IndexError."""
        if bad < 0:
            return
        if lengths[bad] > self.config.block_size:
            raise IndexError(f"document {bad} has {lengths[bad]} tokens, block_size is {self.config.block_size}")
        document = np.asarray(tokens[starts[bad]:starts[bad] + lengths[bad] + 1])
        raise IndexError(f"document {bad} has token ids from {document.min()} to {document.max()}, the vocabulary 0 to "
                         f"{self.config.vocab_size - 1}")

    cdef void *flat(self, array, bint writable, str name) except NULL:
        if array.shape != (self.num_params,) or not array.flags.c_contiguous:
            raise ValueError(f"{name} must be a contiguous array of shape ({self.num_params},), not {array.shape}")
        return address(array, self.kind(), writable, name)

    def train_steps(self, double[::1] losses, params, m, v, const int32_t[::1] tokens, const int64_t[::1] starts,
                    const int32_t[::1] lengths, Py_ssize_t batch_size, const double[::1] lr, adam, int64_t first_step):
        """len(lr) training steps in one call without the GIL.

        Parameters
        ----------
        losses : float64 [k]
            Overwritten with each step's loss.
        params, m, v : dtype [P]
            Parameters and Adam's moments, updated in place.
        tokens : int32
            The corpus; document i of the run reads tokens[starts[i] : starts[i] + lengths[i] + 1].
        starts, lengths : int64 [k * batch_size], int32 [k * batch_size]
        lr : float64 [k]
        adam : (beta1, beta2, eps, weight_decay)
        first_step : int
            Adam's count of the first of these steps, from 1.

        Raises
        ------
        IndexError
            For a token or length out of range, before anything is written.
        """
        cdef Py_ssize_t k = lr.shape[0], bad = -1
        cdef mgf_adam constants = mgf_adam(adam[0], adam[1], adam[2], adam[3])
        cdef void *p = self.flat(params, True, "params")
        cdef void *first = self.flat(m, True, "m")
        cdef void *second = self.flat(v, True, "v")
        if losses.shape[0] < k or starts.shape[0] != k * batch_size:
            raise ValueError(f"{k} steps of {batch_size} documents need losses [{k}] and starts [{k * batch_size}], not "
                             f"[{losses.shape[0]}] and [{starts.shape[0]}]")
        if k == 0:
            return
        self.prepare(tokens, starts, lengths, batch_size)
        with nogil:
            if self.exact != NULL:
                bad = self.exact.gpt_train_steps(&losses[0], <double *> p, <double *> first, <double *> second, &tokens[0], &starts[0], &lengths[0], k, batch_size, &lr[0], &constants, first_step, &self.config, self.workspace, self.pool)
            elif self.f32 != NULL:
                bad = self.f32.gpt_train_steps(&losses[0], <float *> p, <float *> first, <float *> second, &tokens[0], &starts[0], &lengths[0], k, batch_size, &lr[0], &constants, first_step, &self.config, self.workspace, self.pool)
            else:
                bad = self.f64.gpt_train_steps(&losses[0], <double *> p, <double *> first, <double *> second, &tokens[0], &starts[0], &lengths[0], k, batch_size, &lr[0], &constants, first_step, &self.config, self.workspace, self.pool)
        self.check(bad, tokens, starts, lengths)

    def forward(self, params, const int32_t[::1] tokens, const int64_t[::1] starts, const int32_t[::1] lengths, logits=None):
        """Mean cross-entropy of each document: float64 [B]. `logits` [N, V], if given, is overwritten."""
        cdef Py_ssize_t B = starts.shape[0], bad = -1
        cdef double[::1] losses = np.empty(B)
        cdef void *p = self.flat(params, False, "params")
        cdef void *out = address(logits, self.kind(), True, "logits") if logits is not None else NULL
        if B == 0:
            return np.empty(0)
        self.prepare(tokens, starts, lengths, B)
        if logits is not None and (not logits.flags.c_contiguous or logits.shape != (np.sum(lengths), self.config.vocab_size)):
            raise ValueError(f"logits must be contiguous [{np.sum(lengths)}, {self.config.vocab_size}], not {logits.shape}")
        with nogil:
            if self.exact != NULL:
                bad = self.exact.gpt_forward(&losses[0], <double *> out, <const double *> p, &tokens[0], &starts[0], &lengths[0], B, &self.config, self.workspace, self.pool)
            elif self.f32 != NULL:
                bad = self.f32.gpt_forward(&losses[0], <float *> out, <const float *> p, &tokens[0], &starts[0], &lengths[0], B, &self.config, self.workspace, self.pool)
            else:
                bad = self.f64.gpt_forward(&losses[0], <double *> out, <const double *> p, &tokens[0], &starts[0], &lengths[0], B, &self.config, self.workspace, self.pool)
        self.check(bad, tokens, starts, lengths)
        return np.asarray(losses)

    def backward(self, grads, params, const int32_t[::1] tokens, const int64_t[::1] starts, const int32_t[::1] lengths):
        """grads [P] += the gradient of the mean of the documents' losses; returns these losses, float64 [B]."""
        cdef Py_ssize_t B = starts.shape[0], bad = -1
        cdef double[::1] losses = np.empty(B)
        cdef void *g = self.flat(grads, True, "grads")
        cdef void *p = self.flat(params, False, "params")
        if B == 0:
            return np.empty(0)
        self.prepare(tokens, starts, lengths, B)
        with nogil:
            if self.exact != NULL:
                bad = self.exact.gpt_backward(&losses[0], <double *> g, <const double *> p, &tokens[0], &starts[0], &lengths[0], B, &self.config, self.workspace, self.pool)
            elif self.f32 != NULL:
                bad = self.f32.gpt_backward(&losses[0], <float *> g, <const float *> p, &tokens[0], &starts[0], &lengths[0], B, &self.config, self.workspace, self.pool)
            else:
                bad = self.f64.gpt_backward(&losses[0], <double *> g, <const double *> p, &tokens[0], &starts[0], &lengths[0], B, &self.config, self.workspace, self.pool)
        self.check(bad, tokens, starts, lengths)
        return np.asarray(losses)

    def decoder(self, params):
        """A Decoder for these parameters [P]; make a new one when they change."""
        return Decoder(self, params)

    def streams(self, params, Py_ssize_t size):
        """Streams for these parameters [P]; make new ones when they change. ValueError with exact numerics."""
        return Streams(self, params, size)


cdef class Decoder:
    """Token by token through the model, with a cache of keys and values."""
    cdef Engine engine
    cdef object params
    cdef void *p
    cdef unsigned char[::1] memory
    cdef object sampled
    cdef int32_t[::1] sample
    cdef Py_ssize_t position

    def __init__(self, Engine engine, params):
        cdef Py_ssize_t size
        self.sample = self.sampled = np.empty(engine.config.block_size, np.int32)
        self.engine = engine
        self.params = params
        self.p = engine.flat(params, False, "params")
        if engine.exact != NULL:
            size = engine.exact.gpt_decoder_size(&engine.config)
        elif engine.f32 != NULL:
            size = engine.f32.gpt_decoder_size(&engine.config)
        else:
            size = engine.f64.gpt_decoder_size(&engine.config)
        self.memory = np.empty(size, np.uint8)  # in huge pages: from small ones large weights are read at half the pace
        if engine.exact != NULL:
            engine.exact.gpt_decoder_init(&self.memory[0], <const double *> self.p, &engine.config)
        elif engine.f32 != NULL:
            engine.f32.gpt_decoder_init(&self.memory[0], <const float *> self.p, &engine.config)
        else:
            engine.f64.gpt_decoder_init(&self.memory[0], <const double *> self.p, &engine.config)

    def step(self, int32_t token, Py_ssize_t position):
        """Logits [V] after `token` at `position`. Positions come in order; 0 begins a new document.

        Raises
        ------
        IndexError
            For a token outside the vocabulary or a position out of turn.
        """
        cdef Engine e = self.engine
        if not 0 <= token < e.config.vocab_size:
            raise IndexError(f"token {token} is not in the vocabulary, 0 to {e.config.vocab_size - 1}")
        if position >= e.config.block_size or position not in (0, self.position):
            raise IndexError(f"position {position} is not the next: {self.position} of {e.config.block_size}, or 0")
        logits = np.empty(e.config.vocab_size, e.dtype)
        cdef void *out = address(logits, e.kind(), True, "logits")
        with nogil:
            if e.exact != NULL:
                e.exact.gpt_decode(<double *> out, token, position, <const double *> self.p, &e.config, &self.memory[0])
            elif e.f32 != NULL:
                e.f32.gpt_decode(<float *> out, token, position, <const float *> self.p, &e.config, &self.memory[0])
            else:
                e.f64.gpt_decode(<double *> out, token, position, <const double *> self.p, &e.config, &self.memory[0])
        self.position = position + 1
        return logits

    def generate(self, Random random, int32_t bos, double temperature):
        """One document sampled from `bos` on, up to the next `bos` or block_size tokens: int32, without bos."""
        cdef Engine e = self.engine
        cdef Py_ssize_t n
        if not 0 <= bos < e.config.vocab_size:
            raise IndexError(f"token {bos} is not in the vocabulary, 0 to {e.config.vocab_size - 1}")
        cdef int32_t *out = &self.sample[0]
        with nogil:
            if e.exact != NULL:
                n = e.exact.gpt_generate(out, &random.state, <const double *> self.p, bos, temperature, &e.config, &self.memory[0])
            elif e.f32 != NULL:
                n = e.f32.gpt_generate(out, &random.state, <const float *> self.p, bos, temperature, &e.config, &self.memory[0])
            else:
                n = e.f64.gpt_generate(out, &random.state, <const double *> self.p, bos, temperature, &e.config, &self.memory[0])
        self.position = 0
        return self.sampled[:n].copy()


cdef class Streams:
    """Up to `size` documents that go through the model together, a token each at a time."""
    cdef Engine engine
    cdef object params
    cdef void *p
    cdef unsigned char[::1] memory
    cdef int32_t[::1] next
    cdef Py_ssize_t size

    def __init__(self, Engine engine, params, Py_ssize_t size):
        cdef Py_ssize_t memory_size
        if engine.exact != NULL:
            raise ValueError("exact numerics decode one document at a time: many streams need 'fast'")
        if size < 1:
            raise ValueError(f"there must be at least 1 stream, not {size}")
        self.engine, self.params, self.size = engine, params, size
        self.p = engine.flat(params, False, "params")
        self.next = np.zeros(size, np.int32)
        if engine.f32 != NULL:
            memory_size = engine.f32.gpt_streams_size(&engine.config, size)
        else:
            memory_size = engine.f64.gpt_streams_size(&engine.config, size)
        self.memory = np.empty(memory_size, np.uint8)  # in huge pages
        if engine.f32 != NULL:
            engine.f32.gpt_streams_init(&self.memory[0], <const float *> self.p, size, &engine.config)
        else:
            engine.f64.gpt_streams_init(&self.memory[0], <const double *> self.p, size, &engine.config)

    def step(self, slots, tokens, positions):
        """Logits [n, V] after tokens[i] at positions[i] of stream slots[i], for n different streams.

        The positions of a stream come in order; 0 begins a new document. A row's bits do not depend on the others.

        Raises
        ------
        ValueError
            For arrays of different lengths, none, or a stream twice.
        IndexError
            For a stream, a token or a position out of range or turn.
        """
        cdef Engine e = self.engine
        cdef int32_t[::1] which = np.array(slots, np.int32), ids = np.array(tokens, np.int32)
        cdef int32_t[::1] at = np.array(positions, np.int32)
        cdef Py_ssize_t i, n = which.shape[0]
        if not n == ids.shape[0] == at.shape[0] or n == 0 or len(set(slots)) != n:
            raise ValueError(f"a step takes one token and position for each of some different streams, not {n} streams "
                             f"({len(set(slots))} different), {ids.shape[0]} tokens, {at.shape[0]} positions")
        for i in range(n):
            if not 0 <= which[i] < self.size:
                raise IndexError(f"stream {which[i]} is not in 0 .. {self.size - 1}")
            if not 0 <= ids[i] < e.config.vocab_size:
                raise IndexError(f"token {ids[i]} is not in the vocabulary, 0 to {e.config.vocab_size - 1}")
            if at[i] >= e.config.block_size or at[i] not in (0, self.next[which[i]]):
                raise IndexError(f"position {at[i]} is not the next of stream {which[i]}: {self.next[which[i]]} of "
                                 f"{e.config.block_size}, or 0")
        logits = np.empty((n, e.config.vocab_size), e.dtype)
        cdef void *out = address(logits, e.kind(), True, "logits")
        with nogil:
            if e.f32 != NULL:
                e.f32.gpt_streams_decode(<float *> out, &which[0], &ids[0], &at[0], n, <const float *> self.p, self.size, &e.config, &self.memory[0], e.pool)
            else:
                e.f64.gpt_streams_decode(<double *> out, &which[0], &ids[0], &at[0], n, <const double *> self.p, self.size, &e.config, &self.memory[0], e.pool)
        for i in range(n):
            self.next[which[i]] = at[i] + 1
        return logits


# ---- the random stream

@cython.final
cdef class Random:
    """The generator of Python's ``random`` module, draw for draw, without Python's cost a draw.

    Parameters
    ----------
    seed : int
        As for ``random.seed``.
    """
    cdef mgf_random state

    def __init__(self, seed):
        size = max(1, (abs(seed).bit_length() + 31) // 32)
        cdef const uint32_t[::1] digits = np.frombuffer(abs(seed).to_bytes(4 * size, "little"), "<u4").astype(np.uint32)
        mgf_random_seed(&self.state, &digits[0], size)

    def random(self):
        """``random.random()``"""
        return mgf_random_uniform(&self.state)

    def permutation(self, Py_ssize_t n):
        """int64 [n]: what ``random.shuffle`` makes of ``list(range(n))``."""
        order = np.empty(n, np.int64)
        cdef int64_t[::1] out = order
        if n:
            mgf_random_permutation(&self.state, &out[0], n)
        return order

    def normal(self, double[::1] out, double std):
        """Fills `out` with ``random.gauss(0, std)``."""
        if out.shape[0]:
            with nogil:
                mgf_random_normal(&self.state, &out[0], out.shape[0], std)

    def choices(self, const double[::1] weights):
        """``random.choices(range(n), weights)[0]``"""
        if not weights.shape[0]:
            raise ValueError("nothing to choose from")
        return mgf_random_choice(&self.state, &weights[0], weights.shape[0])

    def getstate(self):
        """As ``random.getstate()``: (3, 624 words and the index, the kept normal deviate or None)."""
        words = tuple([self.state.state[i] for i in range(624)])
        return (3, words + (self.state.index,), self.state.gauss if self.state.has_gauss else None)

    def setstate(self, state):
        """As ``random.setstate()``."""
        version, words, gauss = state
        if version != 3 or len(words) != 625:
            raise ValueError("not a state of Python's random module, version 3")
        for i in range(624):
            self.state.state[i] = words[i]
        self.state.index = words[624]
        self.state.has_gauss = gauss is not None
        self.state.gauss = gauss if gauss is not None else 0.0
