"""Rows of a constant width for Numba, for models so narrow that whole rows fit into registers.

`rows_pointer(array, C, D)` is a pointer (numba_simd/) that knows as part of its type, and so as constants
for the compiler, that rows have C elements, in heads of D. What is loaded through it has these shapes:

- a *row* is one Vec of C lanes;
- a *tile* is R rows as one Vec, R such that it fills eight registers where that is possible: as many chains
  of multiply-adds as keep the processor busy;
- *statistics* are one Vec of R lanes, a number for each row of a tile;
- *columns* are D rows as one Vec with the D x D block of each head transposed: column d holds element d of
  every head for D rows, lane = head * D + row. Dot products of these rows with another row, head by head,
  need no sums across lanes (`dot_columns`).

Functions take p, such a pointer, where they cannot tell the shapes from the vectors. An address is p + i.
"""

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from .numba_simd import llvm
from .numba_simd.vec import Pointer, Vec, native


class Rows(Pointer):
    """The Numba type of a pointer to rows of C elements, in heads of D; R rows are a tile."""

    def __init__(self, dtype, C, D):
        super().__init__(dtype)
        self.C, self.D, self.R = C, D, max(1, 8 * native(dtype) // C)
        self.name = f"Rows({dtype}, {C}, {D})"

    @property
    def key(self):  # types with one key are one type
        return self.name

    @property
    def row(self):
        return Vec(self.dtype, self.C)

    @property
    def tile(self):
        return Vec(self.dtype, self.C * self.R)

    @property
    def columns(self):
        return Vec(self.dtype, self.C * self.D)

    @property
    def statistics(self):
        return Vec(self.dtype, self.R)


register_model(Rows)(models.PointerModel)


@intrinsic(prefer_literal=True)
def rows_pointer(typing, array, C, D):
    """The address of an array's first element, as a pointer to rows of C elements in heads of D, two
    constants."""
    kind = Rows(array.dtype, C.literal_value, D.literal_value)
    return kind(array, C, D), lambda context, b, sig, a: llvm.address(context, b, array, a[0])


def _constant_of(attribute, text):
    @intrinsic
    def constant(typing, p):
        number = ir.Constant(ir.IntType(types.intp.bitwidth), getattr(p, attribute))
        return types.intp(p), lambda context, b, sig, a: number

    constant.__doc__ = text
    return constant


row_width = _constant_of("C", "How many elements a row has.")
tile_height = _constant_of("R", "How many rows a tile has.")
head_width = _constant_of("D", "How many elements of a row a head has.")


def _zeros_of(shape, text):
    @intrinsic
    def zeros(typing, p):
        vec = getattr(p, shape)
        return vec(p), lambda context, b, sig, a: ir.Constant(context.get_value_type(vec), None)

    zeros.__doc__ = text
    return zeros


zero_row = _zeros_of("row", "A row of zeros.")
zero_rows = _zeros_of("tile", "A tile of zeros.")
zero_columns = _zeros_of("columns", "Columns of zeros.")


# ---- memory


def _load_of(shape, text):
    @intrinsic
    def load(typing, p):
        vec = getattr(p, shape)
        return vec(p), lambda context, b, sig, a: llvm.load(b, a[0], vec.n)

    load.__doc__ = text
    return load


load_row = _load_of("row", "The row at p.")
load_statistics = _load_of("statistics", "The statistics at p.")


def _addresses(b, first, ld, count):
    return [b.gep(first, [b.mul(ld, ir.Constant(ld.type, i))]) for i in range(count)]


@intrinsic
def load_rows(typing, p, ld):
    """The tile of the rows at p, p + ld, ..."""

    def emit(context, b, sig, a):
        return llvm.tile(b, [llvm.load(b, at, p.C) for at in _addresses(b, *a, p.R)])

    return p.tile(p, types.intp), emit


@intrinsic
def store_rows(typing, p, ld, tile):
    """Row i of the tile to p + i * ld."""

    def emit(context, b, sig, a):
        for i, at in enumerate(_addresses(b, a[0], a[1], p.R)):
            llvm.store(b, at, llvm.row(b, a[2], i, p.C))
        return context.get_dummy_value()

    return types.none(p, types.intp, tile), emit


@intrinsic
def store_rows_transposed(typing, p, ld, tile):
    """Column c of the tile to p + c * ld."""

    def emit(context, b, sig, a):
        rows = [llvm.row(b, a[2], i, p.C) for i in range(p.R)]
        llvm.transpose_groups(b, rows, p.R)
        for c, at in enumerate(_addresses(b, a[0], a[1], p.C)):
            llvm.store(b, at, llvm.row(b, rows[c % p.R], c // p.R, p.R))
        return context.get_dummy_value()

    return types.none(p, types.intp, tile), emit


@intrinsic
def load_column(typing, p, ld):
    """The tile with p[i * ld] in every lane of row i."""

    def emit(context, b, sig, a):
        return llvm.tile(b, [llvm.splat(b, b.load(at), p.C) for at in _addresses(b, *a, p.R)])

    return p.tile(p, types.intp), emit


@intrinsic
def load_columns(typing, p):
    """The columns of the D rows at p, p + C, ..."""

    def emit(context, b, sig, a):
        rows = [llvm.load(b, b.gep(a[0], [ir.Constant(ir.IntType(64), d * p.C)]), p.C) for d in range(p.D)]
        llvm.transpose_groups(b, rows, p.D)
        return llvm.tile(b, rows)

    return p.columns(p), emit


@intrinsic
def store_columns(typing, p, columns):
    """Columns to the D rows at p, p + C, ...: inverts `load_columns`."""

    def emit(context, b, sig, a):
        rows = [llvm.row(b, a[1], d, p.C) for d in range(p.D)]
        llvm.transpose_groups(b, rows, p.D)
        for d, row in enumerate(rows):
            llvm.store(b, b.gep(a[0], [ir.Constant(ir.IntType(64), d * p.C)]), row)
        return context.get_dummy_value()

    return types.none(p, columns), emit


@intrinsic
def load_heads(typing, p):
    """The D rows at p, p + C, ... as they are."""
    return p.columns(p), lambda context, b, sig, a: llvm.load(b, a[0], p.columns.n)


# ---- between shapes


@intrinsic
def repeat(typing, row, like):
    """The row again and again, as many times as make the size of `like`."""
    lanes = list(range(row.n)) * (like.n // row.n)
    return like(row, like), lambda context, b, sig, a: llvm.shuffle(b, a[0], a[0], lanes)


@intrinsic
def spread(typing, statistics, like):
    """The tile, of the size of `like`, with number i in every lane of row i."""
    lanes = [i // (like.n // statistics.n) for i in range(like.n)]
    return like(statistics, like), lambda context, b, sig, a: llvm.shuffle(b, a[0], a[0], lanes)


def _reduced_rows(b, tile, rows, combine):
    """Statistics: each row's lanes combined.

    Two rows become one vector whose lanes belong to the first and the second by turns, two of those one whose
    lanes belong to four rows by turns, and so on; then lanes of the same row are combined.
    """
    width = tile.type.count // rows
    vectors, distance = [llvm.row(b, tile, i, width) for i in range(rows)], 1
    while len(vectors) > 1:
        own = [lane + width * bool(lane & distance) for lane in range(width)]
        other = [lane ^ distance for lane in own]
        pairs = zip(vectors[::2], vectors[1::2])
        vectors = [combine(b, llvm.shuffle(b, x, y, own), llvm.shuffle(b, x, y, other)) for x, y in pairs]
        distance *= 2
    [x] = vectors
    while distance < width:
        x = combine(b, x, llvm.shuffle(b, x, x, [lane ^ distance for lane in range(width)]))
        distance *= 2
    return llvm.shuffle(b, x, x, range(rows))


@intrinsic
def sum_of_rows(typing, p, tile):
    """Statistics: the sum of each row of a tile."""

    def emit(context, b, sig, a):
        return _reduced_rows(b, a[1], p.R, lambda b, x, y: b.fadd(x, y))

    return p.statistics(p, tile), emit


@intrinsic
def max_of_rows(typing, p, tile):
    """Statistics: the largest number of each row of a tile."""
    return p.statistics(p, tile), lambda context, b, sig, a: _reduced_rows(b, a[1], p.R, llvm.larger)


# ---- heads


def _in_heads(b, row, d, D):
    """Element d of every head, in all lanes of the head."""
    return llvm.shuffle(b, row, row, [lane // D * D + d for lane in range(row.type.count)])


@intrinsic
def row_in_head(typing, p):
    """A row with the numbers 0 to D - 1 in every head: which of the D rows a lane of a column belongs to."""
    numbers = [float(lane % p.D) for lane in range(p.C)]
    return p.row(p), lambda context, b, sig, a: ir.Constant(context.get_value_type(p.row), numbers)


@intrinsic
def dot_columns(typing, columns, row):
    """The dot products of the columns' rows with another row, head by head."""
    D = columns.n // row.n

    def emit(context, b, sig, a):
        chains = [None, None]  # so that one multiply-add's latency does not set the pace
        for d in range(D):
            x, y = llvm.row(b, a[0], d, row.n), _in_heads(b, a[1], d, D)
            chains[d % 2] = b.fmul(x, y) if d < 2 else llvm.fma(b, x, y, chains[d % 2])
        return b.fadd(*chains)

    return row(columns, row), emit


@intrinsic
def add_to_columns(typing, columns, x, row):
    """columns + x * row: to the column d is added x times element d of each head of the row."""
    D = columns.n // row.n

    def emit(context, b, sig, a):
        sums = [llvm.fma(b, a[1], _in_heads(b, a[2], d, D), llvm.row(b, a[0], d, row.n)) for d in range(D)]
        return llvm.tile(b, sums)

    return columns(columns, x, row), emit


@intrinsic
def add_heads(typing, total, x, heads):
    """total + the sum over D rows of row d times x's lane d of each head: what `add_to_columns` does, for the
    other of the two."""
    D = heads.n // x.n

    def emit(context, b, sig, a):
        result = a[0]
        for d in range(D):
            result = llvm.fma(b, _in_heads(b, a[1], d, D), llvm.row(b, a[2], d, x.n), result)
        return result

    return total(total, x, heads), emit
