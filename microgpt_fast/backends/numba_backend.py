"""Every kernel of microgpt_fast_kernels.h for Numba: functions to call from Python, or from jitted code of
your own.

Names, arguments and return values are the C ones. Matrices are arrays, of whatever shape, whose first element
is the matrix's: rows are contiguous and ld_* (or the row's length) elements apart. An argument that may be
NULL in C may be None. Nothing is checked. The GIL is released.

The functions are compiled at their first call for a dtype and kept on disk, see `_cache_directory`. All of
them are in this file, because that is all Numba looks at to tell whether what it kept is still good;
numba_simd.py has its part in the directory's name.

Within, matrices are pointers (numba_simd.py), and `n` is the number of lanes of a vector. `_helper` marks
functions that are compiled once and called, `_inline` those that become part of their caller.
"""

import math
import sys
from typing import NamedTuple

from .composed import NORM_EPS, RELU2
from .numba_batch import document_losses, first_bad_document, outside, pack_batch
from .numba_compile import helper, inline, kernel
from .numba_engine import JitEngine
from .numba_simd import (
    VECTOR_BYTES,
    VECTOR_REGISTERS,
    broadcast_column,
    broadcast_row,
    denormals_flush,
    denormals_restore,
    exp,
    fma,
    is_null,
    lane_numbers,
    lanes,
    load,
    load_partial,
    load_tile,
    load_tile_partial,
    load_transposed,
    log,
    max_lanes,
    maximum,
    pointer,
    sqrt,
    stack,
    store,
    store_partial,
    store_tile,
    store_tile_partial,
    sum_lanes,
    where,
    zero_tile,
    zeros,
)

HAS_EXACT = False


@inline
def _padded(size, n):
    """size rounded up to whole vectors"""
    return (size + n - 1) & -n


# ---- matrix products from register tiles
#
# C[M, N] (mode)= A B, with A(i, k) = a[i * ai + k * ak]. B lies in panels of two vectors' columns, `panel`
# elements apart; B(k, j) of a panel is b[k * ld_b + j], and ld_b = 0 stands for a panel as wide as its
# columns, padded to whole vectors. Every element of C is one chain of multiply-adds with k ascending, however
# C is cut into tiles.

# what becomes of x = A B; aux is a matrix, a number a row for SCALE_ADD
STORE = 0  # c = x
ADD = 1  # c = c + x
RELU_STORE = 2  # c = max(x, 0)
RELU_GRADIENT = 3  # c = aux > 0 ? x : 0
RELU2_GRADIENT = 4  # c = 2 max(aux, 0) x
SCALE_ADD = 5  # c = c * aux + x

ROWS = 8 if VECTOR_REGISTERS == 32 else 4  # of a tile: two vectors of each leave registers for B
ROW_BLOCK = 96  # rows of A that stay in the second-level cache while the panels of B pass


@helper
def _tile_of_two(mode, last, K, a, ai, ak, b, ld_b, c, ld_c, aux, ld_aux):
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
    elif mode == RELU_STORE:
        x, y = maximum(x, 0), maximum(y, 0)
    elif mode == RELU_GRADIENT:
        x = where(load_tile(aux, ld_aux, last, ROWS) > 0, x, 0)
        y = where(load_tile(aux + n, ld_aux, last, ROWS) > 0, y, 0)
    elif mode == RELU2_GRADIENT:
        x *= 2 * maximum(load_tile(aux, ld_aux, last, ROWS), 0)
        y *= 2 * maximum(load_tile(aux + n, ld_aux, last, ROWS), 0)
    elif mode == SCALE_ADD:
        scale = broadcast_column(aux, ld_aux, last, ROWS)
        x = fma(load_tile(c, ld_c, last, ROWS), scale, x)
        y = fma(load_tile(c + n, ld_c, last, ROWS), scale, y)
    store_tile(c, ld_c, last, x)
    store_tile(c + n, ld_c, last, y)


@helper
def _tile_of_one(mode, last, count, K, a, ai, ak, b, ld_b, c, ld_c, aux, ld_aux):
    """last + 1 rows of the first `count` lanes of one vector of C"""
    x = zero_tile(c, ROWS)
    for k in range(K):
        element = broadcast_column(a + k * ak, ai, last, ROWS)
        x = fma(element, broadcast_row(load_partial(b, k * ld_b, count), ROWS), x)
    if mode == ADD:
        x += load_tile_partial(c, ld_c, last, count, ROWS)
    elif mode == RELU_STORE:
        x = maximum(x, 0)
    elif mode == RELU_GRADIENT:
        x = where(load_tile_partial(aux, ld_aux, last, count, ROWS) > 0, x, 0)
    elif mode == RELU2_GRADIENT:
        x *= 2 * maximum(load_tile_partial(aux, ld_aux, last, count, ROWS), 0)
    elif mode == SCALE_ADD:
        x = fma(load_tile_partial(c, ld_c, last, count, ROWS), broadcast_column(aux, ld_aux, last, ROWS), x)
    store_tile_partial(c, ld_c, last, x, count)


@helper
def _gemm_aux(mode, M, N, K, a, ai, ak, b, ld_b, panel, c, ld_c, aux, ld_aux):
    n = lanes(c)
    for block in range(0, M, ROW_BLOCK):
        end = min(M, block + ROW_BLOCK)
        b_panel = b
        for j in range(0, N, 2 * n):
            columns = min(2 * n, N - j)
            ld = ld_b if ld_b > 0 else _padded(columns, n)
            for i in range(block, end, ROWS):
                last = min(ROWS, end - i) - 1
                a_i, c_i, aux_i = a + i * ai, c + (i * ld_c + j), aux + i * ld_aux
                if mode != SCALE_ADD:
                    aux_i += j
                if columns == 2 * n:
                    _tile_of_two(mode, last, K, a_i, ai, ak, b_panel, ld, c_i, ld_c, aux_i, ld_aux)
                    continue
                for left in range(0, columns, n):
                    b_i, c_left, count = b_panel + left, c_i + left, min(n, columns - left)
                    aux_left = aux_i if mode == SCALE_ADD else aux_i + left
                    _tile_of_one(mode, last, count, K, a_i, ai, ak, b_i, ld, c_left, ld_c, aux_left, ld_aux)
            b_panel += panel


@inline
def _gemm(mode, M, N, K, a, ai, ak, b, ld_b, c, ld_c):
    """of a B as it lies in memory, with rows ld_b apart"""
    _gemm_aux(mode, M, N, K, a, ai, ak, b, ld_b, 2 * lanes(c), c, ld_c, c, 0)


@helper
def _pack_transposed(to, w, ld, O, C):
    """w [O, C] with rows ld apart -> w^T in panels of 2 n columns: panel j holds the columns from 2 n j on,
    row after row; the last panel's rows are padded to whole vectors with numbers that do not matter."""
    n = lanes(to)
    for o in range(0, O, n):
        in_panel = o & (2 * n - 1)
        width = min(2 * n, _padded(O - o + in_panel, n))
        column = to + ((o - in_panel) * C + in_panel)
        for c in range(0, C, n):
            count = min(n, C - c)
            block = load_transposed(w + (o * ld + c), ld, min(n, O - o) - 1, count)
            store_tile(column + c * width, width, count - 1, block)


LARGEST_PANEL = 2 * VECTOR_BYTES // 4  # columns, in the dtype with the most lanes
DEPTH = 256  # rows of a panel that is transposed on the stack
DEPTH_SIZE = DEPTH * LARGEST_PANEL


@inline
def _gemm_transposed(mode, M, N, K, a, ai, ak, w, ld_w, c, ld_c):
    """C (mode)= A w^T for w [N, K]: sums over K are cut into blocks of DEPTH, the later ones added to the
    first."""
    n = lanes(c)
    panel = stack(c, DEPTH_SIZE)
    for j in range(0, N, 2 * n):
        columns = min(2 * n, N - j)
        for k in range(0, max(K, 1), DEPTH):
            depth = min(DEPTH, K - k)
            _pack_transposed(panel, w + (j * ld_w + k), ld_w, columns, depth)
            width = _padded(columns, n)
            _gemm(ADD if k else mode, M, columns, depth, a + k * ak, ai, ak, panel, width, c + j, ld_c)


@kernel
def gemm_nn(c, a, b, M, N, K, ld_c, ld_a, ld_b, accumulate):
    # c (+)= a b
    c, a, b = pointer(c, c), pointer(a, a), pointer(b, b)
    _gemm(ADD if accumulate else STORE, M, N, K, a, ld_a, 1, b, ld_b, c, ld_c)


@kernel
def gemm_nt(c, a, b, M, N, K, ld_c, ld_a, ld_b, accumulate):
    # c (+)= a b^T
    c, a, b = pointer(c, c), pointer(a, a), pointer(b, b)
    _gemm_transposed(ADD if accumulate else STORE, M, N, K, a, ld_a, 1, b, ld_b, c, ld_c)


@kernel
def gemm_tn(c, a, b, M, N, K, ld_c, ld_a, ld_b, accumulate):
    # c (+)= a^T b
    c, a, b = pointer(c, c), pointer(a, a), pointer(b, b)
    _gemm(ADD if accumulate else STORE, M, N, K, a, 1, ld_a, b, ld_b, c, ld_c)


# ---- embedding


@inline
def _add_rows(to, a, b, C):
    n = lanes(to)
    for c in range(0, C, n):
        count = min(n, C - c)
        store_partial(to, c, load_partial(a, c, count) + load_partial(b, c, count), count)


@kernel
def embedding_forward(x, tokens, positions, wte, wpe, N, C, V, T):
    # x_i = wte[token_i] + wpe[position_i]
    tokens, positions = pointer(tokens, tokens), pointer(positions, positions)
    x, wte, wpe = pointer(x, x), pointer(wte, x), pointer(wpe, x)
    for i in range(N):
        if outside(tokens, i, V) or outside(positions, i, T):
            return i
    for i in range(N):
        _add_rows(x + i * C, wte + tokens[i] * C, wpe + positions[i] * C, C)
    return -1


@kernel
def embedding_backward(dwte, dwpe, dx, tokens, positions, N, C, V, T):
    # dwte[token_i] += dx_i, dwpe[position_i] += dx_i
    tokens, positions = pointer(tokens, tokens), pointer(positions, positions)
    dwte, dwpe, dx = pointer(dwte, dx), pointer(dwpe, dx), pointer(dx, dx)
    for i in range(N):
        if outside(tokens, i, V) or outside(positions, i, T):
            return i
    for i in range(N):
        token, position = dwte + tokens[i] * C, dwpe + positions[i] * C
        _add_rows(token, token, dx + i * C, C)
        _add_rows(position, position, dx + i * C, C)
    return -1


# ---- rmsnorm


@inline
def _dot_row(a, b, C):
    """sum over C of a * b; two chains, so that one addition's latency does not set the pace"""
    n = lanes(a)
    even = odd = zeros(a)
    whole = C & -(2 * n)
    for c in range(0, whole, 2 * n):
        even = fma(load(a, c), load(b, c), even)
        odd = fma(load(a, c + n), load(b, c + n), odd)
    for c in range(whole, C, n):
        count = min(n, C - c)
        even = fma(load_partial(a, c, count), load_partial(b, c, count), even)
    return sum_lanes(even + odd)


@helper
def _rmsnorm_rows(y, ld_y, rstd, x, ld_x, gain, N, C, eps):
    """y = x * rstd (* gain), rstd = (mean(x^2) + eps)^(-1/2); y may be x"""
    n = lanes(x)
    for i in range(N):
        row, y_row = x + i * ld_x, y + i * ld_y
        r = (1 / sqrt(zeros(x) + (_dot_row(row, row, C) / C + eps)))[0]
        rstd[i] = r
        for c in range(0, C, n):
            count = min(n, C - c)
            z = load_partial(row, c, count) * r
            if not is_null(gain):
                z *= load_partial(gain, c, count)
            store_partial(y_row, c, z, count)


@helper
def _rmsnorm_rows_backward(dx, base, dy, x, normalised, gain, rstd, ld, N, C):
    """dx (+ base) = rstd * g - x * factor * sum(x * g) / C, g = dy (* gain), of rows ld apart

    x is the input and factor = rstd^3; or x is the normalised output and factor = rstd. base may be 0, or dx.
    """
    n = lanes(x)
    for i in range(N):
        row, dy_row, dx_row, base_row = x + i * ld, dy + i * ld, dx + i * ld, base + i * ld
        if is_null(gain):
            total = _dot_row(dy_row, row, C)
        else:
            product = zeros(x)
            for c in range(0, C, n):
                count = min(n, C - c)
                g = load_partial(dy_row, c, count) * load_partial(gain, c, count)
                product = fma(g, load_partial(row, c, count), product)
            total = sum_lanes(product)
        r = rstd[i]
        factor = total * (r if normalised else r * r * r) / C
        for c in range(0, C, n):
            count = min(n, C - c)
            g = load_partial(dy_row, c, count)
            if not is_null(gain):
                g *= load_partial(gain, c, count)
            d = g * r - load_partial(row, c, count) * factor
            if not is_null(base):
                d += load_partial(base_row, c, count)
            store_partial(dx_row, c, d, count)


@kernel
def rmsnorm_forward(y, rstd, x, gain, N, C, eps):
    # y = x * rstd (* gain), rstd = (mean(x^2) + eps)^(-1/2)
    y, rstd, gain, x = pointer(y, x), pointer(rstd, x), pointer(gain, x), pointer(x, x)
    _rmsnorm_rows(y, C, rstd, x, C, gain, N, C, eps)


@kernel
def rmsnorm_backward(dx, dgain, dy, x, gain, rstd, N, C, accumulate_dx):
    # g = dy (* gain), dx = rstd * g - x * rstd^3 / C * sum(x * g), dgain += sum over rows of dy * x * rstd
    dx, dgain, dy, gain = pointer(dx, x), pointer(dgain, x), pointer(dy, x), pointer(gain, x)
    rstd, nothing, x = pointer(rstd, x), pointer(None, x), pointer(x, x)
    n = lanes(x)
    _rmsnorm_rows_backward(dx, dx if accumulate_dx else nothing, dy, x, False, gain, rstd, C, N, C)
    if not is_null(dgain):
        for i in range(N):
            for c in range(0, C, n):
                count = min(n, C - c)
                d = load_partial(dy, i * C + c, count) * load_partial(x, i * C + c, count) * rstd[i]
                store_partial(dgain, c, load_partial(dgain, c, count) + d, count)


# ---- linear


@kernel
def linear_forward(y, x, w, N, C, O):
    # y = x w^T
    y, x, w = pointer(y, y), pointer(x, x), pointer(w, w)
    _gemm_transposed(STORE, N, O, C, x, C, 1, w, C, y, O)


@kernel
def linear_backward(dx, dw, dy, x, w, N, C, O, accumulate_dx):
    # dx = dy w, dw += dy^T x
    dx, dw, dy, x, w = pointer(dx, dy), pointer(dw, dy), pointer(dy, dy), pointer(x, x), pointer(w, w)
    if not is_null(dx):
        _gemm(ADD if accumulate_dx else STORE, N, C, O, dy, O, 1, w, C, dx, C)
    if not is_null(dw):
        _gemm(ADD, O, C, N, dy, 1, O, x, C, dw, C)


# ---- attention
#
# In blocks of one vector of queries and KEYS keys on the stack: memory does not grow with the length
# (streaming softmax: Dao et al. 2022, arXiv:2205.14135). Score blocks are kept transposed, s[key][query]: a
# query is a lane, and the softmax over keys needs no sums across lanes. Blocks lie at fixed places of their
# document, so that a row's bits depend on its own document alone.

KEYS = 64
HEAD_DEPTH = 128  # of a head's width that is transposed at a time
MOST_LANES = VECTOR_BYTES // 4
SCORES_SIZE = KEYS * MOST_LANES
TRANSPOSED_SIZE = HEAD_DEPTH * MOST_LANES


@inline
def _score_block(block, transposed, queries, ld_queries, rows, keys_of, ld_keys, keys, D, scale, keep):
    """block [keys, n] = keys_of times the scaled queries, both D deep. `transposed` [depth, n], the queries,
    is filled unless it is to be kept, and reaches as far as D."""
    n = lanes(block)
    for d in range(0, D, HEAD_DEPTH):
        depth = min(HEAD_DEPTH, D - d)
        if not keep or D > HEAD_DEPTH:
            for c in range(0, depth, n):
                count = min(n, depth - c)
                tile = load_transposed(queries + (d + c), ld_queries, rows - 1, count)
                store_tile(transposed + c * n, n, count - 1, tile * scale)
        _gemm(ADD if d else STORE, keys, n, depth, keys_of + d, ld_keys, 1, transposed, n, block, n)


@inline
def _mask_scores(s, first_query, first_key, keys, slope):
    """s -= slope * (query - key); keys after the query become -infinity"""
    n = lanes(s)
    for i in range(0 if slope != 0 else max(0, first_query - first_key), keys):
        distance = lane_numbers(s) + (first_query - first_key - i)
        store(s, i * n, where(distance < 0, -math.inf, load(s, i * n) - slope * distance))


@helper
def _attention_head(o, ld_o, lse, H, q, k, v, ld, T, D, scale, slope):
    """One head of one document of T rows: o [T, D] with rows ld_o apart, lse with rows H apart; q, k, v ld
    apart.

    The streaming softmax, a block of keys after another. With m' = max(m, max over the block's keys of s): p
    = exp(s - m'), total = total exp(m - m') + sum p, and what was summed before is to be scaled by exp(m -
    m'). With the last block everything is divided by the total.
    """
    n = lanes(o)
    s, transposed, scales = stack(o, SCORES_SIZE), stack(o, TRANSPOSED_SIZE), stack(o, MOST_LANES)
    for first in range(0, T, n):
        rows = min(n, T - first)
        end = first + rows
        largest, total = zeros(o) - math.inf, zeros(o)
        for key in range(0, end, KEYS):
            keys = min(KEYS, end - key)
            _score_block(s, transposed, q + first * ld, ld, rows, k + key * ld, ld, keys, D, scale, key > 0)
            if key + keys > first or slope != 0:
                _mask_scores(s, first, key, keys, slope)
            m, added = largest, zeros(o)
            for i in range(keys):
                m = maximum(load(s, i * n), m)
            for i in range(keys):
                p = exp(load(s, i * n) - m)
                store(s, i * n, p)
                added += p
            rescale = exp(largest - m)
            total = fma(total, rescale, added)
            largest = m
            if key + keys == end:
                inverse = 1 / total
                for i in range(keys):
                    store(s, i * n, load(s, i * n) * inverse)
                rescale *= inverse
            store(scales, 0, rescale)
            mode, out = SCALE_ADD if key else STORE, o + first * ld_o
            _gemm_aux(mode, rows, D, keys, s, 1, n, v + key * ld, ld, 2 * n, out, ld_o, scales, 1)
        statistic = largest + log(total)
        for i in range(rows):
            lse[(first + i) * H] = statistic[i]


@helper
def _attention_head_backward(dq, dk, dv, delta, d_o, o, ld_o, lse, H, q, k, v, ld, T, D, scale, slope):
    """delta = row sums of d_o * o, with rows H apart; dq, dk, dv as q, k, v"""
    n = lanes(o)
    p, ds = stack(o, SCORES_SIZE), stack(o, SCORES_SIZE)
    query_t, output_t = stack(o, TRANSPOSED_SIZE), stack(o, TRANSPOSED_SIZE)
    lse_of, delta_of = stack(o, MOST_LANES), stack(o, MOST_LANES)
    for i in range(T):
        for d in range(0, D, n):
            store_partial(dk, i * ld + d, zeros(o), min(n, D - d))
            store_partial(dv, i * ld + d, zeros(o), min(n, D - d))
    store(lse_of, 0, zeros(o))
    store(delta_of, 0, zeros(o))
    for first in range(0, T, n):
        rows = min(n, T - first)
        at, out = first * ld, first * ld_o
        for i in range(rows):
            delta_of[i] = _dot_row(d_o + (out + i * ld_o), o + (out + i * ld_o), D)
            delta[(first + i) * H] = delta_of[i]
            lse_of[i] = lse[(first + i) * H]
        minus, less = load(lse_of, 0), load(delta_of, 0)
        for key in range(0, first + rows, KEYS):
            keys, at_key = min(KEYS, first + rows - key), key * ld
            _score_block(p, query_t, q + at, ld, rows, k + at_key, ld, keys, D, scale, key > 0)
            _score_block(ds, output_t, d_o + out, ld_o, rows, v + at_key, ld, keys, D, 1.0, key > 0)
            if key + keys > first or slope != 0:
                _mask_scores(p, first, key, keys, slope)
            # P^T = exp(S^T - lse), dS^T = scale P^T (dP^T - delta)
            for i in range(keys):
                x = exp(load(p, i * n) - minus)
                store(p, i * n, x)
                store(ds, i * n, scale * x * (load(ds, i * n) - less))
            _gemm(ADD, keys, D, rows, p, n, 1, d_o + out, ld_o, dv + at_key, ld)
            _gemm(ADD, keys, D, rows, ds, n, 1, q + at, ld, dk + at_key, ld)
            _gemm(ADD if key else STORE, rows, D, keys, ds, 1, n, k + at_key, ld, dq + at, ld)


@helper
def _attention_head_decode(o, q, k, v, ld, T, D, scale, slope):
    """o [D] = sum_j softmax(scale q . k_j - slope (T - 1 - j))_j v_j for one query and T keys and values, ld
    apart"""
    n = lanes(o)
    s = stack(o, KEYS)
    largest, total = -math.inf, 0.0
    for key in range(0, T, KEYS):
        keys = min(KEYS, T - key)
        m = largest
        for i in range(keys):
            s[i] = scale * _dot_row(q, k + (key + i) * ld, D) - slope * (T - 1 - key - i)
            m = max(m, s[i])
        added = zeros(o)
        for i in range(0, keys, n):
            count = min(n, keys - i)
            store_partial(s, i, exp(load_partial(s, i, count) - m), count)
            added += load_partial(s, i, count)
        factor = math.exp(largest - m)
        total = total * factor + sum_lanes(added)
        largest = m
        for d in range(0, D, n):
            count = min(n, D - d)
            x = load_partial(o, d, count) * factor if key else zeros(o)
            for i in range(keys):
                x = fma(load_partial(v, (key + i) * ld + d, count), s[i], x)
            store_partial(o, d, x, count)
    for d in range(0, D, n):
        count = min(n, D - d)
        store_partial(o, d, load_partial(o, d, count) / total, count)


@inline
def _slope_of(slopes, h):
    return 0.0 if is_null(slopes) else float(slopes[h])


@kernel
def attention_forward(o, lse, q, k, v, ld_o, ld_qkv, cu_seqlens, B, H, D, scale, slopes):
    # p = softmax(s), o_i = sum_j p[i, j] v_j, lse_i = log sum_j exp s[i, j]
    slopes, cu_seqlens = pointer(slopes, o), pointer(cu_seqlens, cu_seqlens)
    lse, q, k, v, o = pointer(lse, o), pointer(q, o), pointer(k, o), pointer(v, o), pointer(o, o)
    for b in range(B):
        first, T = cu_seqlens[b], cu_seqlens[b + 1] - cu_seqlens[b]
        for h in range(H):
            at, out = first * ld_qkv + h * D, first * ld_o + h * D
            _attention_head(
                o + out, ld_o, lse + (first * H + h), H, q + at, k + at, v + at, ld_qkv, T, D, scale,
                _slope_of(slopes, h),
            )  # fmt: skip


@kernel
def attention_backward(
    dq, dk, dv, delta, d_o, o, lse, q, k, v, ld_o, ld_qkv, cu_seqlens, B, H, D, scale, slopes
):  # fmt: skip
    # delta_i = do_i . o_i, ds[i, j] = p[i, j] * (do_i . v_j - delta_i)
    # dq_i = scale * sum_j ds[i, j] k_j, dk_j = scale * sum_i ds[i, j] q_i, dv_j = sum_i p[i, j] do_i
    slopes, cu_seqlens = pointer(slopes, o), pointer(cu_seqlens, cu_seqlens)
    dq, dk, dv = pointer(dq, o), pointer(dk, o), pointer(dv, o)
    delta, d_o = pointer(delta, o), pointer(d_o, o)
    lse, q, k, v, o = pointer(lse, o), pointer(q, o), pointer(k, o), pointer(v, o), pointer(o, o)
    for b in range(B):
        first, T = cu_seqlens[b], cu_seqlens[b + 1] - cu_seqlens[b]
        for h in range(H):
            at, out, row = first * ld_qkv + h * D, first * ld_o + h * D, first * H + h
            _attention_head_backward(
                dq + at, dk + at, dv + at, delta + row, d_o + out, o + out, ld_o, lse + row, H,
                q + at, k + at, v + at, ld_qkv, T, D, scale, _slope_of(slopes, h),
            )  # fmt: skip


@kernel
def attention_decode(o, q, k_cache, v_cache, lengths, B, T_max, H, D, scale, slopes):
    # attention_forward for the last of lengths[b] positions
    slopes, lengths = pointer(slopes, o), pointer(lengths, lengths)
    q, k, v, o = pointer(q, o), pointer(k_cache, o), pointer(v_cache, o), pointer(o, o)
    for b in range(B):
        for h in range(H):
            row, cache = (b * H + h) * D, (b * T_max * H + h) * D
            slope = _slope_of(slopes, h)
            _attention_head_decode(
                o + row, q + row, k + cache, v + cache, H * D, lengths[b], D, scale, slope
            )


# ---- mlp

MLP_ROWS, MLP_COLUMNS = 64, 128  # a block of f(h) on the stack
MLP_SIZE = MLP_ROWS * MLP_COLUMNS


@inline
def _activate(to, ld_to, h, ld_h, rows, columns, activation):
    """to = f(h)"""
    n = lanes(to)
    for i in range(rows):
        for j in range(0, columns, n):
            count = min(n, columns - j)
            a = maximum(load_partial(h, i * ld_h + j, count), 0)
            store_partial(to, i * ld_to + j, a * a if activation == RELU2 else a, count)


@kernel
def mlp_forward(y, h, x, w1, w2, N, C, F, activation):
    # h = x w1^T, y = f(h) w2^T
    y, h, x, w1, w2 = pointer(y, x), pointer(h, x), pointer(x, x), pointer(w1, x), pointer(w2, x)
    a = stack(x, MLP_SIZE)
    _gemm_transposed(STORE, N, F, C, x, C, 1, w1, C, h, F)
    for i in range(0, N, MLP_ROWS):
        rows = min(MLP_ROWS, N - i)
        for j in range(0, max(F, 1), MLP_COLUMNS):
            columns = min(MLP_COLUMNS, F - j)
            _activate(a, columns, h + (i * F + j), F, rows, columns, activation)
            mode = ADD if j else STORE
            _gemm_transposed(mode, rows, C, columns, a, columns, 1, w2 + j, F, y + i * C, C)


@kernel
def mlp_backward(dx, dw1, dw2, dh, dy, h, x, w1, w2, N, C, F, activation):
    # dh = (dy w2) f'(h), dx = dh w1, dw1 += dh^T x, dw2 += dy^T f(h)
    dx, dw1, dw2, dh, dy = pointer(dx, x), pointer(dw1, x), pointer(dw2, x), pointer(dh, x), pointer(dy, x)
    h, w1, w2, x = pointer(h, x), pointer(w1, x), pointer(w2, x), pointer(x, x)
    n = lanes(x)
    a = stack(x, MLP_SIZE)
    mode = RELU2_GRADIENT if activation == RELU2 else RELU_GRADIENT
    _gemm_aux(mode, N, F, C, dy, C, 1, w2, F, 2 * n, dh, F, h, F)
    _gemm(STORE, N, C, F, dh, F, 1, w1, C, dx, C)
    _gemm(ADD, F, C, N, dh, 1, F, x, C, dw1, C)
    for i in range(0, N, MLP_ROWS):
        rows = min(MLP_ROWS, N - i)
        for j in range(0, F, MLP_COLUMNS):
            columns = min(MLP_COLUMNS, F - j)
            _activate(a, columns, h + (i * F + j), F, rows, columns, activation)
            _gemm(ADD, C, columns, rows, dy + i * C, 1, C, a, columns, dw2 + j, F)


# ---- cross entropy


@inline
def _exp_lanes(row, j, shift, V):
    """exp(row[j] - shift) and so on, 0 beyond V"""
    left = V - j
    e = exp(load_partial(row, j, min(lanes(row), left)) - shift)
    return where(lane_numbers(row) < left, e, 0)


@inline
def _largest_of_row(row, V):
    n = lanes(row)
    largest = zeros(row) - math.inf
    for j in range(0, V & -n, n):
        largest = maximum(load(row, j), largest)
    if V & (n - 1):
        left = V & (n - 1)
        rest = load_partial(row, V - left, left)
        largest = maximum(where(lane_numbers(row) < left, rest, -math.inf), largest)
    return max_lanes(largest)


@inline
def _log(number, like):
    return log(zeros(like) + number)[0]


@inline
def _first_bad_target(targets, N, V):
    for i in range(N):
        if outside(targets, i, V):
            return i
    return -1


@kernel
def cross_entropy_forward(losses, lse, logits, targets, N, V):
    # losses_i = lse_i - logits[i, target_i], lse_i = log sum_j exp logits[i, j]
    losses, lse, targets = pointer(losses, logits), pointer(lse, logits), pointer(targets, targets)
    logits = pointer(logits, logits)
    bad = _first_bad_target(targets, N, V)
    if bad >= 0:
        return bad
    n = lanes(logits)
    for i in range(N):
        row = logits + i * V
        largest, total = _largest_of_row(row, V), zeros(logits)
        for j in range(0, V, n):
            total += _exp_lanes(row, j, largest, V)
        lse[i] = largest + _log(sum_lanes(total), logits)
        losses[i] = lse[i] - row[targets[i]]
    return -1


@kernel
def cross_entropy_backward(dlogits, dlosses, lse, logits, targets, N, V):
    # dlogits[i, j] = dlosses_i * (exp(logits[i, j] - lse_i) - (j == target_i))
    dlogits, dlosses, lse = pointer(dlogits, logits), pointer(dlosses, logits), pointer(lse, logits)
    targets, logits = pointer(targets, targets), pointer(logits, logits)
    bad = _first_bad_target(targets, N, V)
    if bad >= 0:
        return bad
    n = lanes(logits)
    for i in range(N):
        row, out = logits + i * V, dlogits + i * V
        for j in range(0, V, n):
            store_partial(out, j, _exp_lanes(row, j, lse[i], V) * dlosses[i], min(n, V - j))
        out[targets[i]] -= dlosses[i]
    return -1


# ---- Adam


@inline
def _adam_vector(p, m, v, g, i, count, beta1, beta2, rate, epsilon, keep):
    first = fma(load_partial(m, i, count), beta1, g * (1 - beta1))
    second = fma(load_partial(v, i, count), beta2, g * g * (1 - beta2))
    store_partial(m, i, first, count)
    store_partial(v, i, second, count)
    step = first * rate / (sqrt(second) + epsilon)
    store_partial(p, i, load_partial(p, i, count) * keep - step, count)


@helper
def _adam(p, m, v, g, size, lr, beta1, beta2, eps, weight_decay, step):
    """p = p (1 - lr weight_decay) - rate m / (sqrt(v) + epsilon): the corrections 1 - beta^step of both
    moments are in rate and epsilon"""
    n = lanes(p)
    root = math.sqrt(1 - beta2**step)
    rate, epsilon, keep = lr * root / (1 - beta1**step), eps * root, 1 - lr * weight_decay
    for i in range(0, size, n):
        count = min(n, size - i)
        _adam_vector(p, m, v, load_partial(g, i, count), i, count, beta1, beta2, rate, epsilon, keep)


@kernel
def adamw_step(p, m, v, g, n, lr, beta1, beta2, eps, weight_decay, step):
    # m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2
    # p -= lr * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay * p)
    p, m, v, g = pointer(p, g), pointer(m, g), pointer(v, g), pointer(g, g)
    _adam(p, m, v, g, n, lr, beta1, beta2, eps, weight_decay, step)


# ---- the whole model
#
#     x = rms(wte[token] + wpe[position])
#     each layer:  x = x + attention(rms(x) wqkv^T) wo^T,  x = x + f(rms(x) fc1^T) fc2^T
#     logits = x lm_head^T
#
# Parameters, gradients and moments are flat, in order: wte [V, C], wpe [T, C], lm_head [V, C], then for each
# layer wq, wk, wv, wo [C, C], fc1 [F, C], fc2 [C, F]. Document i of a batch reads tokens[starts[i]] ..
# tokens[starts[i] + lengths[i]]: each but the last is an input, each but the first a target.


class Layout(NamedTuple):
    """Sizes of a model, and where its parts lie in the workspaces `work` (of reals) and `rows` (of int32)."""

    L: int
    C: int
    F: int
    H: int
    D: int
    V: int
    T: int
    activation: int
    # rows of activations: their lengths, padded to whole vectors
    ld_c: int
    ld_3c: int
    ld_f: int
    ld_v: int
    # parameters: the first layer's, and the size of a layer
    w_layer: int
    w_size: int
    # packed transposes of lm_head, and from the first layer on of each layer's wqkv, wo, fc1, fc2
    packed: int
    packed_wo: int
    packed_fc1: int
    packed_fc2: int
    packed_layer: int
    packed_size: int
    # activations: x, embedding and loss; from the first layer on each layer's
    x: int
    h0: int
    rstd0: int
    logits: int
    row_loss: int
    row_weight: int
    layer: int
    layer_size: int
    h1: int
    rstd1: int
    qkv: int
    o: int
    lse: int
    h2: int
    rstd2: int
    r: int
    a: int
    # gradients
    dx: int
    dx1: int
    dh: int
    df: int
    d_o: int
    dqkv: int
    delta: int
    grads: int
    # of int32
    tokens: int
    targets: int
    positions: int
    cu_seqlens: int


def gpt_layout(L, C, H, V, T, activation, itemsize, N, B):
    """The layout for batches of up to B documents with N rows; and the sizes of `work` and `rows`."""
    n, F = VECTOR_BYTES // itemsize, 4 * C

    def padded(size):
        return -(-size // n) * n

    at = dict(L=L, C=C, F=F, H=H, D=C // H, V=V, T=T, activation=activation)
    at |= dict(ld_c=padded(C), ld_3c=padded(3 * C), ld_f=padded(F), ld_v=padded(V))
    at |= dict(w_layer=(2 * V + T) * C, w_size=4 * C * C + 2 * F * C)
    at["packed_wo"] = padded(3 * C) * C
    at["packed_fc1"] = at["packed_wo"] + padded(C) * C
    at["packed_fc2"] = at["packed_fc1"] + padded(F) * C
    at["packed_size"] = at["packed_fc2"] + padded(C) * F

    def place(first, sizes):
        for name, size in sizes.items():
            at[name] = first
            first += -(-size // 16) * 16  # the workspace begins at a cache line, and so does each part
        return first

    c, f = N * at["ld_c"], N * at["ld_f"]
    qkv, a = N * at["ld_3c"], f if activation == RELU2 else 0
    of_layer = dict(h1=c, rstd1=N, qkv=qkv, o=c, lse=N * H, h2=c, rstd2=N, r=f, a=a)
    at["layer_size"] = place(0, of_layer)
    size = place(
        0,
        dict(
            packed=padded(V) * C, packed_layer=L * at["packed_size"], x=c, h0=c, rstd0=N,
            logits=N * at["ld_v"], row_loss=N, row_weight=N, layer=L * at["layer_size"], dx=c, dx1=c, dh=c,
            df=f, d_o=c, dqkv=qkv, delta=N * H, grads=at["w_layer"] + L * at["w_size"],
        ),
    )  # fmt: skip
    if activation != RELU2:
        at["a"] = at["r"]
    rows = place(0, dict(tokens=N, targets=N, positions=N, cu_seqlens=B + 1))
    return Layout(**at), size, rows


@inline
def _pack_weights(w, s, at):
    """Every weight's transpose, for the forward pass"""
    C, F = at.C, at.F
    _pack_transposed(s + at.packed, w + (at.V + at.T) * C, C, at.V, C)
    for layer in range(at.L):
        w_layer = w + (at.w_layer + layer * at.w_size)
        packed = s + (at.packed_layer + layer * at.packed_size)
        _pack_transposed(packed, w_layer, C, 3 * C, C)
        _pack_transposed(packed + at.packed_wo, w_layer + 3 * C * C, C, C, C)
        _pack_transposed(packed + at.packed_fc1, w_layer + 4 * C * C, C, F, C)
        _pack_transposed(packed + at.packed_fc2, w_layer + (4 * C * C + F * C), F, C, F)


@inline
def _times_transposed(mode, rows, O, K, x, ld_x, packed, y, ld_y):
    """y [rows, O] (mode)= x w^T, from w's packed transpose"""
    _gemm_aux(mode, rows, _padded(O, lanes(y)), K, x, ld_x, 1, packed, 0, 2 * lanes(y) * K, y, ld_y, y, 0)


@inline
def _embed_rows(w, s, tokens, positions, first, rows, at):
    C, ld = at.C, at.ld_c
    x, h0 = s + (at.x + first * ld), s + (at.h0 + first * ld)
    wpe = w + at.V * C
    for i in range(rows):
        _add_rows(x + i * ld, w + tokens[first + i] * C, wpe + positions[first + i] * C, C)
    _rmsnorm_rows(h0, ld, s + (at.rstd0 + first), x, ld, pointer(None, s), rows, C, NORM_EPS)
    for i in range(0, rows * ld, lanes(s)):
        store(x, i, load(h0, i))


@inline
def _qkv_rows(s, layer, first, rows, at):
    """qkv = rms(x) wqkv^T"""
    C, ld = at.C, at.ld_c
    y, packed = s + (at.layer + layer * at.layer_size), s + (at.packed_layer + layer * at.packed_size)
    x, h1 = s + (at.x + first * ld), y + (at.h1 + first * ld)
    _rmsnorm_rows(h1, ld, y + (at.rstd1 + first), x, ld, pointer(None, s), rows, C, NORM_EPS)
    _times_transposed(STORE, rows, 3 * C, C, h1, ld, packed, y + (at.qkv + first * at.ld_3c), at.ld_3c)


@inline
def _block_rows(s, layer, first, rows, at):
    """x = x + o wo^T,  x = x + f(rms(x) fc1^T) fc2^T"""
    C, F, ld, ld_f = at.C, at.F, at.ld_c, at.ld_f
    y, packed = s + (at.layer + layer * at.layer_size), s + (at.packed_layer + layer * at.packed_size)
    x, h2 = s + (at.x + first * ld), y + (at.h2 + first * ld)
    r, a = y + (at.r + first * ld_f), y + (at.a + first * ld_f)
    _times_transposed(ADD, rows, C, C, y + (at.o + first * ld), ld, packed + at.packed_wo, x, ld)
    _rmsnorm_rows(h2, ld, y + (at.rstd2 + first), x, ld, pointer(None, s), rows, C, NORM_EPS)
    _times_transposed(RELU_STORE, rows, F, C, h2, ld, packed + at.packed_fc1, r, ld_f)
    if at.activation == RELU2:
        _activate(a, ld_f, r, ld_f, rows, F, RELU2)
    _times_transposed(ADD, rows, C, F, a, ld_f, packed + at.packed_fc2, x, ld)


@inline
def _head_rows(s, first, rows, at):
    """logits = x lm_head^T"""
    x, logits = s + (at.x + first * at.ld_c), s + (at.logits + first * at.ld_v)
    _times_transposed(STORE, rows, at.V, at.C, x, at.ld_c, s + at.packed, logits, at.ld_v)


@helper
def _forward(w, s, rows, N, B, at):
    tokens, positions, cu_seqlens = rows + at.tokens, rows + at.positions, rows + at.cu_seqlens
    C, D, ld, ld_3c, H = at.C, at.D, at.ld_c, at.ld_3c, at.H
    _pack_weights(w, s, at)
    for layer in range(at.L + 1):
        for first in range(0, N, ROW_BLOCK):
            block = min(ROW_BLOCK, N - first)
            if layer == 0:
                _embed_rows(w, s, tokens, positions, first, block, at)
            else:
                _block_rows(s, layer - 1, first, block, at)
            if layer < at.L:
                _qkv_rows(s, layer, first, block, at)
            else:
                _head_rows(s, first, block, at)
        if layer == at.L:
            break
        y = s + (at.layer + layer * at.layer_size)
        for b in range(B):
            first, T = cu_seqlens[b], cu_seqlens[b + 1] - cu_seqlens[b]
            for h in range(H):
                q, o = y + (at.qkv + first * ld_3c + h * D), y + (at.o + first * ld + h * D)
                lse = y + (at.lse + first * H + h)
                _attention_head(o, ld, lse, H, q, q + C, q + 2 * C, ld_3c, T, D, 1 / math.sqrt(D), 0.0)


@inline
def _loss_rows(s, targets, first, rows, at):
    """Logits become their gradient, row_loss the loss."""
    V, n = at.V, lanes(s)
    for i in range(first, first + rows):
        logits, weight = s + (at.logits + i * at.ld_v), s[at.row_weight + i]
        at_target, largest, total = logits[targets[i]], _largest_of_row(logits, V), zeros(s)
        for j in range(0, V, n):
            e = _exp_lanes(logits, j, largest, V)
            store(logits, j, e)  # into the padding too
            total += e
        sum_total = sum_lanes(total)
        factor = weight / sum_total
        for j in range(0, V, n):
            store(logits, j, load(logits, j) * factor)
        logits[targets[i]] -= weight
        s[at.row_loss + i] = largest + _log(sum_total, s) - at_target


@inline
def _weight_gradient(mode, O, K, N, dy, ld_dy, x, ld_x, grads):
    """dw [O, K] (mode)= dy^T x over all N rows"""
    _gemm(mode, O, K, N, dy, 1, ld_dy, x, ld_x, grads, K)


@inline
def _block_backward(w, s, layer, first, rows, at):
    """Inverts _block_rows, from dx down to d_o."""
    C, F, ld, ld_f = at.C, at.F, at.ld_c, at.ld_f
    w_layer, y = w + (at.w_layer + layer * at.w_size), s + (at.layer + layer * at.layer_size)
    row = first * ld
    dx, dx1, dh, d_o = s + (at.dx + row), s + (at.dx1 + row), s + (at.dh + row), s + (at.d_o + row)
    df, r = s + (at.df + first * ld_f), y + (at.r + first * ld_f)
    mode = RELU2_GRADIENT if at.activation == RELU2 else RELU_GRADIENT
    fc1 = w_layer + 4 * C * C
    _gemm_aux(mode, rows, F, C, dx, ld, 1, fc1 + F * C, F, 2 * lanes(s), df, ld_f, r, ld_f)
    _gemm(STORE, rows, C, F, df, ld_f, 1, fc1, C, dh, ld)
    h2, rstd2 = y + (at.h2 + row), y + (at.rstd2 + first)
    _rmsnorm_rows_backward(dx1, dx, dh, h2, True, pointer(None, s), rstd2, ld, rows, C)
    _gemm(STORE, rows, C, C, dx1, ld, 1, w_layer + 3 * C * C, C, d_o, ld)


@inline
def _qkv_backward(w, s, layer, first, rows, at):
    """Inverts _qkv_rows, from dqkv (and dx1) down to dx."""
    C, ld, row = at.C, at.ld_c, first * at.ld_c
    w_layer, y = w + (at.w_layer + layer * at.w_size), s + (at.layer + layer * at.layer_size)
    dh, h1, rstd1 = s + (at.dh + row), y + (at.h1 + row), y + (at.rstd1 + first)
    _gemm(STORE, rows, C, 3 * C, s + (at.dqkv + first * at.ld_3c), at.ld_3c, 1, w_layer, C, dh, ld)
    dx, dx1 = s + (at.dx + row), s + (at.dx1 + row)
    _rmsnorm_rows_backward(dx, dx1, dh, h1, True, pointer(None, s), rstd1, ld, rows, C)


@inline
def _layer_gradients(s, layer, N, mode, grads, at):
    C, F, ld, ld_f = at.C, at.F, at.ld_c, at.ld_f
    y, to = s + (at.layer + layer * at.layer_size), grads + (at.w_layer + layer * at.w_size)
    _weight_gradient(mode, 3 * C, C, N, s + at.dqkv, at.ld_3c, y + at.h1, ld, to)
    _weight_gradient(mode, C, C, N, s + at.dx1, ld, y + at.o, ld, to + 3 * C * C)
    _weight_gradient(mode, F, C, N, s + at.df, ld_f, y + at.h2, ld, to + 4 * C * C)
    _weight_gradient(mode, C, F, N, s + at.dx, ld, y + at.a, ld_f, to + (4 * C * C + F * C))


@helper
def _backward(w, s, rows, N, B, mode, grads, at):
    """grads (mode: STORE or ADD)= the gradient of the losses' weighted sum"""
    tokens, targets, positions = rows + at.tokens, rows + at.targets, rows + at.positions
    cu_seqlens = rows + at.cu_seqlens
    C, D, V, ld, ld_3c, H = at.C, at.D, at.V, at.ld_c, at.ld_3c, at.H
    head = (V + at.T) * C
    for layer in range(at.L - 1, -2, -1):
        for first in range(0, N, ROW_BLOCK):
            block = min(ROW_BLOCK, N - first)
            dx = s + (at.dx + first * ld)
            if layer == at.L - 1:
                _loss_rows(s, targets, first, block, at)
                _gemm(STORE, block, C, V, s + (at.logits + first * at.ld_v), at.ld_v, 1, w + head, C, dx, ld)
            else:
                _qkv_backward(w, s, layer + 1, first, block, at)
            if layer >= 0:
                _block_backward(w, s, layer, first, block, at)
            else:
                h0, rstd0 = s + (at.h0 + first * ld), s + (at.rstd0 + first)
                nothing = pointer(None, s)
                _rmsnorm_rows_backward(dx, nothing, dx, h0, True, nothing, rstd0, ld, block, C)
        if layer == at.L - 1:
            _weight_gradient(mode, V, C, N, s + at.logits, at.ld_v, s + at.x, ld, grads + head)
        if layer < 0:
            break
        y = s + (at.layer + layer * at.layer_size)
        for b in range(B):
            first, T = cu_seqlens[b], cu_seqlens[b + 1] - cu_seqlens[b]
            for h in range(H):
                row, out, statistic = first * ld_3c + h * D, first * ld + h * D, first * H + h
                q, dq = y + (at.qkv + row), s + (at.dqkv + row)
                _attention_head_backward(
                    dq, dq + C, dq + 2 * C, s + (at.delta + statistic), s + (at.d_o + out), y + (at.o + out),
                    ld, y + (at.lse + statistic), H, q, q + C, q + 2 * C, ld_3c, T, D, 1 / math.sqrt(D), 0.0,
                )  # fmt: skip
        _layer_gradients(s, layer, N, mode, grads, at)
    if mode == STORE:
        for i in range(head):
            grads[i] = 0
    dwpe = grads + V * C
    for i in range(N):
        token, position, dx = grads + tokens[i] * C, dwpe + positions[i] * C, s + (at.dx + i * ld)
        _add_rows(token, token, dx, C)
        _add_rows(position, position, dx, C)


@kernel
def gpt_forward(losses, logits, params, tokens, starts, lengths, B, work, rows, at):
    # losses[b] = mean cross-entropy of document b; logits [N, V] or None
    w, s, rows, size = pointer(params, work), pointer(work, work), pointer(rows, rows), tokens.size
    losses, logits, tokens = pointer(losses, losses), pointer(logits, work), pointer(tokens, tokens)
    starts, lengths = pointer(starts, starts), pointer(lengths, lengths)
    bad = first_bad_document(tokens, starts, lengths, B, size, at)
    if bad >= 0:
        return bad
    before = denormals_flush()
    N = pack_batch(s, rows, tokens, starts, lengths, B, at)
    _forward(w, s, rows, N, B, at)
    if not is_null(logits):
        for i in range(N):
            for j in range(at.V):
                logits[i * at.V + j] = s[at.logits + i * at.ld_v + j]
    _loss_rows(s, rows + at.targets, 0, N, at)
    document_losses(losses, s, lengths, B, at)
    denormals_restore(before)
    return -1


@kernel
def gpt_backward(losses, grads, params, tokens, starts, lengths, B, work, rows, at):
    # gpt_forward, then grads += the gradient of the mean of losses
    w, s, rows, size = pointer(params, work), pointer(work, work), pointer(rows, rows), tokens.size
    losses, grads, tokens = pointer(losses, losses), pointer(grads, work), pointer(tokens, tokens)
    starts, lengths = pointer(starts, starts), pointer(lengths, lengths)
    bad = first_bad_document(tokens, starts, lengths, B, size, at)
    if bad >= 0:
        return bad
    before = denormals_flush()
    N = pack_batch(s, rows, tokens, starts, lengths, B, at)
    _forward(w, s, rows, N, B, at)
    _backward(w, s, rows, N, B, ADD, grads, at)
    document_losses(losses, s, lengths, B, at)
    denormals_restore(before)
    return -1


@kernel
def gpt_train_steps(
    losses, params, m, v, tokens, starts, lengths, k, B, lr, beta1, beta2, eps, weight_decay, first_step,
    work, rows, at,
):  # fmt: skip
    # k steps of B documents each; losses[i] is step i's, lr[i] its learning rate, first_step + i Adam's step
    # number
    w, s, rows, size = pointer(params, work), pointer(work, work), pointer(rows, rows), tokens.size
    losses, m, v = pointer(losses, losses), pointer(m, work), pointer(v, work)
    tokens = pointer(tokens, tokens)
    starts, lengths = pointer(starts, starts), pointer(lengths, lengths)
    bad = first_bad_document(tokens, starts, lengths, k * B, size, at)
    if bad >= 0:
        return bad
    before = denormals_flush()
    grads, parameters = s + at.grads, at.w_layer + at.L * at.w_size
    for step in range(k):
        N = pack_batch(s, rows, tokens, starts + step * B, lengths + step * B, B, at)
        _forward(w, s, rows, N, B, at)
        _backward(w, s, rows, N, B, STORE, grads, at)
        losses[step] = document_losses(pointer(None, losses), s, lengths + step * B, B, at)
        _adam(w, m, v, grads, parameters, lr[step], beta1, beta2, eps, weight_decay, first_step + step)
    denormals_restore(before)
    return -1


@kernel
def gpt_decode(logits, token, position, params, work, rows, at):
    # logits [V] that follow `token` at `position`; the workspace, of T rows, holds what came before; position
    # 0 packs the weights
    w, s, rows = pointer(params, work), pointer(work, work), pointer(rows, rows)
    logits = pointer(logits, work)
    before = denormals_flush()
    if position == 0:
        _pack_weights(w, s, at)
    rows[at.tokens + position], rows[at.positions + position] = token, position
    _embed_rows(w, s, rows + at.tokens, rows + at.positions, position, 1, at)
    for layer in range(at.L):
        _qkv_rows(s, layer, position, 1, at)
        y = s + (at.layer + layer * at.layer_size)
        q = y + (at.qkv + position * at.ld_3c)
        o, k = y + (at.o + position * at.ld_c), y + (at.qkv + at.C)
        for h in range(at.H):
            head, scale = h * at.D, 1 / math.sqrt(at.D)
            k_head = k + head
            _attention_head_decode(
                o + head, q + head, k_head, k_head + at.C, at.ld_3c, position + 1, at.D, scale, 0.0
            )
        _block_rows(s, layer, position, 1, at)
    _head_rows(s, position, 1, at)
    for j in range(at.V):
        logits[j] = s[at.logits + position * at.ld_v + j]
    denormals_restore(before)


class Engine(JitEngine):
    """The whole model on these kernels; see `JitEngine`."""

    def __init__(self, config, dtype, numerics="fast", threads=1):
        super().__init__(sys.modules[__name__], config, dtype, numerics, threads)
