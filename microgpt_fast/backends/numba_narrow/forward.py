"""A narrow model forward, and its loss, a tile of rows at a time."""

from ..numba_activations import RELU2
from ..numba_compile import helper
from ..numba_rows import (
    load_row,
    load_rows,
    load_statistics,
    max_of_rows,
    repeat,
    row_width,
    spread,
    store_rows,
    store_rows_transposed,
    sum_of_rows,
    tile_height,
    zero_rows,
)
from ..numba_simd import exp, lanes, load, log, maximum, store
from .layout import MASKED, PLANE
from .tiles import inverse_norm, product


@helper
def _transpose(w, outputs, inputs, size):
    C = row_width(w)
    for o in range(0, outputs, tile_height(w)):
        for i in range(0, inputs, C):
            tile = load_rows(w + (o * inputs + i), inputs)
            store_rows_transposed(w + (3 * size + i * outputs + o), outputs, tile)


@helper
def transpose_all(s, at):
    """Every weight's transpose, for the forward pass"""
    C = row_width(s)
    _transpose(s + at.w.lm_head, at.width, C, at.w.size)
    for layer in range(at.L):
        w = s + (at.w.layers + layer * at.w.layer_size)
        for j in range(3):
            _transpose(w + (at.w.attn_wq + j * C * C), C, C, at.w.size)
        _transpose(w + at.w.attn_wo, C, C, at.w.size)
        _transpose(w + at.w.mlp_fc1, 4 * C, C, at.w.size)
        _transpose(w + at.w.mlp_fc2, C, 4 * C, at.w.size)


@helper
def embed(s, rows, N, at):
    """x = h0 = rms(wte[token] + wpe[position])"""
    C, R = row_width(s), tile_height(s)
    x, h0, wte, wpe = s + at.x, s + at.h0, s + at.w.wte, s + at.w.wpe
    for i in range(N):
        token, position = rows[at.tokens + i], rows[at.positions + i]
        store(x, i * C, load_row(wte + token * C) + load_row(wpe + position * C))
    for i in range(0, N, R):
        e = load_rows(x + i * C, C)
        rstd = inverse_norm(x, e)
        store(s, at.rstd0 + i, rstd)
        e *= spread(rstd, e)
        store(x, i * C, e)
        store(h0, i * C, e)


@helper
def qkv(s, y, w, N, at):
    """h1 = rms(x),  q, k, v = h1 wqkv^T"""
    C, R = row_width(s), tile_height(s)
    x, h1 = s + at.x, y + PLANE.h1 * at.plane
    w_t = w + (3 * at.w.size + at.w.attn_wq)
    for i in range(0, N, R):
        e = load_rows(x + i * C, C)
        rstd = inverse_norm(x, e)
        store(y, at.rstd1 + i, rstd)
        store(h1, i * C, e * spread(rstd, e))
        for j in range(3):
            q = product(zero_rows(s), C, h1 + i * C, C, w_t + j * C * C, C)
            store(y + (PLANE.q + j) * at.plane, i * C, q)


@helper
def feed_forward(s, y, w, N, at):
    """x = x + o wo^T,  h2 = rms(x),  x = x + f(h2 fc1^T) fc2^T"""
    C, R = row_width(s), tile_height(s)
    transposed = w + 3 * at.w.size
    wo_t, fc1_t, fc2_t = transposed + at.w.attn_wo, transposed + at.w.mlp_fc1, transposed + at.w.mlp_fc2
    x, h2, o = s + at.x, y + PLANE.h2 * at.plane, y + PLANE.o * at.plane
    r = y + PLANE.r * at.plane
    a = y + PLANE.squared * at.plane if at.activation == RELU2 else r
    for i in range(0, N, R):
        row = i * C
        z = product(load_rows(x + row, C), C, o + row, C, wo_t, C)
        rstd = inverse_norm(x, z)
        store(y, at.rstd2 + i, rstd)
        store(h2, row, z * spread(rstd, z))
        for j in range(0, 4 * C, C):
            h = product(zero_rows(s), C, h2 + row, C, fc1_t + j, 4 * C)
            h = maximum(zero_rows(s), h)  # in this order NaN stays NaN
            store_rows(r + (4 * row + j), 4 * C, h)
            if at.activation == RELU2:
                store_rows(a + (4 * row + j), 4 * C, h * h)
        store(x, row, product(z, 4 * C, a + 4 * row, 4 * C, fc2_t, C))


@helper
def loss(s, rows, N, at):
    """logits = x lm_head^T, then their gradient: weight (softmax - onehot); and each row's loss,
    log(sum exp(logits - max)) - (logits[target] - max)"""
    C, R = row_width(s), tile_height(s)
    x, head_t = s + at.x, s + (3 * at.w.size + at.w.lm_head)
    for i in range(0, N, R):
        z = s + (at.logits + i * at.width)
        largest = zero_rows(s) + MASKED
        for j in range(0, at.width, C):
            logit = repeat(load_row(s + at.mask + j), largest)
            logit = product(logit, C, x + i * C, C, head_t + j, at.width)
            store_rows(z + j, at.width, logit)
            largest = maximum(logit, largest)
        for t in range(i, min(i + R, N)):
            s[at.at_target + t] = s[at.logits + t * at.width + rows[at.targets + t]]
        most = max_of_rows(s, largest)
        largest, total = spread(most, largest), zero_rows(s)
        for j in range(0, at.width, C):
            e = exp(load_rows(z + j, at.width) - largest)
            store_rows(z + j, at.width, e)
            total += e
        sums = sum_of_rows(s, total)
        store(s, at.largest + i, most)
        store(s, at.total + i, sums)
        factor = spread(load_statistics(s + at.row_weight + i) / sums, total)
        for j in range(0, at.width, C):
            store_rows(z + j, at.width, load_rows(z + j, at.width) * factor)
        for t in range(i, min(i + R, N)):
            s[at.logits + t * at.width + rows[at.targets + t]] -= s[at.row_weight + t]
    for t in range(0, N, lanes(s)):
        loss = log(load(s, at.total + t)) - (load(s, at.at_target + t) - load(s, at.largest + t))
        store(s, at.row_loss + t, loss)
