"""LLVM code of what is used more than once; `b` is a builder of LLVM's instructions."""

from llvmlite import ir
from numba.core import cgutils, types

FLAGS = ("contract",)
I32 = ir.IntType(32)


def shuffle(b, x, y, lanes):
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def splat(b, value, n):
    undefined = ir.Constant(ir.VectorType(value.type, n), ir.Undefined)
    return shuffle(b, b.insert_element(undefined, value, I32(0)), undefined, [0] * n)


def constant(vector, value):
    return ir.Constant(vector, [value] * vector.count)


def row(b, tile, r, n):
    return shuffle(b, tile, tile, range(r * n, r * n + n))


def tile(b, rows):
    """Rows as one vector."""
    while len(rows) > 1:
        n, odd = rows[0].type.count, rows[len(rows) // 2 * 2 :]
        if odd:
            raise ValueError("a tile has 1, 2, 4, 8 or 16 rows")
        rows = [shuffle(b, rows[i], rows[i + 1], range(2 * n)) for i in range(0, len(rows), 2)]
    return rows[0]


def transpose_groups(b, rows, n):
    """Transpose every n x n block of n rows, by exchanging ever smaller off-diagonal blocks."""
    width, half = rows[0].type.count, n // 2
    while half:
        for r in range(n):
            if not r & half:
                x, y = rows[r], rows[r + half]
                rows[r] = shuffle(b, x, y, [width + i - half if i & half else i for i in range(width)])
                rows[r + half] = shuffle(b, x, y, [width + i if i & half else i + half for i in range(width)])
        half //= 2


def call(b, name, result, *arguments):
    """Call of an LLVM intrinsic, whose name ends in the result's type if that is a vector."""
    if isinstance(result, ir.VectorType):
        name += f".v{result.count}f{32 if isinstance(result.element, ir.FloatType) else 64}"
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def fma(b, x, y, z):
    return call(b, "llvm.fmuladd", x.type, x, y, z)


def larger(b, x, y):
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def address(context, b, p_type, p, index=None):
    p = context.make_array(p_type)(context, b, p).data if isinstance(p_type, types.Array) else p
    return p if index is None else b.gep(p, [index])


def load(b, address, n, mask=None):
    vector = ir.VectorType(address.type.pointee, n)
    at, align = b.bitcast(address, vector.as_pointer()), 4 if isinstance(vector.element, ir.FloatType) else 8
    if mask is None:
        return b.load(at, align=align)
    kind = ir.FunctionType(vector, [at.type, I32, mask.type, vector])
    name = f"llvm.masked.load.v{n}f{8 * align}.p0"
    masked = cgutils.get_or_insert_function(b.module, kind, name)
    return b.call(masked, [at, I32(align), mask, ir.Constant(vector, None)])


def store(b, address, x, mask=None):
    at, align = b.bitcast(address, x.type.as_pointer()), 4 if isinstance(x.type.element, ir.FloatType) else 8
    if mask is None:
        b.store(x, at, align=align)
        return
    kind = ir.FunctionType(ir.VoidType(), [x.type, at.type, I32, mask.type])
    name = f"llvm.masked.store.v{x.type.count}f{8 * align}.p0"
    b.call(cgutils.get_or_insert_function(b.module, kind, name), [x, at, I32(align), mask])


def mask(b, count, n, dtype):
    """The first `count` of n lanes, as booleans."""
    integer = ir.IntType(dtype.bitwidth)
    if count.type != integer:
        count = b.trunc(count, integer)
    numbers = ir.Constant(ir.VectorType(integer, n), list(range(n)))
    return b.icmp_signed("<", numbers, splat(b, count, n))


def row_addresses(b, first, ld, last, rows):
    """Addresses of the rows, none beyond the last."""
    for r in range(rows):
        number = ir.Constant(last.type, r)
        inside = b.select(b.icmp_signed("<", number, last), number, last)
        yield b.gep(first, [b.mul(inside, ld)])
