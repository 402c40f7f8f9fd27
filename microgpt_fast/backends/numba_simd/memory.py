"""Vectors and tiles between registers and memory."""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import llvm
from .vec import VECTOR_BYTES, Pointer, Vec, native


@intrinsic
def lanes(typing, p):
    """How many lanes a vector of p's dtype has."""
    size = ir.Constant(ir.IntType(types.intp.bitwidth), native(p.dtype))
    return types.intp(p), lambda context, b, sig, a: size


@intrinsic
def pointer(typing, array, like):
    """The address of an array's first element; of None: the address 0, as a pointer to what `like` holds."""
    dtype = like.dtype if isinstance(array, types.NoneType) else array.dtype

    def emit(context, b, sig, arguments):
        if isinstance(array, types.NoneType):
            return ir.Constant(context.get_value_type(sig.return_type), None)
        return llvm.address(context, b, array, arguments[0])

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
    vec = Vec(p.dtype, native(p.dtype))
    return vec(p), lambda context, b, sig, a: ir.Constant(context.get_value_type(vec), None)


@intrinsic
def lane_numbers(typing, p):
    """The vector 0, 1, 2, ... of p's dtype."""
    vec = Vec(p.dtype, native(p.dtype))
    numbers = [float(i) for i in range(vec.n)]
    return vec(p), lambda context, b, sig, a: ir.Constant(context.get_value_type(vec), numbers)


@intrinsic
def load(typing, p, i):
    """The vector p[i], p[i + 1], ..."""
    vec = Vec(p.dtype, native(p.dtype))

    def emit(context, b, sig, a):
        return llvm.load(b, llvm.address(context, b, p, *a[:2]), vec.n)

    return vec(p, types.intp), emit


@intrinsic
def load_partial(typing, p, i, count):
    """The first `count` lanes of load(p, i); the others are 0, and what lies there is not touched."""
    vec = Vec(p.dtype, native(p.dtype))

    def emit(context, b, sig, a):
        return llvm.load(b, llvm.address(context, b, p, *a[:2]), vec.n, llvm.mask(b, a[2], vec.n, p.dtype))

    return vec(p, types.intp, types.intp), emit


@intrinsic
def store(typing, p, i, x):
    """p[i], p[i + 1], ... = the lanes of x, a vector or a tile."""

    def emit(context, b, sig, a):
        llvm.store(b, llvm.address(context, b, p, *a[:2]), a[2])
        return context.get_dummy_value()

    return types.none(p, types.intp, x), emit


@intrinsic
def store_partial(typing, p, i, x, count):
    """`store` of the first `count` lanes only."""

    def emit(context, b, sig, a):
        llvm.store(b, llvm.address(context, b, p, *a[:2]), a[2], llvm.mask(b, a[3], x.n, p.dtype))
        return context.get_dummy_value()

    return types.none(p, types.intp, x, types.intp), emit


def _tile_type(p, rows):
    return Vec(p.dtype, native(p.dtype) * rows.literal_value)


@intrinsic(prefer_literal=True)
def zero_tile(typing, p, rows):
    """A tile of zeros, of p's dtype, with a constant number of rows."""
    vec = _tile_type(p, rows)
    return vec(p, rows), lambda context, b, sig, a: ir.Constant(context.get_value_type(vec), None)


@intrinsic(prefer_literal=True)
def load_tile(typing, p, ld, last, rows):
    """The tile whose row r is load(p, min(r, last) * ld)."""
    vec, n = _tile_type(p, rows), native(p.dtype)

    def emit(context, b, sig, a):
        first = llvm.address(context, b, p, a[0])
        return llvm.tile(
            b, [llvm.load(b, at, n) for at in llvm.row_addresses(b, first, a[1], a[2], rows.literal_value)]
        )

    return vec(p, types.intp, types.intp, rows), emit


@intrinsic(prefer_literal=True)
def load_tile_partial(typing, p, ld, last, count, rows):
    """`load_tile` of the first `count` lanes of each row; the others are 0, and what lies there is not
    touched."""
    vec, n = _tile_type(p, rows), native(p.dtype)

    def emit(context, b, sig, a):
        first, mask = llvm.address(context, b, p, a[0]), llvm.mask(b, a[3], n, p.dtype)
        addresses = llvm.row_addresses(b, first, a[1], a[2], rows.literal_value)
        return llvm.tile(b, [llvm.load(b, at, n, mask) for at in addresses])

    return vec(p, types.intp, types.intp, types.intp, rows), emit


def _store_rows(context, b, p_type, a, tile, mask=None):
    """Rows in descending order: those beyond the last are stored where it goes, and then overwritten by
    it."""
    n = native(p_type.dtype)
    addresses = list(
        llvm.row_addresses(b, llvm.address(context, b, p_type, a[0]), a[1], a[2], tile.type.count // n)
    )
    for r in reversed(range(len(addresses))):
        llvm.store(b, addresses[r], llvm.row(b, tile, r, n), mask)
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
        return _store_rows(context, b, p, a, a[3], llvm.mask(b, a[4], native(p.dtype), p.dtype))

    return types.none(p, types.intp, types.intp, tile, types.intp), emit


@intrinsic(prefer_literal=True)
def broadcast_column(typing, p, stride, last, rows):
    """The tile with p[min(r, last) * stride] in every lane of row r."""
    vec, n = _tile_type(p, rows), native(p.dtype)

    def emit(context, b, sig, a):
        first = llvm.address(context, b, p, a[0])
        addresses = llvm.row_addresses(b, first, a[1], a[2], rows.literal_value)
        return llvm.tile(b, [llvm.splat(b, b.load(at), n) for at in addresses])

    return vec(p, types.intp, types.intp, rows), emit


@intrinsic(prefer_literal=True)
def broadcast_row(typing, x, rows):
    """The tile with the vector x in every row."""
    vec = Vec(x.dtype, x.n * rows.literal_value)
    numbers = list(range(x.n)) * rows.literal_value
    return vec(x, rows), lambda context, b, sig, a: llvm.shuffle(b, a[0], a[0], numbers)


@intrinsic(prefer_literal=True)
def load_transposed(typing, p, ld, last, count):
    """The square tile whose lane r of row c is p[min(r, last) * ld + c], 0 for c >= count (not touched)."""
    n = native(p.dtype)
    vec = Vec(p.dtype, n * n)

    def emit(context, b, sig, a):
        first, mask = llvm.address(context, b, p, a[0]), llvm.mask(b, a[3], n, p.dtype)
        rows = [llvm.load(b, at, n, mask) for at in llvm.row_addresses(b, first, a[1], a[2], n)]
        llvm.transpose_groups(b, rows, n)
        return llvm.tile(b, rows)

    return vec(p, types.intp, types.intp, types.intp), emit
