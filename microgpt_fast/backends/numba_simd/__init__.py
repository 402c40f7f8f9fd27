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

from .arithmetic import exp, fma, log, max_lanes, max_rows, maximum, sqrt, sum_lanes, sum_rows, where
from .denormals import denormals_flush, denormals_restore
from .memory import (
    broadcast_column,
    broadcast_row,
    is_null,
    lane_numbers,
    lanes,
    load,
    load_partial,
    load_tile,
    load_tile_partial,
    load_transposed,
    pointer,
    stack,
    store,
    store_partial,
    store_tile,
    store_tile_partial,
    zero_tile,
    zeros,
)
from .vec import VECTOR_BYTES, VECTOR_REGISTERS, X86, Pointer, Vec

__all__ = [
    "VECTOR_BYTES",
    "VECTOR_REGISTERS",
    "X86",
    "Pointer",
    "Vec",
    "broadcast_column",
    "broadcast_row",
    "denormals_flush",
    "denormals_restore",
    "exp",
    "fma",
    "is_null",
    "lane_numbers",
    "lanes",
    "load",
    "load_partial",
    "load_tile",
    "load_tile_partial",
    "load_transposed",
    "log",
    "max_lanes",
    "max_rows",
    "maximum",
    "pointer",
    "sqrt",
    "stack",
    "store",
    "store_partial",
    "store_tile",
    "store_tile_partial",
    "sum_lanes",
    "sum_rows",
    "where",
    "zero_tile",
    "zeros",
]
