"""Attention, one head of one document at a time, for the Numba backend.

In blocks of one vector of queries and KEYS keys on the stack: memory does not grow with the length
(streaming softmax: Dao et al. 2022, arXiv:2205.14135). Score blocks are kept transposed, s[key][query]: a
query is a lane, and the softmax over keys needs no sums across lanes. Blocks lie at fixed places of their
document, so that a row's bits depend on its own document alone.

In the block of a query's own key the products run over later keys too, whose factor is 0. That is no sum over
the keys a query sees where they hold NaN or infinity: such blocks are multiplied query by query, or key by key.
"""

import math

from .numba_compile import helper, inline
from .numba_gemm import ADD, SCALE_ADD, STORE, gemm, gemm_aux
from .numba_layers import all_finite, dot_row
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
def _mask(s, first_query, first_key, keys, hidden):
    """Keys after the query become `hidden`."""
    n = lanes(s)
    for i in range(max(0, first_query - first_key), keys):
        after = lane_numbers(s) < first_key + i - first_query
        store(s, i * n, where(after, hidden, load(s, i * n)))


@inline
def _scores(s, first_query, first_key, keys, slope):
    """s -= slope * (query - key); keys after the query become -infinity"""
    n = lanes(s)
    for i in range(keys if slope != 0 else 0):
        distance = lane_numbers(s) + (first_query - first_key - i)
        store(s, i * n, load(s, i * n) - slope * distance)
    _mask(s, first_query, first_key, keys, -math.inf)


@helper
def _sum_over_keys(mode, o, ld_o, p, first, rows, x, ld, key, keys, D, scales):
    """o [rows, D] (mode)= p x, where p [keys, n] is 0 for keys after the query, and x has the rows of all keys, ld
    apart; scales is for SCALE_ADD"""
    n = lanes(o)
    own = first - key  # the first query's own key; the others' follow
    together = rows if own >= keys or all_finite(x + first * ld, ld, rows, D) else 1
    for i in range(0, rows, together):
        K, out = min(own + i + together, keys), o + i * ld_o
        gemm_aux(mode, 0, together, D, K, p + i, 1, n, x + key * ld, ld, 2 * n, out, ld_o, scales + i, 1)


@helper
def _add_to_keys(x, ld, p, first, rows, y, ld_y, key, keys, D):
    """x [keys, D], rows ld apart, += p y: the sums over queries, where p [keys, n] is 0 for keys after the query,
    and y has the rows of all queries, ld_y apart"""
    n = lanes(x)
    own = first - key
    y += first * ld_y
    whole = keys if own >= keys or all_finite(y, ld_y, rows, D) else own
    gemm(ADD, whole, D, rows, p, n, 1, y, ld_y, x, ld)
    for i in range(whole, keys):
        query = i - own
        gemm(ADD, 1, D, rows - query, p + (i * n + query), n, 1, y + query * ld_y, ld_y, x + i * ld, ld)


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
            _scores(s, first, key, keys, slope)
            m, added = largest, zeros(o)
            for i in range(keys):
                m = maximum(load(s, i * n), m)
            shift = m
            if key + keys < end:  # all may be -infinity so far
                shift = where(m > -math.inf, m, 0)
            for i in range(keys):
                p = exp(load(s, i * n) - shift)
                store(s, i * n, p)
                added += p
            rescale = exp(largest - shift)
            total = fma(total, rescale, added)
            largest = m
            if key + keys == end:
                inverse = 1 / total
                for i in range(keys):
                    store(s, i * n, load(s, i * n) * inverse)
                rescale *= inverse
            store(scales, 0, rescale)
            mode, out = SCALE_ADD if key else STORE, o + first * ld_o
            _sum_over_keys(mode, out, ld_o, s, first, rows, v, ld, key, keys, D, scales)
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
            _scores(p, first, key, keys, slope)
            # P^T = exp(S^T - lse), dS^T = scale P^T (dP^T - delta)
            for i in range(keys):
                x = exp(load(p, i * n) - minus)
                store(p, i * n, x)
                store(ds, i * n, scale * x * (load(ds, i * n) - less))
            _mask(p, first, key, keys, 0)  # of queries whose lse or delta is NaN, too
            _mask(ds, first, key, keys, 0)
            _add_to_keys(dv + at_key, ld, p, first, rows, d_o, ld_o, key, keys, D)
            _add_to_keys(dk + at_key, ld, ds, first, rows, q, ld, key, keys, D)
            mode = ADD if key else STORE
            _sum_over_keys(mode, dq + at, ld, ds, first, rows, k, ld, key, keys, D, delta_of)


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
        shift = 0.0 if m == -math.inf and key + keys < T else m
        added = zeros(o)
        for i in range(0, keys, n):
            count = min(n, keys - i)
            store_partial(s, i, exp(load_partial(s, i, count) - shift), count)
            added += load_partial(s, i, count)
        factor = math.exp(largest - shift)
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
