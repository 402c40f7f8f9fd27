"""Attention, one head of one document at a time, for the Numba backend.

In blocks of one vector of queries and KEYS keys on the stack: memory does not grow with the length
(streaming softmax: Dao et al. 2022, arXiv:2205.14135). Score blocks are kept transposed, s[key][query]: a
query is a lane, and the softmax over keys needs no sums across lanes. Blocks lie at fixed places of their
document, so that a row's bits depend on its own document alone.
"""

import math

from .numba_compile import helper, inline
from .numba_gemm import ADD, SCALE_ADD, STORE, gemm, gemm_aux
from .numba_layers import dot_row
from .numba_simd import (
    VECTOR_BYTES,
    exp,
    fma,
    lane_numbers,
    lanes,
    load,
    load_partial,
    load_transposed,
    log,
    maximum,
    stack,
    store,
    store_partial,
    store_tile,
    sum_lanes,
    where,
    zeros,
)

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
        gemm(ADD if d else STORE, keys, n, depth, keys_of + d, ld_keys, 1, transposed, n, block, n)


@inline
def _mask_scores(s, first_query, first_key, keys, slope):
    """s -= slope * (query - key); keys after the query become -infinity"""
    n = lanes(s)
    for i in range(0 if slope != 0 else max(0, first_query - first_key), keys):
        distance = lane_numbers(s) + (first_query - first_key - i)
        store(s, i * n, where(distance < 0, -math.inf, load(s, i * n) - slope * distance))


@helper
def attention_head(o, ld_o, lse, H, q, k, v, ld, T, D, scale, slope):
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
            gemm_aux(mode, 0, rows, D, keys, s, 1, n, v + key * ld, ld, 2 * n, out, ld_o, scales, 1)
        statistic = largest + log(total)
        for i in range(rows):
            lse[(first + i) * H] = statistic[i]


@helper
def attention_head_backward(dq, dk, dv, delta, d_o, o, ld_o, lse, H, q, k, v, ld, T, D, scale, slope):
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
            delta_of[i] = dot_row(d_o + (out + i * ld_o), o + (out + i * ld_o), D)
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
            gemm(ADD, keys, D, rows, p, n, 1, d_o + out, ld_o, dv + at_key, ld)
            gemm(ADD, keys, D, rows, ds, n, 1, q + at, ld, dk + at_key, ld)
            gemm(ADD if key else STORE, rows, D, keys, ds, 1, n, k + at_key, ld, dq + at, ld)


@helper
def attention_head_decode(o, q, k, v, ld, T, D, scale, slope):
    """o [D] = sum_j softmax(scale q . k_j - slope (T - 1 - j))_j v_j for one query and T keys and values, ld
    apart"""
    n = lanes(o)
    s = stack(o, KEYS)
    largest, total = -math.inf, 0.0
    for key in range(0, T, KEYS):
        keys = min(KEYS, T - key)
        m = largest
        for i in range(keys):
            s[i] = scale * dot_row(q, k + (key + i) * ld, D) - slope * (T - 1 - key - i)
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
