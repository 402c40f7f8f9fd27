"""What every function of ops does around a kernel: check, allocate, call.

`native/shapes.py` is the one table behind it; the order of a kernel's arguments comes from the C header. Everything is
checked before anything is written.
"""

import math
import operator
from functools import cache
from numbers import Real
from types import ModuleType

import numpy as np

from .. import backends
from ..native.shapes import ARGUMENTS
from ..native.signatures import read_signatures
from ._arrays import as_library, common_library, output_seen_by_numpy, seen_by_numpy, tell_written

# arrays of int32: what their values count, and up to which size
COUNTS = {
    "tokens": ("V", "the vocabulary of size"),
    "targets": ("V", "the vocabulary of size"),
    "positions": ("T", "the positions, of which there are"),
}
ORDER = {s.name: [a.name for a in s.arguments] for s in read_signatures()}
REALS = {s.name: [a.name for a in s.arguments if a.ctype == "double"] for s in read_signatures()}
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@cache
def quick_calls(backend):
    """A backend's own checked calls by kernel, which take what needs neither a copy nor an error; or none."""
    module = load(backend)
    quick = getattr(module, "QuickCall", None)
    if quick is None:
        return {}
    return {
        kernel: quick(outputs, inputs, ORDER[kernel], getattr(module, kernel))
        for kernel, (outputs, inputs) in ARGUMENTS.items()
    }


def load(backend):
    """The module of a backend, given itself or by its name."""
    return backend if isinstance(backend, ModuleType) else backends.load(backend)


def call(
    kernel,
    inputs,
    *,
    out=None,
    backend="auto",
    sizes=(),
    without=(),
    added=(),
    strided=(),
    arrange=None,
    **constants,
):
    """Check a kernel's arguments, allocate the outputs that were not given, and call it.

    Parameters
    ----------
    kernel : str
    inputs : dict
        Arrays by name.
    out : array, or tuple of arrays or None
        As many as the kernel has outputs.
    backend : str or module
    sizes : dict
        Sizes that no input has.
    without : collection of str
        Outputs that are not wanted.
    added : collection of str
        Outputs, besides those marked in the table, that are added to.
    strided : collection of str
        Outputs whose layout `arrange` checks; the others must be contiguous.
    arrange : function of the dicts of inputs, outputs and sizes
        Brings the arrays into the layout that the kernel wants, in the dicts, and returns further constants;
        else all inputs become contiguous. It may allocate outputs.
    **constants
        The kernel's other arguments; those that `arrange` returns as the caller of ops gave them.

    Returns
    -------
    array, or tuple of arrays or None
        The outputs: those that were given, and new ones of the library that the inputs come from.
    """
    quick = quick_calls(backend)
    if quick:
        results = quick[kernel](inputs, out, sizes, without, added, constants)
        if results is not NotImplemented:
            return results
    wanted, read = ARGUMENTS[kernel]
    sizes = dict(sizes)
    library = common_library(inputs)
    arrays, dtype, sources = check_inputs(kernel, read, inputs, sizes)
    given = _given(wanted, out, without)
    outputs = {name: array_to_write(name, value) for name, value in given.items()}
    for argument in wanted:
        if (array := outputs[argument.name]) is not None:
            check_output(argument.name, array, dtype, contiguous=argument.name not in strided)
            _match(kernel, argument, array, sizes, sources)
    check_overlap(outputs, arrays)
    if arrange:
        constants |= arrange(arrays, outputs, sizes)
    else:
        arrays = {name: contiguous(array) for name, array in arrays.items()}
    for argument in wanted:
        name = argument.name
        if outputs[name] is None and name not in without:
            make = np.zeros if argument.adds or name in added else np.empty
            outputs[name] = make([sizes[size] for size in argument.sizes], dtype)
    module = load(backend)
    constants |= {name: real(name, constants[name]) for name in REALS[kernel]}
    values = {**sizes, **constants, **arrays, **outputs}
    bad = getattr(module, kernel)(*[values[name] for name in ORDER[kernel]])
    if bad is not None and bad >= 0:
        _refuse_index(arrays, bad, sizes)
    results = tuple(
        as_library(library, array) if given[name] is None else given[name] for name, array in outputs.items()
    )
    for value in given.values():
        tell_written(value)
    return results if len(results) > 1 else results[0]


def array_to_read(name, value):
    """The value itself, or what NumPy sees of another library's array."""
    return value if value is None or isinstance(value, np.ndarray) else seen_by_numpy(name, value)


def array_to_write(name, value):
    """As `array_to_read`, to write through."""
    return value if value is None or isinstance(value, np.ndarray) else output_seen_by_numpy(name, value)


def as_array(name, value, dtype=np.float64):
    """The value as an array; something empty that is no array, such as [], as one of `dtype`."""
    value = array_to_read(name, value)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be ignored: give {name}.filled(number) or {name}.data"
        )
    array = np.asarray(value)
    return array if array.size or isinstance(value, np.ndarray) else array.astype(dtype)


def real(name, value):
    """The value as a float."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {value!r:.40}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large for a floating-point number") from None


def integer(name, value, low=0, high=2**63 - 1):
    """The value as an int from low to high."""
    value = operator.index(value)
    if not low <= value <= high:
        raise ValueError(f"{name} must be at least {low} and at most {high}, not {value}")
    return value


def _common_dtype(read, inputs):
    """That of the first array of floats, which empty lists take on."""
    for argument in read:
        value = inputs[argument.name]
        if isinstance(value, np.ndarray) and value.dtype in FLOATS:
            return value.dtype
    return np.float64


def check_inputs(kernel, read, inputs, sizes):
    """The inputs as arrays, their one dtype, and what told each size; `sizes` is filled from their shapes."""
    arrays, dtype, of_dtype, sources = {}, None, "", {}
    inputs = {name: array_to_read(name, value) for name, value in inputs.items()}
    common = _common_dtype(read, inputs)
    for argument in read:
        name, value = argument.name, inputs[argument.name]
        if value is None and argument.optional:
            arrays[name] = None
            continue
        counts = name in COUNTS or name == "lengths"
        array = as_array(name, value, np.int32 if counts else common)
        if counts:
            if array.dtype.kind not in "iu":
                raise TypeError(f"{name} must be of an integer dtype, int32 at best, not {array.dtype}")
        elif array.dtype not in FLOATS:
            raise TypeError(f"{name} must be float32 or float64, not {array.dtype}")
        elif dtype is None:
            dtype, of_dtype = array.dtype, name
        elif array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype} and {of_dtype} {dtype}: they must have one dtype")
        _match(kernel, argument, array, sizes, sources)
        arrays[name] = array
    for name, array in arrays.items():
        if array is not None and array.dtype.kind in "iu":
            arrays[name] = _int32(name, array, sizes)
    return arrays, dtype, sources


def _match(kernel, argument, array, sizes, sources):
    """Hold a shape against the sizes known so far, and learn those that are not."""
    wanted = f"{argument.name}[{', '.join(argument.sizes)}]"
    if array.ndim != len(argument.sizes):
        raise ValueError(f"{kernel} takes {wanted}, not {argument.name} of shape {array.shape}")
    for name, size in zip(argument.sizes, array.shape):
        if sizes.setdefault(name, size) != size:
            source = f", as {sources[name]} has" if name in sources else ""
            raise ValueError(
                f"{kernel} takes {wanted} with {name} = {sizes[name]}{source}, "
                f"not {argument.name} of shape {array.shape}"
            )
        sources.setdefault(name, f"{argument.name} of shape {array.shape}")


def _int32(name, array, sizes):
    """int32 without wrapping: what does not fit is out of range."""
    if array.dtype == np.int32:
        return array
    if array.size and not (-(2**31) <= array.min() and array.max() < 2**31):
        if name in COUNTS:
            _refuse_index({name: array}, 0, sizes)
        raise IndexError(f"{name} has values from {array.min()} to {array.max()}, which 32 bits do not hold")
    return array.astype(np.int32)


def _refuse_index(arrays, first, sizes):
    """IndexError for the first value from index `first` on that is out of range."""
    for name, (size, whole) in COUNTS.items():
        if name in arrays:
            values, limit = arrays[name][first:], sizes[size]
            outside = (values < 0) | (values >= limit)
            if outside.any():
                at = int(outside.argmax())
                raise IndexError(f"{name}[{first + at}] is {values[at]}, not in {whole} {limit}")
    raise IndexError(f"row {first} is out of range")


def _given(wanted, out, without):
    """The outputs by name, None where the caller gave none."""
    names = [argument.name for argument in wanted]
    if len(names) == 1:
        out = (out,)
    elif out is None:
        out = (None,) * len(names)
    if not isinstance(out, (tuple, list)) or len(out) != len(names):
        raise ValueError(f"out must be a tuple ({', '.join(names)}) of arrays or None")
    outputs = dict(zip(names, out))
    for name in without:
        if outputs[name] is not None:
            raise ValueError(f"out has an array for {name}, which is not computed here")
    return outputs


def check_output(name, array, dtype, shape=None, contiguous=True):
    """TypeError or ValueError unless the array can be written to as it is."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"out for {name} must be an array that can be written to, not {type(array).__name__}")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"out for {name} is a masked array, whose mask would be ignored: give its .data")
    if array.dtype != dtype:
        raise TypeError(f"out for {name} must be {dtype} as the inputs are, not {array.dtype}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"out for {name} must have shape {shape}, not {array.shape}")
    if not array.flags.writeable:
        raise ValueError(f"out for {name} of shape {array.shape} is read-only")
    if contiguous and not array.flags.c_contiguous:
        raise ValueError(
            f"out for {name} of shape {array.shape} must be C-contiguous; its strides are {array.strides}"
        )
    if not array.flags.aligned:
        raise ValueError(f"out for {name} of shape {array.shape} must be aligned")


def check_overlap(outputs, inputs):
    """ValueError if an output shares memory with an input or with another output."""
    given = [(name, array) for name, array in outputs.items() if array is not None]
    for i, (name, array) in enumerate(given):
        for other, against in [*inputs.items(), *given[:i]]:
            if against is not None and _share(array, against):
                raise ValueError(
                    f"out for {name} of shape {array.shape} overlaps {other} of shape {against.shape}"
                )


def _share(a, b):
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except np.exceptions.TooHardError:
        return True


def contiguous(array):
    """The array itself if it is C-contiguous and aligned, else a copy that is."""
    if array is None or (array.flags.c_contiguous and array.flags.aligned):
        return array
    return np.array(array, order="C")


def row_stride(array):
    """Elements from row to row of an array whose rows are contiguous and do not overlap, else None."""
    if not array.flags.aligned:
        return None
    if array.size == 0:
        return math.prod(array.shape[1:])
    row, expected = 1, array.itemsize
    for size, stride in zip(array.shape[:0:-1], array.strides[:0:-1]):
        if stride != expected and size > 1:
            return None
        expected *= size
        row *= size
    if len(array) <= 1:
        return row
    step, rest = divmod(array.strides[0], array.itemsize)
    return step if rest == 0 and step >= row else None
