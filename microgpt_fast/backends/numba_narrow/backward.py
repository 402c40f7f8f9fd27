"""A narrow model backward, as far as the gradients of activations, a tile of rows at a time."""

from ..numba_activations import RELU2
from ..numba_compile import helper
from ..numba_rows import (
    load_rows,
    load_statistics,
    row_width,
    store_rows,
    tile_height,
    zero_rows,
)
from ..numba_simd import store, where
from .layout import PLANE
from .tiles import norm_backward, product


@helper
def head_backward(s, dx, N, at):
    """dx = dlogits lm_head"""
    C = row_width(s)
    for i in range(0, N, tile_height(s)):
        d = product(zero_rows(s), at.V, s + (at.logits + i * at.width), at.width, s + at.w.lm_head, C)
        store(dx, i * C, d)


@helper
def feed_backward(s, y, w, N, at):
    """Inverts `feed_forward`, from dx down to dx1 and d_o."""
    C, R = row_width(s), tile_height(s)
    wo, fc1, fc2 = w + at.w.attn_wo, w + at.w.mlp_fc1, w + at.w.mlp_fc2
    dx, dx1, d_o = y + PLANE.dx * at.plane, y + PLANE.dx1 * at.plane, y + PLANE.d_o * at.plane
    df, r, h2 = y + PLANE.dh * at.plane, y + PLANE.r * at.plane, y + PLANE.h2 * at.plane
    for i in range(0, N, R):
        row = i * C
        for j in range(0, 4 * C, C):
            d = product(zero_rows(s), C, dx + row, C, fc2 + j, 4 * C)
            h = load_rows(r + (4 * row + j), 4 * C)
            d = 2 * h * d if at.activation == RELU2 else where(h > 0, d, d * 0)  # NaN times 0 is NaN
            store_rows(df + (4 * row + j), 4 * C, d)
        dh = product(zero_rows(s), 4 * C, df + 4 * row, 4 * C, fc1, C)
        d = norm_backward(s, dh, load_rows(h2 + row, C), load_statistics(y + at.rstd2 + i))
        store(dx1, row, load_rows(dx + row, C) + d)
        store(d_o, row, product(zero_rows(s), C, dx1 + row, C, wo, C))


@helper
def qkv_backward(s, y, w, to, N, layer, at):
    """Inverts `qkv`, from dq, dk, dv (and dx1) down to x's gradient, and in the first layer `embed`."""
    C, R = row_width(s), tile_height(s)
    wq = w + at.w.attn_wq
    dq, dx1, h1, h0 = y + PLANE.dq * at.plane, y + PLANE.dx1 * at.plane, y + PLANE.h1 * at.plane, s + at.h0
    for i in range(0, N, R):
        row, dh = i * C, zero_rows(s)
        for j in range(3):
            dh = product(dh, C, dq + (j * at.plane + row), C, wq + j * C * C, C)
        d = norm_backward(s, dh, load_rows(h1 + row, C), load_statistics(y + at.rstd1 + i))
        d += load_rows(dx1 + row, C)
        if layer == 0:
            d = norm_backward(s, d, load_rows(h0 + row, C), load_statistics(s + at.rstd0 + i))
        store(to, row, d)
