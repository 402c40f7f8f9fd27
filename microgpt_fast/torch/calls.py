"""A kernel called on tensors: by address with the compiled backend, else through NumPy views."""

import ctypes
from functools import cache
from typing import NamedTuple

import torch

from .. import backends
from ..native.signatures import read_signatures

SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}
PLAIN = (torch.Tensor, torch.nn.Parameter)  # whose elements are where data_ptr() says
NUMBERS = (int, float, type(None))
SIGNATURES = [signature for signature in read_signatures() if not signature.is_model]
# For each argument of a kernel: whether it is an array of indices.
INDICES = {s.name: [argument.base == "int32_t" for argument in s.arguments] for s in SIGNATURES}
CTYPES = {
    "int": ctypes.c_int,
    "ptrdiff_t": ctypes.c_ssize_t,
    "int64_t": ctypes.c_int64,
    "double": ctypes.c_double,
    "void": None,
}


class Strided(NamedTuple):
    """A tensor whose rows lie apart by a stride that the kernel is told."""

    tensor: torch.Tensor


@cache
def backend():
    """The module of the kernels, and whether it tells their addresses."""
    module = backends.load()
    return module, hasattr(module, "kernel_addresses")


@cache
def _functions(isa):
    """The kernels' C functions by name and dtype, for the instruction set in use."""
    compiled = backends.load("cython")
    addresses = compiled.kernel_addresses()
    functions = {}
    for signature in SIGNATURES:
        types = [ctypes.c_void_p if a.is_pointer else CTYPES[a.ctype] for a in signature.arguments]
        prototype = ctypes.CFUNCTYPE(CTYPES[signature.result], *types)
        for dtype, suffix in SUFFIXES.items():
            functions[signature.name, dtype] = prototype(addresses[f"{signature.name}_{suffix}"])
    return functions


def run(kernel, *arguments):
    """Call a kernel with its C arguments: outputs and inputs as tensors, or None; numbers.

    Raises
    ------
    TypeError
        For a tensor that is not on the CPU, or of another dtype than the first, which is float32 or float64.
    IndexError
        For a token, position or target out of range.
    """
    first = arguments[0]
    dtype = first.dtype
    if dtype not in SUFFIXES:
        raise TypeError(f"{kernel} takes float32 or float64, not {dtype}")
    module, by_address = backend()
    passed, kept = [], []
    for argument, is_index in zip(arguments, INDICES[kernel]):
        kind = type(argument)
        if kind in NUMBERS:
            passed.append(argument)
            continue
        if kind in PLAIN:
            tensor = argument if argument.is_contiguous() else argument.contiguous()
        elif kind is Strided:
            tensor = argument.tensor
        else:
            raise TypeError(f"{kernel} takes plain tensors, not {kind.__name__}")
        if not tensor.is_cpu:
            raise TypeError(f"{kernel} takes tensors in the memory of the CPU, not on {tensor.device}")
        if tensor.dtype is not (torch.int32 if is_index else dtype):
            wanted = "indices of int32" if is_index else f"tensors of one dtype, {dtype}"
            raise TypeError(f"{kernel} takes {wanted}, not {tensor.dtype}")
        kept.append(tensor)  # a copy lives until the call is over
        passed.append(tensor.data_ptr() if by_address else tensor.detach().numpy())
    if by_address:
        bad = _functions(module.active_isa())[kernel, dtype](*passed)
    else:
        bad = getattr(module, kernel)(*passed)
    if bad is not None and bad >= 0:
        raise IndexError(f"{kernel}: row {bad} has a token, position or target that is out of range")


def run_nothing(kernel, *arguments):
    """What stands for `run` where only shapes are wanted."""
