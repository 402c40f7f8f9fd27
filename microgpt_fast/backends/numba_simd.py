"""Vectors of a fixed width for Numba: Vec(dtype, n) is LLVM's <n x dtype>.

Numba vectorises plain loops, when it does, its own way. Here a jitted function says which numbers share a
register:

    from numba import njit
    from microgpt_fast.backends.numba_simd import lanes, load, load_partial, sum_lanes

    @njit
    def dot(a, b):                        # of two flat float32 or float64 arrays
        n, total = lanes(a), load(a, 0) * 0
        for i in range(0, len(a) - n + 1, n):
            total += load(a, i) * load(b, i)
        ...                               # the rest: load_partial(a, i, len(a) - i)
        return sum_lanes(total)

Vectors are immutable values: + - * / and comparisons work lane by lane, a number on either side counts as a
vector of it, x[i] is a lane. A product and a sum contract to one fused multiply-add where the processor has
it.

Wherever a function takes `p`, it takes a `pointer`, or an array for its first element: p is then counted in
elements, whatever the array's shape, and nothing checks its bounds.

Two shapes are in use. `load` and its like give a *vector*: lanes(p) elements, the width of this processor's
registers. A *tile* is `rows` vectors as one Vec, row after row: LLVM keeps it in `rows` registers, so that
one line of Python is `rows` instructions that do not wait for each other. Where a tile reaches beyond a
matrix, `last` is the number of its last row there: rows beyond repeat that row when loaded, and do not count
when stored.

Widths are those of the processor that Numba compiles for (NUMBA_CPU_NAME and NUMBA_CPU_FEATURES choose
another): 64 bytes with AVX-512, 32 with AVX2, else 16. Everything is LLVM's portable vector code, but for
`denormals_flush`, which does nothing where there is no SSE.
"""

import math
import operator

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model


def _cpu_features():
    """Names of the features that Numba compiles for."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    features = llvmlite.binding.get_host_cpu_features()
    return {name for name in features if features[name] and (config.ENABLE_AVX or not name.startswith("avx"))}


_FEATURES = _cpu_features()
VECTOR_BYTES = 64 if "avx512f" in _FEATURES else 32 if "avx2" in _FEATURES else 16
VECTOR_REGISTERS = 32 if VECTOR_BYTES == 64 or "neon" in _FEATURES else 16
_X86 = llvmlite.binding.get_process_triple().startswith(("x86_64", "i686", "amd64"))

_FLAGS = ("contract",)
_I32 = ir.IntType(32)


class Vec(types.Type):
    """The Numba type of `n` lanes of `dtype`: float32, float64, or boolean for the result of a comparison."""

    def __init__(self, dtype, n):
        self.dtype, self.n = dtype, n
        super().__init__(name=f"Vec({dtype}, {n})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, vec):
        lane = ir.IntType(1) if vec.dtype == types.boolean else manager[vec.dtype].get_value_type()
        super().__init__(manager, vec, ir.VectorType(lane, vec.n))


class Pointer(types.CPointer):
    """The Numba type of an element's address: p + i is the address i elements on, p[i] that element."""

    def __init__(self, dtype):
        super().__init__(dtype)
        self.name = f"Pointer({dtype})"


register_model(Pointer)(models.PointerModel)


def _native(dtype):
    return VECTOR_BYTES * 8 // dtype.bitwidth


# ---- LLVM code of what is used more than once


def _shuffle(b, x, y, lanes):
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


def _splat(b, value, n):
    undefined = ir.Constant(ir.VectorType(value.type, n), ir.Undefined)
    return _shuffle(b, b.insert_element(undefined, value, _I32(0)), undefined, [0] * n)


def _constant(vector, value):
    return ir.Constant(vector, [value] * vector.count)


def _row(b, tile, r, n):
    return _shuffle(b, tile, tile, range(r * n, r * n + n))


def _tile(b, rows):
    """Rows as one vector."""
    while len(rows) > 1:
        n, odd = rows[0].type.count, rows[len(rows) // 2 * 2 :]
        if odd:
            raise ValueError("a tile has 1, 2, 4, 8 or 16 rows")
        rows = [_shuffle(b, rows[i], rows[i + 1], range(2 * n)) for i in range(0, len(rows), 2)]
    return rows[0]


def _transpose_groups(b, rows, n):
    """Transpose every n x n block of n rows, by exchanging ever smaller off-diagonal blocks."""
    width, half = rows[0].type.count, n // 2
    while half:
        for r in range(n):
            if not r & half:
                x, y = rows[r], rows[r + half]
                rows[r] = _shuffle(b, x, y, [width + i - half if i & half else i for i in range(width)])
                rows[r + half] = _shuffle(
                    b, x, y, [width + i if i & half else i + half for i in range(width)]
                )
        half //= 2


def _call(b, name, result, *arguments):
    """Call of an LLVM intrinsic, whose name ends in the result's type if that is a vector."""
    if isinstance(result, ir.VectorType):
        name += f".v{result.count}f{32 if isinstance(result.element, ir.FloatType) else 64}"
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def _fma(b, x, y, z):
    return _call(b, "llvm.fmuladd", x.type, x, y, z)


def _larger(b, x, y):
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _address(context, b, p_type, p, index=None):
    p = context.make_array(p_type)(context, b, p).data if isinstance(p_type, types.Array) else p
    return p if index is None else b.gep(p, [index])


def _load(b, address, n, mask=None):
    vector = ir.VectorType(address.type.pointee, n)
    at, align = b.bitcast(address, vector.as_pointer()), 4 if isinstance(vector.element, ir.FloatType) else 8
    if mask is None:
        return b.load(at, align=align)
    kind = ir.FunctionType(vector, [at.type, _I32, mask.type, vector])
    name = f"llvm.masked.load.v{n}f{8 * align}.p0"
    masked = cgutils.get_or_insert_function(b.module, kind, name)
    return b.call(masked, [at, _I32(align), mask, ir.Constant(vector, None)])


def _store(b, address, x, mask=None):
    at, align = b.bitcast(address, x.type.as_pointer()), 4 if isinstance(x.type.element, ir.FloatType) else 8
    if mask is None:
        b.store(x, at, align=align)
        return
    kind = ir.FunctionType(ir.VoidType(), [x.type, at.type, _I32, mask.type])
    name = f"llvm.masked.store.v{x.type.count}f{8 * align}.p0"
    b.call(cgutils.get_or_insert_function(b.module, kind, name), [x, at, _I32(align), mask])


def _mask(b, count, n, dtype):
    """The first `count` of n lanes, as booleans."""
    integer = ir.IntType(dtype.bitwidth)
    if count.type != integer:
        count = b.trunc(count, integer)
    numbers = ir.Constant(ir.VectorType(integer, n), list(range(n)))
    return b.icmp_signed("<", numbers, _splat(b, count, n))


def _row_addresses(b, first, ld, last, rows):
    """Addresses of the rows, none beyond the last."""
    for r in range(rows):
        number = ir.Constant(last.type, r)
        inside = b.select(b.icmp_signed("<", number, last), number, last)
        yield b.gep(first, [b.mul(inside, ld)])


# ---- arithmetic


@lower_cast(types.Number, Vec)
def _splat_number(context, b, number, vec, value):
    return _splat(b, context.cast(b, value, number, vec.dtype), vec.n)


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
            lambda b, x, y, name=_name: getattr(b, name)(x, y, flags=_FLAGS),
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
    return vec(vec, vec, vec), lambda context, b, sig, a: _fma(b, *a)


@intrinsic
def maximum(typing, x, y):
    """The larger, lane by lane; y where either is NaN."""
    vec = x if isinstance(x, Vec) else y
    return vec(vec, vec), lambda context, b, sig, a: _larger(b, *a)


@intrinsic
def where(typing, condition, x, y):
    """x where the condition (of a comparison) holds, else y."""
    vec = x if isinstance(x, Vec) else y
    return vec(condition, vec, vec), lambda context, b, sig, a: b.select(*a)


@intrinsic
def sqrt(typing, x):
    """The square root, correctly rounded."""
    return x(x), lambda context, b, sig, a: _call(b, "llvm.sqrt", a[0].type, a[0])


# per dtype: 1.5 * 2**mantissa_bits, which rounds to an integer kept in the low bits when added; arguments
# whose exponential is normal; ln 2 as a short number and the rest; a polynomial for e**r, |r| <= ln 2 / 2,
# fitted at Chebyshev nodes; terms of the logarithm's series
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
        constant = lambda number: _constant(value.type, number)  # noqa: E731
        shifted = _fma(b, value, constant(1 / math.log(2)), constant(rounder))
        n = b.fsub(shifted, constant(rounder))
        r = _fma(b, n, constant(-ln2_low), _fma(b, n, constant(-ln2_high), value))
        p = constant(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            p = _fma(b, p, r, constant(coefficient))
        power = b.shl(b.bitcast(shifted, integers), _constant(integers, mantissa))
        p = b.bitcast(b.add(b.bitcast(p, integers), power), value.type)
        p = b.select(b.fcmp_ordered("<", value, constant(lowest)), constant(0.0), p)
        return b.select(b.fcmp_ordered(">", value, constant(highest)), constant(math.inf), p)

    return x(x), emit


@intrinsic
def log(typing, x):
    """The natural logarithm of positive normal numbers.

    x = 2**n z with sqrt(1/2) <= z < sqrt(2); with s = (z - 1) / (z + 1), log z = 2 s (1 + s**2 / 3 + s**4 / 5
    + ...). At most 2 units in the last place off, of 1 where |log x| < 1.
    """
    *_, ln2_high, ln2_low, _, terms = _CONSTANTS[x.dtype]
    integers, mantissa = _integers(x)

    def emit(context, b, sig, arguments):
        [value] = arguments
        constant = lambda number: _constant(value.type, number)  # noqa: E731
        bits, shift = b.bitcast(value, integers), _constant(integers, mantissa)
        root_half = b.bitcast(constant(0.5**0.5), integers)
        n = b.ashr(b.sub(bits, root_half), shift)
        z = b.bitcast(b.sub(bits, b.shl(n, shift)), value.type)
        s = b.fdiv(b.fsub(z, constant(1.0)), b.fadd(z, constant(1.0)))
        square = b.fmul(s, s)
        p = constant(1 / (2 * terms + 1))
        for i in range(terms - 1, -1, -1):
            p = _fma(b, p, square, constant(1 / (2 * i + 1)))
        exponent = b.sitofp(n, value.type)
        rest = _fma(b, b.fadd(s, s), p, b.fmul(exponent, constant(ln2_low)))
        return _fma(b, exponent, constant(ln2_high), rest)

    return x(x), emit


def _reduction(combine):
    def over(b, x, n):
        distance = n // 2
        while distance:
            x = combine(b, x, _shuffle(b, x, x, [lane ^ distance for lane in range(x.type.count)]))
            distance //= 2
        return x

    return over


_sums = _reduction(lambda b, x, y: b.fadd(x, y))
_maxima = _reduction(_larger)


@intrinsic
def sum_lanes(typing, x):
    """The sum of the lanes, a number; a lane is added to the one half the width away first."""
    return x.dtype(x), lambda context, b, sig, a: b.extract_element(_sums(b, a[0], x.n), _I32(0))


@intrinsic
def max_lanes(typing, x):
    """The largest lane."""
    return x.dtype(x), lambda context, b, sig, a: b.extract_element(_maxima(b, a[0], x.n), _I32(0))


@intrinsic
def sum_rows(typing, tile):
    """Each row's sum, in every lane of the row."""
    return tile(tile), lambda context, b, sig, a: _sums(b, a[0], _native(tile.dtype))


@intrinsic
def max_rows(typing, tile):
    """Each row's largest lane, in every lane of the row."""
    return tile(tile), lambda context, b, sig, a: _maxima(b, a[0], _native(tile.dtype))


# ---- memory


@intrinsic
def lanes(typing, p):
    """How many lanes a vector of p's dtype has."""
    size = ir.Constant(ir.IntType(types.intp.bitwidth), _native(p.dtype))
    return types.intp(p), lambda context, b, sig, a: size


@intrinsic
def pointer(typing, array, like):
    """The address of an array's first element; of None: the address 0, as a pointer to what `like` holds."""
    dtype = like.dtype if isinstance(array, types.NoneType) else array.dtype

    def emit(context, b, sig, arguments):
        if isinstance(array, types.NoneType):
            return ir.Constant(context.get_value_type(sig.return_type), None)
        return _address(context, b, array, arguments[0])

    return Pointer(dtype)(array, like), emit


@intrinsic
def is_null(typing, p):
    """Whether a pointer came of None."""

    def emit(context, b, sig, a):
        return b.icmp_unsigned("==", a[0], ir.Constant(a[0].type, None))

    return types.boolean(p), emit


@intrinsic(prefer_literal=True)
def stack(typing, like, size):
    """A pointer to memory for `size` (a constant) elements, until the function returns; its content is
    arbitrary."""

    def emit(context, b, sig, arguments):
        memory = cgutils.alloca_once(b, context.get_value_type(like.dtype), size=size.literal_value)
        memory.align = VECTOR_BYTES
        return memory

    return Pointer(like.dtype)(like, size), emit


@intrinsic
def zeros(typing, p):
    """A vector of zeros, of p's dtype."""
    vec = Vec(p.dtype, _native(p.dtype))
    return vec(p), lambda context, b, sig, a: ir.Constant(context.get_value_type(vec), None)


@intrinsic
def lane_numbers(typing, p):
    """The vector 0, 1, 2, ... of p's dtype."""
    vec = Vec(p.dtype, _native(p.dtype))
    numbers = [float(i) for i in range(vec.n)]
    return vec(p), lambda context, b, sig, a: ir.Constant(context.get_value_type(vec), numbers)


@intrinsic
def load(typing, p, i):
    """The vector p[i], p[i + 1], ..."""
    vec = Vec(p.dtype, _native(p.dtype))

    def emit(context, b, sig, a):
        return _load(b, _address(context, b, p, *a[:2]), vec.n)

    return vec(p, types.intp), emit


@intrinsic
def load_partial(typing, p, i, count):
    """The first `count` lanes of load(p, i); the others are 0, and what lies there is not touched."""
    vec = Vec(p.dtype, _native(p.dtype))

    def emit(context, b, sig, a):
        return _load(b, _address(context, b, p, *a[:2]), vec.n, _mask(b, a[2], vec.n, p.dtype))

    return vec(p, types.intp, types.intp), emit


@intrinsic
def store(typing, p, i, x):
    """p[i], p[i + 1], ... = the lanes of x, a vector or a tile."""

    def emit(context, b, sig, a):
        _store(b, _address(context, b, p, *a[:2]), a[2])
        return context.get_dummy_value()

    return types.none(p, types.intp, x), emit


@intrinsic
def store_partial(typing, p, i, x, count):
    """`store` of the first `count` lanes only."""

    def emit(context, b, sig, a):
        _store(b, _address(context, b, p, *a[:2]), a[2], _mask(b, a[3], x.n, p.dtype))
        return context.get_dummy_value()

    return types.none(p, types.intp, x, types.intp), emit


def _tile_type(p, rows):
    return Vec(p.dtype, _native(p.dtype) * rows.literal_value)


@intrinsic(prefer_literal=True)
def zero_tile(typing, p, rows):
    """A tile of zeros, of p's dtype, with a constant number of rows."""
    vec = _tile_type(p, rows)
    return vec(p, rows), lambda context, b, sig, a: ir.Constant(context.get_value_type(vec), None)


@intrinsic(prefer_literal=True)
def load_tile(typing, p, ld, last, rows):
    """The tile whose row r is load(p, min(r, last) * ld)."""
    vec, n = _tile_type(p, rows), _native(p.dtype)

    def emit(context, b, sig, a):
        first = _address(context, b, p, a[0])
        return _tile(b, [_load(b, at, n) for at in _row_addresses(b, first, a[1], a[2], rows.literal_value)])

    return vec(p, types.intp, types.intp, rows), emit


@intrinsic(prefer_literal=True)
def load_tile_partial(typing, p, ld, last, count, rows):
    """`load_tile` of the first `count` lanes of each row; the others are 0, and what lies there is not
    touched."""
    vec, n = _tile_type(p, rows), _native(p.dtype)

    def emit(context, b, sig, a):
        first, mask = _address(context, b, p, a[0]), _mask(b, a[3], n, p.dtype)
        addresses = _row_addresses(b, first, a[1], a[2], rows.literal_value)
        return _tile(b, [_load(b, at, n, mask) for at in addresses])

    return vec(p, types.intp, types.intp, types.intp, rows), emit


def _store_rows(context, b, p_type, a, tile, mask=None):
    """Rows in descending order: those beyond the last are stored where it goes, and then overwritten by
    it."""
    n = _native(p_type.dtype)
    addresses = list(_row_addresses(b, _address(context, b, p_type, a[0]), a[1], a[2], tile.type.count // n))
    for r in reversed(range(len(addresses))):
        _store(b, addresses[r], _row(b, tile, r, n), mask)
    return context.get_dummy_value()


@intrinsic
def store_tile(typing, p, ld, last, tile):
    """Row r of the tile to p[r * ld], p[r * ld + 1], ... for r <= last."""

    def emit(context, b, sig, a):
        return _store_rows(context, b, p, a, a[3])

    return types.none(p, types.intp, types.intp, tile), emit


@intrinsic
def store_tile_partial(typing, p, ld, last, tile, count):
    """`store_tile` of the first `count` lanes of each row only."""

    def emit(context, b, sig, a):
        return _store_rows(context, b, p, a, a[3], _mask(b, a[4], _native(p.dtype), p.dtype))

    return types.none(p, types.intp, types.intp, tile, types.intp), emit


@intrinsic(prefer_literal=True)
def broadcast_column(typing, p, stride, last, rows):
    """The tile with p[min(r, last) * stride] in every lane of row r."""
    vec, n = _tile_type(p, rows), _native(p.dtype)

    def emit(context, b, sig, a):
        first = _address(context, b, p, a[0])
        addresses = _row_addresses(b, first, a[1], a[2], rows.literal_value)
        return _tile(b, [_splat(b, b.load(at), n) for at in addresses])

    return vec(p, types.intp, types.intp, rows), emit


@intrinsic(prefer_literal=True)
def broadcast_row(typing, x, rows):
    """The tile with the vector x in every row."""
    vec = Vec(x.dtype, x.n * rows.literal_value)
    numbers = list(range(x.n)) * rows.literal_value
    return vec(x, rows), lambda context, b, sig, a: _shuffle(b, a[0], a[0], numbers)


@intrinsic(prefer_literal=True)
def load_transposed(typing, p, ld, last, count):
    """The square tile whose lane r of row c is p[min(r, last) * ld + c], 0 for c >= count (not touched)."""
    n = _native(p.dtype)
    vec = Vec(p.dtype, n * n)

    def emit(context, b, sig, a):
        first, mask = _address(context, b, p, a[0]), _mask(b, a[3], n, p.dtype)
        rows = [_load(b, at, n, mask) for at in _row_addresses(b, first, a[1], a[2], n)]
        _transpose_groups(b, rows, n)
        return _tile(b, rows)

    return vec(p, types.intp, types.intp, types.intp), emit


# ---- denormal numbers


def _control_register(b, name, pointer):
    _call(b, f"llvm.x86.sse.{name}", ir.VoidType(), b.bitcast(pointer, ir.IntType(8).as_pointer()))


@intrinsic
def denormals_flush(typing):
    """Let denormal numbers count as 0, where they cost a hundred cycles; returns what `denormals_restore`
    takes.

    The setting is the thread's: restore it before the jitted function returns. It holds for loops and calls
    in between; a single operation LLVM may move past it.
    """

    def emit(context, b, sig, a):
        if not _X86:
            return _I32(0)
        memory = cgutils.alloca_once(b, _I32)
        _control_register(b, "stmxcsr", memory)
        before = b.load(memory)
        b.store(b.or_(before, _I32(0x8040)), memory)
        _control_register(b, "ldmxcsr", memory)
        return before

    return types.int32(), emit


@intrinsic
def denormals_restore(typing, before):
    """Undo `denormals_flush`."""

    def emit(context, b, sig, a):
        if _X86:
            memory = cgutils.alloca_once(b, _I32)
            b.store(a[0], memory)
            _control_register(b, "ldmxcsr", memory)
        return context.get_dummy_value()

    return types.none(types.int32), emit
