"""The compiled kernels inside your own ``@njit`` functions, cached ones too.

The functions have the names and arguments of microgpt_fast_kernels.h: arrays in place of pointers (None in
place of NULL), integers for sizes and flags. The arrays of a call must all be float32 or all float64. As in C,
shapes are not checked, and rows must lie as the header says. The kernels are those of the instruction set in use
when this module is imported. Import it in every process that runs a cached function of yours which calls it.

Outside jitted code they are the compiled backend's functions.
"""

import sys

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import NumbaTypeError
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin

from .backends import load
from .native.signatures import read_signatures

_SCALARS = {"ptrdiff_t": types.intp, "int64_t": types.int64, "int": types.intc, "double": types.float64}
_INTEGERS = {"int32_t": types.int32}
_backend = load("cython")


def _symbol(name):
    """Of the ABI too, so that code cached before an upgrade does not call what has changed since."""
    return f"microgpt_fast_{_backend.abi_version}_{name}"


def _argument_types(kernel, args):
    """The types to cast the arguments to, and the function's suffix; NumbaTypeError if they do not fit."""
    if len(args) != len(kernel.arguments):
        raise NumbaTypeError(f"{kernel.name} takes {len(kernel.arguments)} arguments, not {len(args)}")
    real, wanted = None, []
    for declared, given in zip(kernel.arguments, args):
        if not declared.is_pointer:
            if not isinstance(given, (types.Number, types.Boolean, types.IntegerLiteral)):
                raise NumbaTypeError(f"{kernel.name}: {declared.name} must be a number, not {given}")
            wanted.append(_SCALARS[declared.ctype])
            continue
        wanted.append(given)
        if isinstance(given, types.NoneType):
            continue
        if not isinstance(given, types.Array):
            raise NumbaTypeError(f"{kernel.name}: {declared.name} must be an array, not {given}")
        if not (given.mutable or declared.is_const):
            raise NumbaTypeError(f"{kernel.name}: {declared.name} is written to and cannot be read-only")
        allowed = _INTEGERS.get(declared.base)
        if allowed is None:
            real = real or given.dtype
            allowed = real
        if given.dtype != allowed or (declared.base == "real" and real not in (types.float32, types.float64)):
            raise NumbaTypeError(
                f"{kernel.name}: {declared.name} of {given.dtype} is not {allowed}, or not a float"
            )
    return wanted, "f32" if real == types.float32 else "f64"


def _teach_numba(kernel, function):
    """Tell Numba how to type and how to call one kernel."""

    @infer_global(function)
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            wanted, _ = _argument_types(kernel, args)
            return signature(types.none if kernel.result == "void" else types.intp, *wanted)

    @lower_builtin(function, types.VarArg(types.Any))
    def call(context, builder, sig, args):
        values = []
        for declared, kind, value in zip(kernel.arguments, sig.args, args):
            if not declared.is_pointer:
                values.append(value)
            elif isinstance(kind, types.NoneType):
                values.append(ir.Constant(ir.IntType(8).as_pointer(), None))
            else:
                data = context.make_array(kind)(context, builder, value).data
                values.append(builder.bitcast(data, ir.IntType(8).as_pointer()))
        void = kernel.result == "void"
        result = ir.VoidType() if void else context.get_value_type(types.intp)
        kind = ir.FunctionType(result, [value.type for value in values])
        name = _symbol(f"{kernel.name}_{_argument_types(kernel, sig.args)[1]}")
        answer = builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)
        return context.get_dummy_value() if void else answer


for _name, _address in _backend.kernel_addresses().items():
    llvmlite.binding.add_symbol(_symbol(_name), _address)
__all__ = []
for _kernel in read_signatures():
    if not _kernel.is_model:
        _function = getattr(_backend, _kernel.name)
        _teach_numba(_kernel, _function)
        setattr(sys.modules[__name__], _kernel.name, _function)
        __all__.append(_kernel.name)
