"""The whole model forward, from tokens to logits, a block of rows at a time.

    x = rms(wte[token] + wpe[position])
    each layer:  x = x + attention(rms(x) wqkv^T) wo^T,  x = x + f(rms(x) fc1^T) fc2^T
    logits = x lm_head^T

In all functions: w parameters, s the workspace of reals, at their `Layout`.
"""

import math

from ..composed import NORM_EPS
from ..numba_attention import attention_head
from ..numba_compile import helper, inline
from ..numba_gemm import ACTIVATE, ADD, ROW_BLOCK, STORE, gemm_aux, pack_transposed, padded
from ..numba_layers import activate, add_rows, rmsnorm_rows
from ..numba_simd import lanes, load, pointer, store


@inline
def pack_weights(w, s, at):
    """Every weight's transpose, for the forward pass"""
    C, F = at.C, at.F
    pack_transposed(s + at.packed_head, w + at.w.lm_head, C, at.V, C)
    for layer in range(at.L):
        w_layer = w + (at.w.layers + layer * at.w.layer_size)
        packed = s + (at.packed_layers + layer * at.packed_layer_size)
        pack_transposed(packed + at.packed_qkv, w_layer + at.w.attn_wq, C, 3 * C, C)
        pack_transposed(packed + at.packed_wo, w_layer + at.w.attn_wo, C, C, C)
        pack_transposed(packed + at.packed_fc1, w_layer + at.w.mlp_fc1, C, F, C)
        pack_transposed(packed + at.packed_fc2, w_layer + at.w.mlp_fc2, F, C, F)


@inline
def _times_transposed(mode, activation, rows, O, K, x, ld_x, packed, y, ld_y):
    """y [rows, O] (mode)= x w^T, from w's packed transpose"""
    width = padded(O, lanes(y))
    gemm_aux(mode, activation, rows, width, K, x, ld_x, 1, packed, 0, 2 * lanes(y) * K, y, ld_y, y, 0)


@inline
def embed_rows(w, s, tokens, positions, first, rows, at):
    """x = h0 = rms(wte[token] + wpe[position])"""
    C, ld = at.C, at.ld_c
    x, h0 = s + (at.x + first * ld), s + (at.h0 + first * ld)
    wte, wpe = w + at.w.wte, w + at.w.wpe
    for i in range(rows):
        add_rows(x + i * ld, wte + tokens[first + i] * C, wpe + positions[first + i] * C, C)
    rmsnorm_rows(h0, ld, s + (at.rstd0 + first), x, ld, pointer(None, s), rows, C, NORM_EPS)
    for i in range(0, rows * ld, lanes(s)):
        store(x, i, load(h0, i))


@inline
def qkv_rows(s, layer, first, rows, at):
    """qkv = rms(x) wqkv^T"""
    C, ld, ld_3c = at.C, at.ld_c, at.ld_3c
    y, packed = s + (at.layers + layer * at.layer_size), s + (at.packed_layers + layer * at.packed_layer_size)
    x, h1, qkv = s + (at.x + first * ld), y + (at.h1 + first * ld), y + (at.qkv + first * ld_3c)
    rmsnorm_rows(h1, ld, y + (at.rstd1 + first), x, ld, pointer(None, s), rows, C, NORM_EPS)
    _times_transposed(STORE, 0, rows, 3 * C, C, h1, ld, packed + at.packed_qkv, qkv, ld_3c)


@inline
def block_rows(s, layer, first, rows, at):
    """x = x + o wo^T,  x = x + f(rms(x) fc1^T) fc2^T"""
    C, F, ld, ld_f = at.C, at.F, at.ld_c, at.ld_f
    y, packed = s + (at.layers + layer * at.layer_size), s + (at.packed_layers + layer * at.packed_layer_size)
    x, h2 = s + (at.x + first * ld), y + (at.h2 + first * ld)
    kept, a = y + (at.kept + first * ld_f), y + (at.a + first * ld_f)
    _times_transposed(ADD, 0, rows, C, C, y + (at.o + first * ld), ld, packed + at.packed_wo, x, ld)
    rmsnorm_rows(h2, ld, y + (at.rstd2 + first), x, ld, pointer(None, s), rows, C, NORM_EPS)
    _times_transposed(ACTIVATE, at.activation, rows, F, C, h2, ld, packed + at.packed_fc1, kept, ld_f)
    if not at.keeps_value:
        activate(a, ld_f, kept, ld_f, rows, F, at.activation)
    _times_transposed(ADD, 0, rows, C, F, a, ld_f, packed + at.packed_fc2, x, ld)


@inline
def head_rows(s, first, rows, at):
    """logits = x lm_head^T"""
    x, logits = s + (at.x + first * at.ld_c), s + (at.logits + first * at.ld_v)
    _times_transposed(STORE, 0, rows, at.V, at.C, x, at.ld_c, s + at.packed_head, logits, at.ld_v)


@inline
def _attention(y, cu_seqlens, B, at):
    """o of every head of every document, from a layer's qkv"""
    C, D, ld, ld_3c, H = at.C, at.D, at.ld_c, at.ld_3c, at.H
    for b in range(B):
        first, T = cu_seqlens[b], cu_seqlens[b + 1] - cu_seqlens[b]
        for h in range(H):
            q, o = y + (at.qkv + first * ld_3c + h * D), y + (at.o + first * ld + h * D)
            lse = y + (at.lse + first * H + h)
            attention_head(o, ld, lse, H, q, q + C, q + 2 * C, ld_3c, T, D, 1 / math.sqrt(D), 0.0)


@helper
def forward(w, s, rows, N, B, at):
    """Logits of a packed batch, and in s what its backward pass needs; rows are its tokens and so on."""
    tokens, positions, cu_seqlens = rows + at.tokens, rows + at.positions, rows + at.cu_seqlens
    pack_weights(w, s, at)
    for layer in range(at.L + 1):
        for first in range(0, N, ROW_BLOCK):
            block = min(ROW_BLOCK, N - first)
            if layer == 0:
                embed_rows(w, s, tokens, positions, first, block, at)
            else:
                block_rows(s, layer - 1, first, block, at)
            if layer < at.L:
                qkv_rows(s, layer, first, block, at)
            else:
                head_rows(s, first, block, at)
        if layer < at.L:
            _attention(s + (at.layers + layer * at.layer_size), cu_seqlens, B, at)
