"""The whole model backward, from logits to the gradients of parameters, with the names of the forward pass.

Gradients of the residual stream, dx and dx1, go down from layer to layer a block of rows at a time; when all
rows have passed, each weight takes its gradient from all of them.
"""

import math

from ..numba_attention import attention_head_backward
from ..numba_compile import helper, inline
from ..numba_gemm import ACTIVATE_GRADIENT, ROW_BLOCK, STORE, gemm, gemm_aux
from ..numba_layers import add_rows, exp_lanes, largest_of_row, log_number, rmsnorm_rows_backward
from ..numba_simd import lanes, load, pointer, store, sum_lanes, zeros


@inline
def loss_rows(s, targets, first, rows, at):
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
        s[at.row_loss + i] = log_number(sum_total, s) - (at_target - largest)


@inline
def _head_backward(w, s, first, rows, at):
    """dx = dlogits lm_head"""
    C, V, ld = at.C, at.V, at.ld_c
    dlogits, dx = s + (at.logits + first * at.ld_v), s + (at.dx + first * ld)
    gemm(STORE, rows, C, V, dlogits, at.ld_v, 1, w + at.w.lm_head, C, dx, ld)


@inline
def _block_backward(w, s, layer, first, rows, at):
    """Inverts block_rows, from dx down to d_o."""
    C, F, ld, ld_f = at.C, at.F, at.ld_c, at.ld_f
    w_layer, y = w + (at.w.layers + layer * at.w.layer_size), s + (at.layers + layer * at.layer_size)
    row = first * ld
    dx, dx1, dh, d_o = s + (at.dx + row), s + (at.dx1 + row), s + (at.dh + row), s + (at.d_o + row)
    df, kept = s + (at.df + first * ld_f), y + (at.kept + first * ld_f)
    fc1, fc2, wo = w_layer + at.w.mlp_fc1, w_layer + at.w.mlp_fc2, w_layer + at.w.attn_wo
    panel = 2 * lanes(s)
    gemm_aux(ACTIVATE_GRADIENT, at.activation, rows, F, C, dx, ld, 1, fc2, F, panel, df, ld_f, kept, ld_f)
    gemm(STORE, rows, C, F, df, ld_f, 1, fc1, C, dh, ld)
    h2, rstd2 = y + (at.h2 + row), y + (at.rstd2 + first)
    rmsnorm_rows_backward(dx1, dx, dh, h2, True, pointer(None, s), rstd2, ld, rows, C)
    gemm(STORE, rows, C, C, dx1, ld, 1, wo, C, d_o, ld)


@inline
def _qkv_backward(w, s, layer, first, rows, at):
    """Inverts qkv_rows, from dqkv (and dx1) down to dx."""
    C, ld, row = at.C, at.ld_c, first * at.ld_c
    w_layer, y = w + (at.w.layers + layer * at.w.layer_size), s + (at.layers + layer * at.layer_size)
    dh, h1, rstd1 = s + (at.dh + row), y + (at.h1 + row), y + (at.rstd1 + first)
    dqkv, w_qkv = s + (at.dqkv + first * at.ld_3c), w_layer + at.w.attn_wq
    gemm(STORE, rows, C, 3 * C, dqkv, at.ld_3c, 1, w_qkv, C, dh, ld)
    dx, dx1 = s + (at.dx + row), s + (at.dx1 + row)
    rmsnorm_rows_backward(dx, dx1, dh, h1, True, pointer(None, s), rstd1, ld, rows, C)


@inline
def _embed_backward(s, first, rows, at):
    """dx becomes the gradient of wte[token] + wpe[position]."""
    nothing, row = pointer(None, s), first * at.ld_c
    dx, h0, rstd0 = s + (at.dx + row), s + (at.h0 + row), s + (at.rstd0 + first)
    rmsnorm_rows_backward(dx, nothing, dx, h0, True, nothing, rstd0, at.ld_c, rows, at.C)


@inline
def _attention_backward(s, y, cu_seqlens, B, at):
    """dqkv of every head of every document, from d_o"""
    C, D, ld, ld_3c, H = at.C, at.D, at.ld_c, at.ld_3c, at.H
    for b in range(B):
        first, T = cu_seqlens[b], cu_seqlens[b + 1] - cu_seqlens[b]
        for h in range(H):
            row, out, statistic = first * ld_3c + h * D, first * ld + h * D, first * H + h
            q, dq = y + (at.qkv + row), s + (at.dqkv + row)
            attention_head_backward(
                dq, dq + C, dq + 2 * C, s + (at.delta + statistic), s + (at.d_o + out), y + (at.o + out),
                ld, y + (at.lse + statistic), H, q, q + C, q + 2 * C, ld_3c, T, D, 1 / math.sqrt(D), 0.0,
            )  # fmt: skip


@inline
def _weight_gradient(mode, O, K, N, dy, ld_dy, x, ld_x, grads):
    """dw [O, K] (mode)= dy^T x over all N rows"""
    gemm(mode, O, K, N, dy, 1, ld_dy, x, ld_x, grads, K)


@inline
def _layer_gradients(s, layer, N, mode, grads, at):
    C, F, ld, ld_f = at.C, at.F, at.ld_c, at.ld_f
    y, to = s + (at.layers + layer * at.layer_size), grads + (at.w.layers + layer * at.w.layer_size)
    _weight_gradient(mode, 3 * C, C, N, s + at.dqkv, at.ld_3c, y + at.h1, ld, to + at.w.attn_wq)
    _weight_gradient(mode, C, C, N, s + at.dx1, ld, y + at.o, ld, to + at.w.attn_wo)
    _weight_gradient(mode, F, C, N, s + at.df, ld_f, y + at.h2, ld, to + at.w.mlp_fc1)
    _weight_gradient(mode, C, F, N, s + at.dx, ld, y + at.a, ld_f, to + at.w.mlp_fc2)


@inline
def _embedding_gradients(s, tokens, positions, N, mode, grads, at):
    """dwte[token], dwpe[position] (mode)= the sum of dx over the rows that have it"""
    C, dwte, dwpe = at.C, grads + at.w.wte, grads + at.w.wpe
    if mode == STORE:
        for i in range(at.V * C):
            dwte[i] = 0
        for i in range(at.T * C):
            dwpe[i] = 0
    for i in range(N):
        token, position, dx = dwte + tokens[i] * C, dwpe + positions[i] * C, s + (at.dx + i * at.ld_c)
        add_rows(token, token, dx, C)
        add_rows(position, position, dx, C)


@helper
def backward(w, s, rows, N, B, mode, grads, at):
    """grads (mode: STORE or ADD)= the gradient of the losses' weighted sum, after `forward`"""
    tokens, targets, positions = rows + at.tokens, rows + at.targets, rows + at.positions
    cu_seqlens = rows + at.cu_seqlens
    for layer in range(at.L - 1, -2, -1):
        for first in range(0, N, ROW_BLOCK):
            block = min(ROW_BLOCK, N - first)
            if layer == at.L - 1:
                loss_rows(s, targets, first, block, at)
                _head_backward(w, s, first, block, at)
            else:
                _qkv_backward(w, s, layer + 1, first, block, at)
            if layer >= 0:
                _block_backward(w, s, layer, first, block, at)
            else:
                _embed_backward(s, first, block, at)
        if layer == at.L - 1:
            dlogits, dhead = s + at.logits, grads + at.w.lm_head
            _weight_gradient(mode, at.V, at.C, N, dlogits, at.ld_v, s + at.x, at.ld_c, dhead)
        if layer >= 0:
            _attention_backward(s, s + (at.layers + layer * at.layer_size), cu_seqlens, B, at)
            _layer_gradients(s, layer, N, mode, grads, at)
    _embedding_gradients(s, tokens, positions, N, mode, grads, at)
