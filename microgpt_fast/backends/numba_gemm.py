"""Matrix products from register tiles, for the Numba backend.

C[M, N] (mode)= A B, with A(i, k) = a[i * ai + k * ak]. B lies in panels of two vectors' columns, `panel`
elements apart; B(k, j) of a panel is b[k * ld_b + j], and ld_b = 0 stands for a panel as wide as its
columns, padded to whole vectors. Every element of C is one chain of multiply-adds with k ascending, however
C is cut into tiles.
"""

from .numba_activations import gradient, kept
from .numba_compile import helper, inline
from .numba_simd import (
    VECTOR_BYTES,
    VECTOR_REGISTERS,
    broadcast_column,
    broadcast_row,
    fma,
    lanes,
    load,
    load_partial,
    load_tile,
    load_tile_partial,
    load_transposed,
    stack,
    store_tile,
    store_tile_partial,
    zero_tile,
)


@inline
def padded(size, n):
    """size rounded up to whole vectors"""
    return (size + n - 1) & -n


# what becomes of x = A B; aux is a matrix, for SCALE_ADD a number per row
STORE = 0  # c = x
ADD = 1  # c = c + x
ACTIVATE = 2  # c = what the activation keeps of x
ACTIVATE_GRADIENT = 3  # c = x f'(aux)
SCALE_ADD = 4  # c = c * aux + x

ROWS = 8 if VECTOR_REGISTERS == 32 else 4  # of a tile: two vectors of each leave registers for B
ROW_BLOCK = 96  # rows of A that stay in the second-level cache while the panels of B pass


@helper
def _tile_of_two(mode, activation, last, K, a, ai, ak, b, ld_b, c, ld_c, aux, ld_aux):
    """last + 1 rows of two whole vectors of C"""
    n = lanes(c)
    x = zero_tile(c, ROWS)
    y = x
    for k in range(K):
        element = broadcast_column(a + k * ak, ai, last, ROWS)
        x = fma(element, broadcast_row(load(b, k * ld_b), ROWS), x)
        y = fma(element, broadcast_row(load(b, k * ld_b + n), ROWS), y)
    if mode == ADD:
        x += load_tile(c, ld_c, last, ROWS)
        y += load_tile(c + n, ld_c, last, ROWS)
    elif mode == ACTIVATE:
        x, y = kept(x, activation), kept(y, activation)
    elif mode == ACTIVATE_GRADIENT:
        x = gradient(x, load_tile(aux, ld_aux, last, ROWS), activation)
        y = gradient(y, load_tile(aux + n, ld_aux, last, ROWS), activation)
    elif mode == SCALE_ADD:
        scale = broadcast_column(aux, ld_aux, last, ROWS)
        x = fma(load_tile(c, ld_c, last, ROWS), scale, x)
        y = fma(load_tile(c + n, ld_c, last, ROWS), scale, y)
    store_tile(c, ld_c, last, x)
    store_tile(c + n, ld_c, last, y)


@helper
def _tile_of_one(mode, activation, last, count, K, a, ai, ak, b, ld_b, c, ld_c, aux, ld_aux):
    """last + 1 rows of the first `count` lanes of one vector of C"""
    x = zero_tile(c, ROWS)
    for k in range(K):
        element = broadcast_column(a + k * ak, ai, last, ROWS)
        x = fma(element, broadcast_row(load_partial(b, k * ld_b, count), ROWS), x)
    if mode == ADD:
        x += load_tile_partial(c, ld_c, last, count, ROWS)
    elif mode == ACTIVATE:
        x = kept(x, activation)
    elif mode == ACTIVATE_GRADIENT:
        x = gradient(x, load_tile_partial(aux, ld_aux, last, count, ROWS), activation)
    elif mode == SCALE_ADD:
        x = fma(load_tile_partial(c, ld_c, last, count, ROWS), broadcast_column(aux, ld_aux, last, ROWS), x)
    store_tile_partial(c, ld_c, last, x, count)


@helper
def gemm_aux(mode, activation, M, N, K, a, ai, ak, b, ld_b, panel, c, ld_c, aux, ld_aux):
    """C (mode)= A B; activation is the one of modes that have one, aux a matrix with rows ld_aux apart"""
    n = lanes(c)
    for block in range(0, M, ROW_BLOCK):
        end = min(M, block + ROW_BLOCK)
        b_panel = b
        for j in range(0, N, 2 * n):
            columns = min(2 * n, N - j)
            ld = ld_b if ld_b > 0 else padded(columns, n)
            for i in range(block, end, ROWS):
                last = min(ROWS, end - i) - 1
                a_i, c_i, aux_i = a + i * ai, c + (i * ld_c + j), aux + i * ld_aux
                if mode != SCALE_ADD:
                    aux_i += j
                if columns == 2 * n:
                    _tile_of_two(
                        mode, activation, last, K, a_i, ai, ak, b_panel, ld, c_i, ld_c, aux_i, ld_aux
                    )
                    continue
                for left in range(0, columns, n):
                    b_i, c_left, count = b_panel + left, c_i + left, min(n, columns - left)
                    aux_left = aux_i if mode == SCALE_ADD else aux_i + left
                    _tile_of_one(
                        mode, activation, last, count, K, a_i, ai, ak, b_i, ld, c_left, ld_c, aux_left, ld_aux
                    )
            b_panel += panel


@inline
def gemm(mode, M, N, K, a, ai, ak, b, ld_b, c, ld_c):
    """of a B as it lies in memory, with rows ld_b apart"""
    gemm_aux(mode, 0, M, N, K, a, ai, ak, b, ld_b, 2 * lanes(c), c, ld_c, c, 0)


@helper
def pack_transposed(to, w, ld, O, C):
    """w [O, C] with rows ld apart -> w^T in panels of 2 n columns: panel j holds the columns from 2 n j on,
    row after row; the last panel's rows are padded to whole vectors with numbers that do not matter."""
    n = lanes(to)
    for o in range(0, O, n):
        in_panel = o & (2 * n - 1)
        width = min(2 * n, padded(O - o + in_panel, n))
        column = to + ((o - in_panel) * C + in_panel)
        for c in range(0, C, n):
            count = min(n, C - c)
            block = load_transposed(w + (o * ld + c), ld, min(n, O - o) - 1, count)
            store_tile(column + c * width, width, count - 1, block)


LARGEST_PANEL = 2 * VECTOR_BYTES // 4  # columns, in the dtype with the most lanes
DEPTH = 256  # rows of a panel that is transposed on the stack
DEPTH_SIZE = DEPTH * LARGEST_PANEL


@inline
def gemm_transposed(mode, M, N, K, a, ai, ak, w, ld_w, c, ld_c):
    """C (mode)= A w^T for w [N, K]: sums over K are cut into blocks of DEPTH, the later ones added to the
    first."""
    n = lanes(c)
    panel = stack(c, DEPTH_SIZE)
    for j in range(0, N, 2 * n):
        columns = min(2 * n, N - j)
        for k in range(0, max(K, 1), DEPTH):
            depth = min(DEPTH, K - k)
            pack_transposed(panel, w + (j * ld_w + k), ld_w, columns, depth)
            width = padded(columns, n)
            gemm(ADD if k else mode, M, columns, depth, a + k * ak, ai, ak, panel, width, c + j, ld_c)
