"""Vectors and tiles as numbers: operators, functions lane by lane, and sums and maxima over lanes."""

import math
import operator

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast

from . import llvm
from .vec import Pointer, Vec, native


@lower_cast(types.Number, Vec)
def _splat_number(context, b, number, vec, value):
    return llvm.splat(b, context.cast(b, value, number, vec.dtype), vec.n)


def _operator(operation, emit, result=lambda vec: vec):
    @infer_global(operation)
    class _Template(AbstractTemplate):
        def generic(self, arguments, keywords):
            vec = next((a for a in arguments if isinstance(a, Vec)), None)
            if vec is not None and len(arguments) == 2:
                return signature(result(vec), vec, vec)

    lower_builtin(operation, Vec, Vec)(lambda context, b, sig, arguments: emit(b, *arguments))


for _operation, _name in {"add": "fadd", "sub": "fsub", "mul": "fmul", "truediv": "fdiv"}.items():
    for _prefix in ("", "i"):
        _operator(
            getattr(operator, _prefix + _operation),
            lambda b, x, y, name=_name: getattr(b, name)(x, y, flags=llvm.FLAGS),
        )
for _operation, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    _operator(
        getattr(operator, _operation),
        lambda b, x, y, sign=_sign: b.fcmp_ordered(sign, x, y),
        lambda vec: Vec(types.boolean, vec.n),
    )


@infer_global(operator.getitem)
class _LaneTemplate(AbstractTemplate):
    def generic(self, arguments, keywords):
        if isinstance(arguments[0], Vec) and isinstance(arguments[1], types.Integer):
            return signature(arguments[0].dtype, arguments[0], types.intp)


@lower_builtin(operator.getitem, Vec, types.intp)
def _lane(context, b, sig, arguments):
    return b.extract_element(*arguments)


@infer_global(operator.add)
@infer_global(operator.iadd)
class _AdvanceTemplate(AbstractTemplate):
    def generic(self, arguments, keywords):
        if isinstance(arguments[0], Pointer) and isinstance(arguments[1], types.Integer):
            return signature(arguments[0], arguments[0], types.intp)


@lower_builtin(operator.add, Pointer, types.intp)
@lower_builtin(operator.iadd, Pointer, types.intp)
def _advance(context, b, sig, arguments):
    return b.gep(arguments[0], [arguments[1]])


@intrinsic
def fma(typing, x, y, z):
    """x * y + z; numbers count as vectors of them."""
    vec = next(a for a in (x, y, z) if isinstance(a, Vec))
    return vec(vec, vec, vec), lambda context, b, sig, a: llvm.fma(b, *a)


@intrinsic
def maximum(typing, x, y):
    """The larger, lane by lane; y where either is NaN."""
    vec = x if isinstance(x, Vec) else y
    return vec(vec, vec), lambda context, b, sig, a: llvm.larger(b, *a)


@intrinsic
def where(typing, condition, x, y):
    """x where the condition (of a comparison) holds, else y."""
    vec = x if isinstance(x, Vec) else y
    return vec(condition, vec, vec), lambda context, b, sig, a: b.select(*a)


@intrinsic
def sqrt(typing, x):
    """The square root, correctly rounded."""
    return x(x), lambda context, b, sig, a: llvm.call(b, "llvm.sqrt", a[0].type, a[0])


# per dtype: 1.5 * 2**mantissa_bits, which rounds to an integer kept in the low bits when added; arguments
# whose exponential is normal; ln 2 as a short number and the rest; a polynomial for e**r, |r| <= ln 2 / 2,
# as in csrc/base/simd.h (bench/fit_exp.py; relative error at most 1.1e-8, 1.7e-17); terms of the logarithm's
# series
_CONSTANTS = {
    types.float32: (12582912.0, -87.33654, 88.72283, 0.693359375, -2.12194440e-4,
                    (1.0, 1.0, 0.5, 0.16666577, 0.041666555, 0.0083631731, 0.0013926176), 5),
    types.float64: (6755399441055744.0, -708.3964185322641, 709.782712893384, 0.6931471803691238,
                    1.9082149292705878e-10,
                    (1.0, 1.0, 0.5000000000000001, 0.16666666666666668, 0.04166666666662416,
                     0.008333333333330064, 0.001388888891719672, 0.00019841269863040545,
                     2.4801521322368693e-05, 2.755726848031003e-06, 2.7620075879983366e-07,
                     2.510037583256123e-08), 11),
}  # fmt: skip


def _integers(vec):
    return ir.VectorType(ir.IntType(vec.dtype.bitwidth), vec.n), 23 if vec.dtype == types.float32 else 52


@intrinsic
def exp(typing, x):
    """e**x: e**x = 2**n e**r with n = round(x / ln 2), e**r by a polynomial.

    At most 1.5 units in the last place off. 0 where the result would be below the normal range, infinite
    where it would be above; NaN stays NaN.
    """
    rounder, lowest, highest, ln2_high, ln2_low, coefficients, _ = _CONSTANTS[x.dtype]
    integers, mantissa = _integers(x)

    def emit(context, b, sig, arguments):
        [value] = arguments
        constant = lambda number: llvm.constant(value.type, number)  # noqa: E731
        # far below, infinity would be taken from infinity; NaN stays
        value = b.select(b.fcmp_ordered("<", value, constant(lowest - 1)), constant(lowest - 1), value)
        shifted = llvm.fma(b, value, constant(1 / math.log(2)), constant(rounder))
        n = b.fsub(shifted, constant(rounder))
        r = llvm.fma(b, n, constant(-ln2_low), llvm.fma(b, n, constant(-ln2_high), value))
        p = constant(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            p = llvm.fma(b, p, r, constant(coefficient))
        power = b.shl(b.bitcast(shifted, integers), llvm.constant(integers, mantissa))
        p = b.bitcast(b.add(b.bitcast(p, integers), power), value.type)
        p = b.select(b.fcmp_ordered("<", value, constant(lowest)), constant(0.0), p)
        return b.select(b.fcmp_ordered(">", value, constant(highest)), constant(math.inf), p)

    return x(x), emit


@intrinsic
def log(typing, x):
    """The natural logarithm of positive normal numbers.

    x = 2**n z with sqrt(1/2) <= z < sqrt(2); with s = (z - 1) / (z + 1), log z = 2 s (1 + s**2 / 3 + s**4 / 5
    + ...). At most 2 units in the last place off, of 1 where |log x| < 1. Infinity and NaN stay what they are.
    """
    *_, ln2_high, ln2_low, _, terms = _CONSTANTS[x.dtype]
    integers, mantissa = _integers(x)

    def emit(context, b, sig, arguments):
        [value] = arguments
        constant = lambda number: llvm.constant(value.type, number)  # noqa: E731
        bits, shift = b.bitcast(value, integers), llvm.constant(integers, mantissa)
        root_half = b.bitcast(constant(0.5**0.5), integers)
        n = b.ashr(b.sub(bits, root_half), shift)
        z = b.bitcast(b.sub(bits, b.shl(n, shift)), value.type)
        s = b.fdiv(b.fsub(z, constant(1.0)), b.fadd(z, constant(1.0)))
        square = b.fmul(s, s)
        p = constant(1 / (2 * terms + 1))
        for i in range(terms - 1, -1, -1):
            p = llvm.fma(b, p, square, constant(1 / (2 * i + 1)))
        exponent = b.sitofp(n, value.type)
        rest = llvm.fma(b, b.fadd(s, s), p, b.fmul(exponent, constant(ln2_low)))
        result = llvm.fma(b, exponent, constant(ln2_high), rest)
        is_served = b.and_(
            b.fcmp_ordered(">", value, constant(0.0)), b.fcmp_ordered("<", value, constant(math.inf))
        )
        return b.select(is_served, result, value)

    return x(x), emit


def _reduction(combine):
    def over(b, x, n):
        distance = n // 2
        while distance:
            x = combine(b, x, llvm.shuffle(b, x, x, [lane ^ distance for lane in range(x.type.count)]))
            distance //= 2
        return x

    return over


_sums = _reduction(lambda b, x, y: b.fadd(x, y))
_maxima = _reduction(llvm.larger)


@intrinsic
def sum_lanes(typing, x):
    """The sum of the lanes, a number; a lane is added to the one half the width away first."""
    return x.dtype(x), lambda context, b, sig, a: b.extract_element(_sums(b, a[0], x.n), llvm.I32(0))


@intrinsic
def max_lanes(typing, x):
    """The largest lane."""
    return x.dtype(x), lambda context, b, sig, a: b.extract_element(_maxima(b, a[0], x.n), llvm.I32(0))


@intrinsic
def sum_rows(typing, tile):
    """Each row's sum, in every lane of the row."""
    return tile(tile), lambda context, b, sig, a: _sums(b, a[0], native(tile.dtype))


@intrinsic
def max_rows(typing, tile):
    """Each row's largest lane, in every lane of the row."""
    return tile(tile), lambda context, b, sig, a: _maxima(b, a[0], native(tile.dtype))
