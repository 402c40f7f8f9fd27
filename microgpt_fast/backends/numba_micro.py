"""Training steps of a narrow model: the mathematics of numba_gpt.py's `gpt_train_steps` with constant sizes.

Rows of the model are rows of registers (numba_rows.py). A step passes the batch through the model and back, a
tile of rows at a time, as far as the gradients of activations; then each tile of a weight takes its gradient
from all rows of the batch and moves at once. No sum depends on how rows are cut into tiles, nor anything on
how many steps a call has.

Rows beyond the batch are computed too, where a tile reaches that far: they hold what earlier steps left, or
0, and have the weight 0 in the loss.
"""

import math

from .composed import NORM_EPS, RELU2
from .numba_batch import document_losses, first_bad_document, pack_batch
from .numba_compile import helper, inline, kernel
from .numba_micro_layout import (
    D_O,
    DH,
    DK,
    DQ,
    DV,
    DX,
    DX1,
    H1,
    H2,
    HIDDEN,
    SQUARED,
    K,
    O,
    Q,
    V,
    micro_layout,
)
from .numba_micro_update import update_all
from .numba_rows import (
    add_heads,
    add_to_columns,
    dot_columns,
    head_width,
    load_column,
    load_columns,
    load_heads,
    load_row,
    load_rows,
    load_statistics,
    max_of_rows,
    repeat,
    row_in_head,
    row_width,
    rows_pointer,
    spread,
    store_columns,
    store_rows,
    store_rows_transposed,
    sum_of_rows,
    tile_height,
    zero_columns,
    zero_row,
    zero_rows,
)
from .numba_simd import (
    denormals_flush,
    denormals_restore,
    exp,
    fma,
    lanes,
    load,
    log,
    maximum,
    pointer,
    sqrt,
    store,
    where,
)

WIDTHS, HEAD_WIDTHS, LONGEST_BLOCK = (16, 32), (4, 8, 16), 64
MASKED = -1e30  # a score or logit whose exponential is to be 0


# ---- tiles


@inline
def _product(total, depth, x, ld_x, w, ld_w):
    """total + x w for x [R, depth] and w [depth, C]"""
    for k in range(depth):
        total = fma(load_column(x + k, ld_x), repeat(load_row(w + k * ld_w), total), total)
    return total


@inline
def _inverse_norm(p, x):
    """(mean x^2 + eps)^(-1/2) of each row of a tile"""
    return 1 / sqrt(sum_of_rows(p, x * x) * (1 / row_width(p)) + NORM_EPS)


@inline
def _norm_backward(p, dh, h, rstd):
    """The gradient of h = x rstd: dx = rstd (dh - h mean(dh h))"""
    mean = sum_of_rows(p, dh * h) * (1 / row_width(p))
    return (dh - h * spread(mean, h)) * spread(rstd, h)


# ---- forward


@helper
def _transpose(w, outputs, inputs, size):
    C = row_width(w)
    for o in range(0, outputs, tile_height(w)):
        for i in range(0, inputs, C):
            tile = load_rows(w + (o * inputs + i), inputs)
            store_rows_transposed(w + (3 * size + i * outputs + o), outputs, tile)


@helper
def _transpose_all(s, at):
    """Every weight's transpose, for the forward pass"""
    C = row_width(s)
    _transpose(s + at.head, at.width, C, at.size)
    for layer in range(at.L):
        w = s + (at.w_layer + layer * 12 * C * C)
        for j in range(4):
            _transpose(w + j * C * C, C, C, at.size)
        _transpose(w + 4 * C * C, 4 * C, C, at.size)
        _transpose(w + 8 * C * C, C, 4 * C, at.size)


@helper
def _embed(s, rows, N, at):
    """x = h0 = rms(wte[token] + wpe[position])"""
    C, R = row_width(s), tile_height(s)
    x, h0, wpe = s + at.x, s + at.h0, s + at.V * C
    for i in range(N):
        token, position = rows[at.tokens + i], rows[at.positions + i]
        store(x, i * C, load_row(s + token * C) + load_row(wpe + position * C))
    for i in range(0, N, R):
        e = load_rows(x + i * C, C)
        rstd = _inverse_norm(x, e)
        store(s, at.rstd0 + i, rstd)
        e *= spread(rstd, e)
        store(x, i * C, e)
        store(h0, i * C, e)


@helper
def _qkv(s, y, w, N, at):
    """h1 = rms(x),  q, k, v = h1 wqkv^T"""
    C, R = row_width(s), tile_height(s)
    x, h1 = s + at.x, y + H1 * at.plane
    w_t = w + 3 * at.size
    for i in range(0, N, R):
        e = load_rows(x + i * C, C)
        rstd = _inverse_norm(x, e)
        store(y, at.rstd1 + i, rstd)
        store(h1, i * C, e * spread(rstd, e))
        for j in range(3):
            q = _product(zero_rows(s), C, h1 + i * C, C, w_t + j * C * C, C)
            store(y + (Q + j) * at.plane, i * C, q)


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
def _attention(y, rows, B, at):
    C, e = row_width(y), y + at.e
    q, k, v, o = y + Q * at.plane, y + K * at.plane, y + V * at.plane, y + O * at.plane
    for b in range(B):
        first, end = rows[at.cu_seqlens + b], rows[at.cu_seqlens + b + 1]
        row = first * C
        e = _heads(o + row, e, q + row, k + row, v + row, end - first, 1 / math.sqrt(head_width(y)))


@helper
def _feed_forward(s, y, w, N, at):
    """x = x + o wo^T,  h2 = rms(x),  x = x + f(h2 fc1^T) fc2^T"""
    C, R = row_width(s), tile_height(s)
    wo_t = w + (3 * at.size + 3 * C * C)
    fc1_t, fc2_t = wo_t + C * C, wo_t + 5 * C * C
    x, h2, o = s + at.x, y + H2 * at.plane, y + O * at.plane
    r = y + HIDDEN * at.plane
    a = y + SQUARED * at.plane if at.activation == RELU2 else r
    for i in range(0, N, R):
        row = i * C
        z = _product(load_rows(x + row, C), C, o + row, C, wo_t, C)
        rstd = _inverse_norm(x, z)
        store(y, at.rstd2 + i, rstd)
        store(h2, row, z * spread(rstd, z))
        for j in range(0, 4 * C, C):
            h = maximum(_product(zero_rows(s), C, h2 + row, C, fc1_t + j, 4 * C), 0)
            store_rows(r + (4 * row + j), 4 * C, h)
            if at.activation == RELU2:
                store_rows(a + (4 * row + j), 4 * C, h * h)
        store(x, row, _product(z, 4 * C, a + 4 * row, 4 * C, fc2_t, C))


@helper
def _loss(s, rows, N, at):
    """logits = x lm_head^T, then their gradient: weight (softmax - onehot); and each row's loss,
    log(sum exp(logits - max)) + max - logits[target]"""
    C, R = row_width(s), tile_height(s)
    x, head_t = s + at.x, s + (3 * at.size + at.head)
    for i in range(0, N, R):
        z = s + (at.logits + i * at.width)
        largest = zero_rows(s) + MASKED
        for j in range(0, at.width, C):
            logit = repeat(load_row(s + at.mask + j), largest)
            logit = _product(logit, C, x + i * C, C, head_t + j, at.width)
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
        loss = log(load(s, at.total + t)) + load(s, at.largest + t) - load(s, at.at_target + t)
        store(s, at.row_loss + t, loss)


# ---- backward


@helper
def _head_backward(s, dx, N, at):
    """dx = dlogits lm_head"""
    C = row_width(s)
    for i in range(0, N, tile_height(s)):
        d = _product(zero_rows(s), at.V, s + (at.logits + i * at.width), at.width, s + at.head, C)
        store(dx, i * C, d)


@helper
def _feed_backward(s, y, w, N, at):
    """Inverts `_feed_forward`, from dx down to dx1 and d_o."""
    C, R = row_width(s), tile_height(s)
    wo = w + 3 * C * C
    fc1, fc2 = wo + C * C, wo + 5 * C * C
    dx, dx1, d_o = y + DX * at.plane, y + DX1 * at.plane, y + D_O * at.plane
    df, r, h2 = y + DH * at.plane, y + HIDDEN * at.plane, y + H2 * at.plane
    for i in range(0, N, R):
        row = i * C
        for j in range(0, 4 * C, C):
            d = _product(zero_rows(s), C, dx + row, C, fc2 + j, 4 * C)
            h = load_rows(r + (4 * row + j), 4 * C)
            d = 2 * h * d if at.activation == RELU2 else where(h > 0, d, 0)
            store_rows(df + (4 * row + j), 4 * C, d)
        dh = _product(zero_rows(s), 4 * C, df + 4 * row, 4 * C, fc1, C)
        d = _norm_backward(s, dh, load_rows(h2 + row, C), load_statistics(y + at.rstd2 + i))
        store(dx1, row, load_rows(dx + row, C) + d)
        store(d_o, row, _product(zero_rows(s), C, dx1 + row, C, wo, C))


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
def _attention_backward(s, y, rows, B, at):
    C, e, scores = row_width(y), y + at.e, s + at.scores
    q, k, v, d_o = y + Q * at.plane, y + K * at.plane, y + V * at.plane, y + D_O * at.plane
    dq, dk, dv = y + DQ * at.plane, y + DK * at.plane, y + DV * at.plane
    scale = 1 / math.sqrt(head_width(y))
    for b in range(B):
        first, end = rows[at.cu_seqlens + b], rows[at.cu_seqlens + b + 1]
        row = first * C
        e = _heads_backward(
            dq + row, dk + row, dv + row, d_o + row, e, scores, q + row, k + row, v + row, end - first, scale
        )


@helper
def _qkv_backward(s, y, w, to, N, layer, at):
    """Inverts `_qkv`, from dq, dk, dv (and dx1) down to x's gradient, and in the first layer `_embed`."""
    C, R = row_width(s), tile_height(s)
    dq, dx1, h1, h0 = y + DQ * at.plane, y + DX1 * at.plane, y + H1 * at.plane, s + at.h0
    for i in range(0, N, R):
        row, dh = i * C, zero_rows(s)
        for j in range(3):
            dh = _product(dh, C, dq + (j * at.plane + row), C, w + j * C * C, C)
        d = _norm_backward(s, dh, load_rows(h1 + row, C), load_statistics(y + at.rstd1 + i))
        d += load_rows(dx1 + row, C)
        if layer == 0:
            d = _norm_backward(s, d, load_rows(h0 + row, C), load_statistics(s + at.rstd0 + i))
        store(to, row, d)


# ---- steps


@helper
def _copy(inside, outside, at, inwards):
    """Parameters or moments between the caller's buffer and the workspace, where lm_head is padded"""
    C, first = row_width(inside), 0
    for to, count in ((0, (at.V + at.T) * C), (at.head, at.V * C), (at.w_layer, 12 * at.L * C * C)):
        for i in range(count):
            if inwards:
                inside[to + i] = outside[first + i]
            else:
                outside[first + i] = inside[to + i]
        first += count


@helper
def _take_in(s, params, m, v, reals, at):
    for i in range(reals):
        s[i] = 0
    _copy(s, params, at, True)
    _copy(s + at.size, m, at, True)
    _copy(s + 2 * at.size, v, at, True)
    for j in range(at.V, at.width):
        s[at.mask + j] = MASKED


@helper
def _pass(s, rows, N, B, at):
    """Through the model and back, as far as the gradients of activations"""
    C = row_width(s)
    _transpose_all(s, at)
    _embed(s, rows, N, at)
    for layer in range(at.L):
        y, w = s + (at.layer + layer * at.layer_size), s + (at.w_layer + layer * 12 * C * C)
        _qkv(s, y, w, N, at)
        _attention(y, rows, B, at)
        _feed_forward(s, y, w, N, at)
    _loss(s, rows, N, at)
    _head_backward(s, y + DX * at.plane, N, at)
    for layer in range(at.L - 1, -1, -1):
        y, w = s + (at.layer + layer * at.layer_size), s + (at.w_layer + layer * 12 * C * C)
        _feed_backward(s, y, w, N, at)
        _attention_backward(s, y, rows, B, at)
        to = y + (DX * at.plane - at.layer_size) if layer else s + at.dx0
        _qkv_backward(s, y, w, to, N, layer, at)


def _train_steps_of(C, D):
    def train_steps(
        losses, params, m, v, tokens, starts, lengths, k, B, lr, beta1, beta2, eps, weight_decay, first_step,
        work, rows, at,
    ):  # fmt: skip
        # numba_gpt's gpt_train_steps for n_embd C and head_dim D
        s, rows, size = rows_pointer(work, C, D), pointer(rows, rows), tokens.size
        params, m, v = pointer(params, work), pointer(m, work), pointer(v, work)
        losses, tokens = pointer(losses, losses), pointer(tokens, tokens)
        starts, lengths = pointer(starts, starts), pointer(lengths, lengths)
        bad = first_bad_document(tokens, starts, lengths, k * B, size, at)
        if bad >= 0:
            return bad
        before = denormals_flush()
        _take_in(s, params, m, v, work.size, at)
        for step in range(k):
            N = pack_batch(s, rows, tokens, starts + step * B, lengths + step * B, B, at)
            for i in range(N, N + tile_height(s)):
                s[at.row_weight + i] = 0  # of rows beyond the batch
            _pass(s, rows, N, B, at)
            losses[step] = document_losses(pointer(None, losses), s, lengths + step * B, B, at)
            root = math.sqrt(1 - beta2 ** (first_step + step))
            rate = lr[step] * root / (1 - beta1 ** (first_step + step))
            keep = 1 - lr[step] * weight_decay
            update_all(s, rows, N, at, (beta1, 1 - beta1, beta2, 1 - beta2, rate, eps * root, keep))
        _copy(s, params, at, False)
        _copy(s + at.size, m, at, False)
        _copy(s + 2 * at.size, v, at, False)
        denormals_restore(before)
        return -1

    # what comes from the cache is linked by name: it must be another one for other constants
    train_steps.__qualname__ = f"train_steps_{C}_{D}"
    return kernel(train_steps)


_TRAIN_STEPS = {(C, D): _train_steps_of(C, D) for C in WIDTHS for D in HEAD_WIDTHS}


def train_steps_for(config):
    """The training steps of a narrow model and the layout they want, or None for a model that is not."""
    steps = _TRAIN_STEPS.get((config.n_embd, config.head_dim))
    return (steps, micro_layout) if steps and config.block_size <= LONGEST_BLOCK else None
