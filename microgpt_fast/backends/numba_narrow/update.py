"""What a narrow model's training steps end with: weights take their gradients from all rows, and move."""

from ..numba_activations import RELU2
from ..numba_compile import helper, inline
from ..numba_rows import load_column, load_row, repeat, row_width, tile_height, zero_row, zero_rows
from ..numba_simd import fma, sqrt, store
from .layout import PLANE


@inline
def _adam_row(p, g, size, adam):
    """Moves the row at p, whose gradient is g, and its moments."""
    beta1, rest1, beta2, rest2, rate, epsilon, keep = adam
    m = fma(load_row(p + size), beta1, g * rest1)
    v = fma(load_row(p + 2 * size), beta2, g * g * rest2)
    store(p, size, m)
    store(p, 2 * size, v)
    store(p, 0, load_row(p) * keep - m * rate / (sqrt(v) + epsilon))


@helper
def _update(w, outputs, inputs, dy, ld_dy, x, ld_x, N, tile, size, adam):
    """A weight w [outputs, inputs] moves by its gradient dy^T x, summed over all rows of the batch.

    A tile's gradient goes through memory, so that Adam takes a row after the other: then the processor finds
    the next tile's sums beside the slow roots and divisions.
    """
    C, R = row_width(w), tile_height(w)
    for o in range(0, outputs, R):
        for i in range(0, inputs, C):
            g = zero_rows(w)
            for t in range(N):
                g = fma(load_column(dy + (t * ld_dy + o), 1), repeat(load_row(x + (t * ld_x + i)), g), g)
            store(tile, 0, g)
            for r in range(R):
                _adam_row(w + ((o + r) * inputs + i), load_row(tile + r * C), size, adam)


@helper
def _update_embeddings(s, rows, N, at, adam):
    """wte and wpe move; their gradients are sums of dx0 over the rows with the token or position."""
    C = row_width(s)
    grads, dx0 = s + at.embedding_grads, s + at.dx0
    dwte, dwpe = grads + at.w.wte, grads + at.w.wpe
    for t in range(N):
        d = load_row(dx0 + t * C)
        token, position = dwte + rows[at.tokens + t] * C, dwpe + rows[at.positions + t] * C
        store(token, 0, load_row(token) + d)
        store(position, 0, load_row(position) + d)
    for i in range(0, at.embeddings, C):
        _adam_row(s + i, load_row(grads + i), at.w.size, adam)
        store(grads, i, zero_row(s))


@helper
def update_all(s, rows, N, at, adam):
    """Every weight moves. adam is (beta1, 1 - beta1, beta2, 1 - beta2, rate, epsilon, 1 - lr weight_decay),
    with the corrections 1 - beta^step of both moments in rate and epsilon."""
    C, tile = row_width(s), s + at.tile
    _update(s + at.w.lm_head, at.width, C, s + at.logits, at.width, s + at.x, C, N, tile, at.w.size, adam)
    for layer in range(at.L):
        y, w = s + (at.layers + layer * at.layer_size), s + (at.w.layers + layer * at.w.layer_size)
        a = y + (PLANE.squared if at.activation == RELU2 else PLANE.r) * at.plane
        for j in range(3):
            dq, h1 = y + (PLANE.dq + j) * at.plane, y + PLANE.h1 * at.plane
            _update(w + (at.w.attn_wq + j * C * C), C, C, dq, C, h1, C, N, tile, at.w.size, adam)
        dx, dx1, o = y + PLANE.dx * at.plane, y + PLANE.dx1 * at.plane, y + PLANE.o * at.plane
        dh, h2 = y + PLANE.dh * at.plane, y + PLANE.h2 * at.plane
        _update(w + at.w.attn_wo, C, C, dx1, C, o, C, N, tile, at.w.size, adam)
        _update(w + at.w.mlp_fc1, 4 * C, C, dh, 4 * C, h2, C, N, tile, at.w.size, adam)
        _update(w + at.w.mlp_fc2, C, 4 * C, dx, C, a, 4 * C, N, tile, at.w.size, adam)
    _update_embeddings(s, rows, N, at, adam)
