"""What every function of ops does around a kernel: check, allocate, call.

It follows the table `SHAPES`; the order of a kernel's arguments comes from the C header. Everything is checked
before anything is written.
"""

import re
from types import ModuleType

import numpy as np

from .. import backends
from ..native.signatures import read_signatures

# kernel: its outputs, its inputs; each is name[sizes]. "+": added to what the array holds; "?": may be None.
SHAPES = {
    "embedding_forward": ("x[N C]", "tokens[N] positions[N] wte[V C] wpe[T C]"),
    "embedding_backward": ("+dwte[V C] +dwpe[T C]", "dx[N C] tokens[N] positions[N]"),
    "rmsnorm_forward": ("y[N C] rstd[N]", "x[N C] ?gain[C]"),
    "rmsnorm_backward": ("dx[N C] +dgain[C]", "dy[N C] x[N C] ?gain[C] rstd[N]"),
    "linear_forward": ("y[N O]", "x[N C] w[O C]"),
    "linear_backward": ("dx[N C] +dw[O C]", "dy[N O] x[N C] w[O C]"),
    "attention_forward": ("o[N H D] lse[N H]", "q[N H D] k[N H D] v[N H D] ?slopes[H]"),
    "attention_backward": (
        "dq[N H D] dk[N H D] dv[N H D] delta[N H]",
        "d_o[N H D] o[N H D] lse[N H] q[N H D] k[N H D] v[N H D] ?slopes[H]",
    ),
    "attention_decode": (
        "o[B H D]",
        "q[B H D] k_cache[B T_max H D] v_cache[B T_max H D] lengths[B] ?slopes[H]",
    ),
    "mlp_forward": ("y[N C] h[N F]", "x[N C] w1[F C] w2[C F]"),
    "mlp_backward": ("dx[N C] +dw1[F C] +dw2[C F] dh[N F]", "dy[N C] h[N F] x[N C] w1[F C] w2[C F]"),
    "cross_entropy_forward": ("losses[N] lse[N]", "logits[N V] targets[N]"),
    "cross_entropy_backward": ("dlogits[N V]", "dlosses[N] lse[N] logits[N V] targets[N]"),
    "adamw_step": ("+p[n] +m[n] +v[n]", "g[n]"),
    "gemm_nn": ("c[M N]", "a[M K] b[K N]"),
    "gemm_nt": ("c[M N]", "a[M K] b[N K]"),
    "gemm_tn": ("c[M N]", "a[K M] b[K N]"),
}
# arrays of int32: the size that their values stay below, and how an error names it
COUNTS = {
    "tokens": ("V", "the vocabulary of size"),
    "targets": ("V", "the vocabulary of size"),
    "positions": ("T", "the positions, of which there are"),
}
ORDER = {s.name: [a.name for a in s.arguments] for s in read_signatures()}
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Argument:
    """One array argument: its name, its sizes, whether the kernel adds to it, whether it may be None."""

    def __init__(self, text):
        mark, self.name, sizes = re.fullmatch(r"([+?]?)(\w+)\[(.*)\]", text).groups()
        self.adds, self.optional, self.sizes = mark == "+", mark == "?", sizes.split()


def _arguments(text):
    return [Argument(item) for item in re.findall(r"[+?]?\w+\[.*?\]", text)]


ARGUMENTS = {
    kernel: (_arguments(outputs), _arguments(inputs)) for kernel, (outputs, inputs) in SHAPES.items()
}


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
        One per output of the kernel.
    backend : str or module
    sizes : dict
        Sizes that no input tells.
    without : collection of str
        Outputs that are not wanted.
    added : collection of str
        Outputs to add to, besides those marked in `SHAPES`.
    strided : collection of str
        Outputs whose layout `arrange` checks; the others must be contiguous.
    arrange : function of the dicts of inputs, outputs and sizes
        Brings the arrays in the dicts into the layout that the kernel needs, and returns further constants. It
        may allocate outputs. Without it, all inputs are made contiguous.
    **constants
        The kernel's other arguments.

    Returns
    -------
    array, or tuple of arrays or None
        The outputs.
    """
    wanted, read = ARGUMENTS[kernel]
    sizes = dict(sizes)
    arrays, dtype, sources = check_inputs(kernel, read, inputs, sizes)
    outputs = _given(wanted, out, without)
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
    module = backend if isinstance(backend, ModuleType) else backends.load(backend)
    values = {**sizes, **constants, **arrays, **outputs}
    bad = getattr(module, kernel)(*[values[name] for name in ORDER[kernel]])
    if bad is not None and bad >= 0:
        _refuse_index(arrays, bad, sizes)
    results = tuple(outputs.values())
    return results if len(results) > 1 else results[0]


def check_inputs(kernel, read, inputs, sizes):
    """The inputs as arrays, their common dtype, and where each size comes from; fills in `sizes`."""
    arrays, dtype, of_dtype, sources = {}, None, "", {}
    for argument in read:
        name, value = argument.name, inputs[argument.name]
        if value is None and argument.optional:
            arrays[name] = None
            continue
        array = np.asarray(value)
        if name in COUNTS or name == "lengths":
            if array.dtype.kind not in "iu":
                raise TypeError(f"{name} must be of an integer dtype, preferably int32, not {array.dtype}")
        elif array.dtype not in FLOATS:
            raise TypeError(f"{name} must be float32 or float64, not {array.dtype}")
        elif dtype is None:
            dtype, of_dtype = array.dtype, name
        elif array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype} and {of_dtype} is {dtype}: they must have one dtype")
        _match(kernel, argument, array, sizes, sources)
        arrays[name] = array
    for name, array in arrays.items():
        if array is not None and array.dtype.kind in "iu":
            arrays[name] = _int32(name, array, sizes)
    return arrays, dtype, sources


def _match(kernel, argument, array, sizes, sources):
    """Compare a shape with the sizes known so far, and note those that are new."""
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
    """The array as int32; values that do not fit are out of range, rather than wrapped."""
    if array.dtype == np.int32:
        return array
    if array.size and not (-(2**31) <= array.min() and array.max() < 2**31):
        if name in COUNTS:
            _refuse_index({name: array}, 0, sizes)
        raise IndexError(
            f"{name} has values from {array.min()} to {array.max()}, which do not fit in 32 bits"
        )
    return array.astype(np.int32)


def _refuse_index(arrays, first, sizes):
    """Raise IndexError for the first value, from index `first` on, that is out of range."""
    for name, (size, whole) in COUNTS.items():
        if name in arrays:
            values, limit = arrays[name][first:], sizes[size]
            outside = (values < 0) | (values >= limit)
            if outside.any():
                at = int(outside.argmax())
                raise IndexError(f"{name}[{first + at}] is {values[at]}, not in {whole} {limit}")
    raise IndexError(f"row {first} is out of range")


def _given(wanted, out, without):
    """The outputs by name; None where the caller gave none."""
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
    """Raise TypeError or ValueError unless the kernel can write to the array as it is."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"out for {name} must be a NumPy array, not {type(array).__name__}")
    if array.dtype != dtype:
        raise TypeError(f"out for {name} must be {dtype}, as the inputs are, not {array.dtype}")
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
    """Raise ValueError if an output shares memory with an input or with another output."""
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
    """The distance between rows, in elements, if they are contiguous and do not overlap; else None."""
    if not array.flags.aligned:
        return None
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
