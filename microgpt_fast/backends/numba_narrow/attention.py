"""Attention of narrow models: a document at a time, and of it D queries of all heads."""

import math

from ..numba_compile import helper, inline
from ..numba_rows import (
    add_heads,
    add_to_columns,
    dot_columns,
    head_width,
    load_columns,
    load_heads,
    load_row,
    repeat,
    row_in_head,
    row_width,
    store_columns,
    zero_columns,
    zero_row,
)
from ..numba_simd import exp, fma, maximum, store, where
from .layout import MASKED, PLANE


@inline
def _heads(o, e, q, k, v, n, scale):
    """One document of n rows, D queries of all heads at a time.

    What stays in e for the backward pass: for each block of queries n + 1 rows of numbers for (head, query),
    exp(s - max s) of each key, and in the end the inverse of their sum, 0 for queries beyond the document.
    """
    C, D = row_width(o), head_width(o)
    for first in range(0, n, D):
        keys = min(first + D, n)
        query = load_columns(q + first * C)
        query *= repeat(zero_row(o) + scale, query)
        largest, total, output = zero_row(o) + MASKED, zero_row(o), zero_columns(o)
        for i in range(keys):
            score = dot_columns(query, load_row(k + i * C))
            score = where(row_in_head(o) < i - first, MASKED, score)  # a key after the query
            store(e, i * C, score)
            largest = maximum(score, largest)
        for i in range(keys):
            x = exp(load_row(e + i * C) - largest)
            store(e, i * C, x)
            total += x
            output = add_to_columns(output, x, load_row(v + i * C))
        inverse = where(row_in_head(o) < n - first, 1 / total, 0)
        store(e, n * C, inverse)
        store_columns(o + first * C, output * repeat(inverse, output))
        e += (n + 1) * C
    return e


@helper
def attention(y, rows, B, at):
    C, e = row_width(y), y + at.e
    q, k, v, o = (
        y + PLANE.q * at.plane,
        y + PLANE.k * at.plane,
        y + PLANE.v * at.plane,
        y + PLANE.o * at.plane,
    )
    for b in range(B):
        first, end = rows[at.cu_seqlens + b], rows[at.cu_seqlens + b + 1]
        row = first * C
        e = _heads(o + row, e, q + row, k + row, v + row, end - first, 1 / math.sqrt(head_width(y)))


@inline
def _heads_backward(dq, dk, dv, d_o, e, scores, q, k, v, n, scale):
    """Inverts `_heads`: dp = do v^T,  ds = scale p (dp - sum over keys of p dp),  dq = ds k,  dk = ds^T q,
    dv = p^T do"""
    C, D = row_width(dq), head_width(dq)
    for i in range(0, n * C, C):
        store(dk, i, zero_row(dq))
        store(dv, i, zero_row(dq))
    for first in range(0, n, D):
        keys, row = min(first + D, n), first * C
        columns, delta = load_columns(d_o + row), zero_row(dq)
        for i in range(0, keys * C, C):
            dp = dot_columns(columns, load_row(v + i))
            store(scores, i, dp)
            delta = fma(dp, load_row(e + i), delta)
        inverse = load_row(e + n * C)
        delta *= inverse
        queries, outputs, dquery = load_heads(q + row), load_heads(d_o + row), zero_columns(dq)
        for i in range(0, keys * C, C):
            p = load_row(e + i) * inverse
            ds = scale * p * (load_row(scores + i) - delta)
            dquery = add_to_columns(dquery, ds, load_row(k + i))
            store(dk, i, add_heads(load_row(dk + i), ds, queries))
            store(dv, i, add_heads(load_row(dv + i), p, outputs))
        store_columns(dq + row, dquery)
        e += (n + 1) * C
    return e


@helper
def attention_backward(s, y, rows, B, at):
    C, e, scores = row_width(y), y + at.e, s + at.scores
    q, k, v, d_o = (
        y + PLANE.q * at.plane,
        y + PLANE.k * at.plane,
        y + PLANE.v * at.plane,
        y + PLANE.d_o * at.plane,
    )
    dq, dk, dv = y + PLANE.dq * at.plane, y + PLANE.dk * at.plane, y + PLANE.dv * at.plane
    scale = 1 / math.sqrt(head_width(y))
    for b in range(B):
        first, end = rows[at.cu_seqlens + b], rows[at.cu_seqlens + b + 1]
        row = first * C
        e = _heads_backward(
            dq + row, dk + row, dv + row, d_o + row, e, scores, q + row, k + row, v + row, end - first, scale
        )
