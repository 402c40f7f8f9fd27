"""Completes the docstrings of the kernels: what each argument is, from the table of arrays and the C header.

What a kernel computes stands in its own docstring.
"""

from inspect import cleandoc
from itertools import groupby

from ..native.shapes import ARGUMENTS
from ..native.signatures import read_signatures

SIGNATURES = {signature.name: signature for signature in read_signatures()}
NUMBERS = {"ptrdiff_t": "int", "int64_t": "int", "int": "int", "double": "float"}
TEXTS = {
    "accumulate": "Whether c is added to rather than overwritten.",
    "accumulate_dx": "Whether dx is added to rather than overwritten.",
    "activation": "Place of the activation's name in `microgpt_fast.config.ACTIVATIONS`.",
    "base": "Of the angles' frequencies.",
    "cu_seqlens": "Where the rows of each document begin; the last is N.",
    "eps": "Keeps what is divided by above 0.",
    "lengths": "How many positions of each cache count, the query's own among them.",
    "scale": "Of the scores, as a rule D^(-1/2).",
    "slopes": "ALiBi's, one for each head.",
    "step": "Number of this step, from 1.",
}
OPTIONAL = {
    "linear_backward": ("dx", "dw"),
    "rmsnorm_backward": ("dgain",),
}  # outputs that need not be wanted
RETURNS = """
Returns
-------
int
    -1; or the first row with a number out of range, and then nothing has been written."""
NOTES = """
Notes
-----
Nothing else is checked. Arrays are float32 or float64, all alike. docs/kernels.md explains the kernel."""


def described(kernel):
    """The kernel, its docstring completed by its parameters and what it returns."""
    signature = SIGNATURES[kernel.__name__]
    rows = [(*_description(argument, signature), argument.name) for argument in signature.arguments]
    doc = [cleandoc(kernel.__doc__), "", "Parameters", "----------"]
    for (kind, text), group in groupby(rows, key=lambda row: row[:2]):
        doc.append(f"{', '.join(name for *_, name in group)} : {kind}")
        if text:
            doc.append(f"    {text}")
    if signature.result == "ptrdiff_t":
        doc.append(RETURNS)
    doc.append(NOTES if signature.result == "ptrdiff_t" else NOTES.replace("Nothing else", "Nothing"))
    kernel.__doc__ = "\n".join(doc)
    return kernel


def _description(argument, signature):
    """An argument's type, and a sentence about it."""
    name = argument.name
    written, read = ({array.name: array for array in side} for side in ARGUMENTS[signature.name])
    if not argument.is_pointer:
        stride = "Elements from one row to the next." if name.startswith("ld_") else ""
        return NUMBERS[argument.ctype], TEXTS.get(name, stride)
    array = written.get(name) or read.get(name)
    kind = f"array [{', '.join(array.sizes) if array else 'B + 1'}]"
    if argument.base == "int32_t":
        kind = f"int32 {kind}"
    if name in OPTIONAL.get(signature.name, ()) or (array and array.optional):
        kind += " or None"
    return kind, _effect(written[name], signature) if name in written else TEXTS.get(name, "")


def _effect(array, signature):
    """What a kernel does to an output."""
    if signature.name == "adamw_step":
        return "Updated in place."
    if array.adds:
        return "Added to."
    flags = {argument.name for argument in signature.arguments} & {"accumulate", "accumulate_dx"}
    if flags and array.name in ("c", "dx"):
        return f"Overwritten, or added to where `{flags.pop()}` is not 0."
    return "Overwritten."
