"""A kernel as one call of XLA: through a compiled handler where there is one, else back through Python."""

import ctypes
import sysconfig
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np

from .. import backends, ops
from ..config import ACTIVATIONS

LIBRARY = Path(__file__).parent / f"handlers{sysconfig.get_config_var('EXT_SUFFIX')}"


def _given(array):
    return array if array.size else None


# What each call computes, by ops, for the way through Python; its results are in the order of the handler's.
CALLBACKS = {
    "rmsnorm_forward": lambda x, gain, eps: ops.rmsnorm_forward(x, _given(gain), eps=eps),
    "rmsnorm_backward": lambda dy, x, gain, rstd: ops.rmsnorm_backward(dy, x, rstd, _given(gain)),
    "gemm_nn": ops.gemm_nn,
    "gemm_nt": ops.gemm_nt,
    "gemm_tn": ops.gemm_tn,
    "mlp_forward": lambda x, w1, w2, activation: ops.mlp_forward(
        x, w1, w2, activation=ACTIVATIONS[activation]
    ),
    "mlp_backward": lambda *arrays, activation: ops.mlp_backward(*arrays, activation=ACTIVATIONS[activation]),
    "cross_entropy_forward": ops.cross_entropy_forward,
    "cross_entropy_backward": ops.cross_entropy_backward,
    "embedding_forward": ops.embedding_forward,
    "attention_forward": lambda *arrays, scale: ops.attention_forward(
        *arrays[:-1], slopes=_given(arrays[-1]), scale=scale
    ),
    "attention_backward": lambda *arrays, scale: ops.attention_backward(
        *arrays[:-1], slopes=_given(arrays[-1]), scale=scale
    ),
}


@cache
def has_handlers():
    """Whether XLA can call the kernels directly; they are registered with it then."""
    try:
        api, library = backends.load("cython").c_api, ctypes.CDLL(str(LIBRARY))
    except (backends.BackendError, OSError):
        return False
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    library.mgf_jax_use.argtypes = [ctypes.c_void_p]
    if not library.mgf_jax_use(pointer(api, b"microgpt_fast.c_api")):
        return False
    for kernel in [*CALLBACKS, "embedding_backward"]:
        handler = jax.ffi.pycapsule(getattr(library, f"mgf_jax_{kernel}"))
        jax.ffi.register_ffi_target(f"microgpt_fast_{kernel}", handler, platform="cpu")
    return True


def call(kernel, shapes, *arrays, **attributes):
    """The results of a kernel.

    Parameters
    ----------
    kernel : str
    shapes : tuple of shapes
        Of the results; their dtype is that of the first floats among the arrays.
    *arrays
        In the order of the kernel's inputs; one that is missing has no elements.
    **attributes : float or int
    """
    dtype = next(array.dtype for array in arrays if array.dtype.kind == "f")
    results = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
    if has_handlers():
        kinds = {float: np.float64, int: np.int32}
        constants = {name: kinds[type(value)](value) for name, value in attributes.items()}
        target = jax.ffi.ffi_call(f"microgpt_fast_{kernel}", results, vmap_method="sequential")
        return target(*arrays, **constants)
    callback = partial(_computed, kernel, results, **attributes)
    return jax.pure_callback(callback, results, *arrays, vmap_method="sequential")


def _computed(kernel, results, *arrays, **attributes):
    arrays = [np.asarray(array) for array in arrays]
    if kernel == "embedding_backward":
        outputs = ops.embedding_backward(
            *arrays, vocab_size=results[0].shape[0], block_size=results[1].shape[0]
        )
    else:
        outputs = CALLBACKS[kernel](*arrays, **attributes)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return tuple(np.empty(r.shape, r.dtype) if o is None else o for o, r in zip(outputs, results))
