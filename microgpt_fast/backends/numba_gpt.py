"""The whole model for Numba: forward, backward, training steps, cached decoding.

    x = rms(wte[token] + wpe[position])
    each layer:  x = x + attention(rms(x) wqkv^T) wo^T,  x = x + f(rms(x) fc1^T) fc2^T
    logits = x lm_head^T

Parameters, gradients and moments are flat, in order: wte [V, C], wpe [T, C], lm_head [V, C], then for each
layer wq, wk, wv, wo [C, C], fc1 [F, C], fc2 [C, F]. Document i of a batch reads tokens[starts[i]] ..
tokens[starts[i] + lengths[i]]: each but the last is an input, each but the first a target.
"""

import math
from typing import NamedTuple

from .composed import NORM_EPS, RELU2
from .numba_attention import attention_head, attention_head_backward, attention_head_decode
from .numba_batch import document_losses, first_bad_document, pack_batch
from .numba_compile import helper, inline, kernel
from .numba_gemm import (
    ADD,
    RELU2_GRADIENT,
    RELU_GRADIENT,
    RELU_STORE,
    ROW_BLOCK,
    STORE,
    gemm,
    gemm_aux,
    pack_transposed,
    padded,
)
from .numba_layers import (
    activate,
    adam,
    add_rows,
    exp_lanes,
    largest_of_row,
    log_number,
    rmsnorm_rows,
    rmsnorm_rows_backward,
)
from .numba_simd import (
    VECTOR_BYTES,
    denormals_flush,
    denormals_restore,
    is_null,
    lanes,
    load,
    pointer,
    store,
    sum_lanes,
    zeros,
)


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
    pack_transposed(s + at.packed, w + (at.V + at.T) * C, C, at.V, C)
    for layer in range(at.L):
        w_layer = w + (at.w_layer + layer * at.w_size)
        packed = s + (at.packed_layer + layer * at.packed_size)
        pack_transposed(packed, w_layer, C, 3 * C, C)
        pack_transposed(packed + at.packed_wo, w_layer + 3 * C * C, C, C, C)
        pack_transposed(packed + at.packed_fc1, w_layer + 4 * C * C, C, F, C)
        pack_transposed(packed + at.packed_fc2, w_layer + (4 * C * C + F * C), F, C, F)


@inline
def _times_transposed(mode, rows, O, K, x, ld_x, packed, y, ld_y):
    """y [rows, O] (mode)= x w^T, from w's packed transpose"""
    gemm_aux(mode, rows, padded(O, lanes(y)), K, x, ld_x, 1, packed, 0, 2 * lanes(y) * K, y, ld_y, y, 0)


@inline
def _embed_rows(w, s, tokens, positions, first, rows, at):
    C, ld = at.C, at.ld_c
    x, h0 = s + (at.x + first * ld), s + (at.h0 + first * ld)
    wpe = w + at.V * C
    for i in range(rows):
        add_rows(x + i * ld, w + tokens[first + i] * C, wpe + positions[first + i] * C, C)
    rmsnorm_rows(h0, ld, s + (at.rstd0 + first), x, ld, pointer(None, s), rows, C, NORM_EPS)
    for i in range(0, rows * ld, lanes(s)):
        store(x, i, load(h0, i))


@inline
def _qkv_rows(s, layer, first, rows, at):
    """qkv = rms(x) wqkv^T"""
    C, ld = at.C, at.ld_c
    y, packed = s + (at.layer + layer * at.layer_size), s + (at.packed_layer + layer * at.packed_size)
    x, h1 = s + (at.x + first * ld), y + (at.h1 + first * ld)
    rmsnorm_rows(h1, ld, y + (at.rstd1 + first), x, ld, pointer(None, s), rows, C, NORM_EPS)
    _times_transposed(STORE, rows, 3 * C, C, h1, ld, packed, y + (at.qkv + first * at.ld_3c), at.ld_3c)


@inline
def _block_rows(s, layer, first, rows, at):
    """x = x + o wo^T,  x = x + f(rms(x) fc1^T) fc2^T"""
    C, F, ld, ld_f = at.C, at.F, at.ld_c, at.ld_f
    y, packed = s + (at.layer + layer * at.layer_size), s + (at.packed_layer + layer * at.packed_size)
    x, h2 = s + (at.x + first * ld), y + (at.h2 + first * ld)
    r, a = y + (at.r + first * ld_f), y + (at.a + first * ld_f)
    _times_transposed(ADD, rows, C, C, y + (at.o + first * ld), ld, packed + at.packed_wo, x, ld)
    rmsnorm_rows(h2, ld, y + (at.rstd2 + first), x, ld, pointer(None, s), rows, C, NORM_EPS)
    _times_transposed(RELU_STORE, rows, F, C, h2, ld, packed + at.packed_fc1, r, ld_f)
    if at.activation == RELU2:
        activate(a, ld_f, r, ld_f, rows, F, RELU2)
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
                attention_head(o, ld, lse, H, q, q + C, q + 2 * C, ld_3c, T, D, 1 / math.sqrt(D), 0.0)


@inline
def _loss_rows(s, targets, first, rows, at):
    """Logits become their gradient, row_loss the loss."""
    V, n = at.V, lanes(s)
    for i in range(first, first + rows):
        logits, weight = s + (at.logits + i * at.ld_v), s[at.row_weight + i]
        at_target, largest, total = logits[targets[i]], largest_of_row(logits, V), zeros(s)
        for j in range(0, V, n):
            e = exp_lanes(logits, j, largest, V)
            store(logits, j, e)  # into the padding too
            total += e
        sum_total = sum_lanes(total)
        factor = weight / sum_total
        for j in range(0, V, n):
            store(logits, j, load(logits, j) * factor)
        logits[targets[i]] -= weight
        s[at.row_loss + i] = largest + log_number(sum_total, s) - at_target


@inline
def _weight_gradient(mode, O, K, N, dy, ld_dy, x, ld_x, grads):
    """dw [O, K] (mode)= dy^T x over all N rows"""
    gemm(mode, O, K, N, dy, 1, ld_dy, x, ld_x, grads, K)


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
    gemm_aux(mode, rows, F, C, dx, ld, 1, fc1 + F * C, F, 2 * lanes(s), df, ld_f, r, ld_f)
    gemm(STORE, rows, C, F, df, ld_f, 1, fc1, C, dh, ld)
    h2, rstd2 = y + (at.h2 + row), y + (at.rstd2 + first)
    rmsnorm_rows_backward(dx1, dx, dh, h2, True, pointer(None, s), rstd2, ld, rows, C)
    gemm(STORE, rows, C, C, dx1, ld, 1, w_layer + 3 * C * C, C, d_o, ld)


@inline
def _qkv_backward(w, s, layer, first, rows, at):
    """Inverts _qkv_rows, from dqkv (and dx1) down to dx."""
    C, ld, row = at.C, at.ld_c, first * at.ld_c
    w_layer, y = w + (at.w_layer + layer * at.w_size), s + (at.layer + layer * at.layer_size)
    dh, h1, rstd1 = s + (at.dh + row), y + (at.h1 + row), y + (at.rstd1 + first)
    gemm(STORE, rows, C, 3 * C, s + (at.dqkv + first * at.ld_3c), at.ld_3c, 1, w_layer, C, dh, ld)
    dx, dx1 = s + (at.dx + row), s + (at.dx1 + row)
    rmsnorm_rows_backward(dx, dx1, dh, h1, True, pointer(None, s), rstd1, ld, rows, C)


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
                gemm(STORE, block, C, V, s + (at.logits + first * at.ld_v), at.ld_v, 1, w + head, C, dx, ld)
            else:
                _qkv_backward(w, s, layer + 1, first, block, at)
            if layer >= 0:
                _block_backward(w, s, layer, first, block, at)
            else:
                h0, rstd0 = s + (at.h0 + first * ld), s + (at.rstd0 + first)
                nothing = pointer(None, s)
                rmsnorm_rows_backward(dx, nothing, dx, h0, True, nothing, rstd0, ld, block, C)
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
                attention_head_backward(
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
        add_rows(token, token, dx, C)
        add_rows(position, position, dx, C)


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
        adam(w, m, v, grads, 1.0, parameters, lr[step], beta1, beta2, eps, weight_decay, first_step + step)
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
            attention_head_decode(
                o + head, q + head, k_head, k_head + at.C, at.ld_3c, position + 1, at.D, scale, 0.0
            )
        _block_rows(s, layer, position, 1, at)
    _head_rows(s, position, 1, at)
    for j in range(at.V):
        logits[j] = s[at.logits + position * at.ld_v + j]
    denormals_restore(before)
