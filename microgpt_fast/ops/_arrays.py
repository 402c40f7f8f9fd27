"""Arrays of other libraries: seen by NumPy without a copy, and results of their kind.

A library is never imported here: whoever hands in its array has imported it.
"""

import sys

import numpy as np

DLPACK_CPU, DLPACK_CUDA_HOST = 1, 3


def library_of(value):
    """The name of the library that made an array: "torch", "jax", or None for NumPy and all others."""
    for name, kind in (("torch", "Tensor"), ("jax", "Array")):
        module = sys.modules.get(name)
        if module is not None and isinstance(value, getattr(module, kind, ())):
            return name
    return None


def common_library(arrays):
    """The library whose arrays a call's results shall be; None for NumPy.

    Parameters
    ----------
    arrays : dict
        The inputs by name.

    Raises
    ------
    TypeError
        If there are arrays of two libraries.
    """
    found = {library: name for name, value in arrays.items() if (library := library_of(value))}
    if len(found) > 1:
        mixed = " and ".join(f"{name} of {library}" for library, name in found.items())
        raise TypeError(f"{mixed} cannot be mixed: give arrays of one library")
    return next(iter(found), None)


def as_library(library, array):
    """A NumPy result as an array of this library; None stays None."""
    if array is None or library is None:
        return array
    module = sys.modules[library]
    return module.from_numpy(array) if library == "torch" else module.numpy.asarray(array)


def seen_by_numpy(name, value):
    """A NumPy array over another library's memory; what is no array of any library as it is.

    Raises
    ------
    TypeError
        For memory that is not the CPU's, and for an array whose gradient would be lost.
    """
    library = library_of(value)
    if library == "torch":
        return _torch(name, value)
    if library == "jax":
        return _jax(name, value)
    if hasattr(value, "__array_interface__"):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        _check_device(name, value)
        return np.from_dlpack(value)
    if hasattr(value, "__cuda_array_interface__"):
        raise TypeError(f"{name} is in the memory of a GPU: kernels here read the CPU's, copy it there first")
    return value


def output_seen_by_numpy(name, value):
    """A NumPy array through which another library's array is written to.

    Raises
    ------
    TypeError
        As `seen_by_numpy`; also for an array that cannot be written to.
    """
    if library_of(value) == "jax":
        raise TypeError(
            f"out for {name} is a JAX array, which cannot be written to: give none, and take the result"
        )
    return seen_by_numpy(f"out for {name}", value)


def tell_written(value):
    """Let the library know that its array has been written to: torch's autograd refuses what was saved before."""
    if library_of(value) == "torch":
        sys.modules["torch"].autograd.graph.increment_version(value)


def _check_device(name, value):
    kind, number = value.__dlpack_device__()
    if kind not in (DLPACK_CPU, DLPACK_CUDA_HOST):
        device = f"{getattr(kind, 'name', kind)}:{number}"
        raise TypeError(
            f"{name} is on device {device}: kernels here read the CPU's memory, copy it there first"
        )


def _torch(name, tensor):
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu":
        raise TypeError(
            f"{name} is on {tensor.device}: kernels here read the CPU's memory, give {name}.cpu()"
        )
    if tensor.requires_grad and torch.is_grad_enabled():
        raise TypeError(
            f"{name} requires a gradient, which ops do not record: "
            f"give {name}.detach(), or use microgpt_fast.torch"
        )
    if tensor.dtype == torch.bfloat16 or tensor.layout != torch.strided:
        raise TypeError(
            f"{name} must be a dense tensor of float32 or float64, not {tensor.dtype}, {tensor.layout}"
        )
    return tensor.detach().resolve_conj().resolve_neg().numpy()


def _jax(name, array):
    if isinstance(array, sys.modules["jax"].core.Tracer):
        raise TypeError(
            f"{name} is traced by JAX (jit, grad, vmap), and has no values: use microgpt_fast.jax"
        )
    device = next(iter(array.devices()))
    if device.platform != "cpu":
        raise TypeError(f"{name} is on {device}: kernels here read the CPU's memory, copy it there first")
    return np.asarray(array)
