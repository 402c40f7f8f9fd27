"""What a narrow model's training steps end with: weights take their gradients from all rows, and move."""

from .composed import RELU2
from .numba_compile import helper, inline
from .numba_micro_layout import DH, DQ, DX, DX1, H1, H2, HIDDEN, SQUARED, O
from .numba_rows import load_column, load_row, repeat, row_width, tile_height, zero_row, zero_rows
from .numba_simd import fma, sqrt, store


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
    for t in range(N):
        d = load_row(dx0 + t * C)
        token, position = grads + rows[at.tokens + t] * C, grads + (at.V + rows[at.positions + t]) * C
        store(token, 0, load_row(token) + d)
        store(position, 0, load_row(position) + d)
    for i in range(0, (at.V + at.T) * C, C):
        _adam_row(s + i, load_row(grads + i), at.size, adam)
        store(grads, i, zero_row(s))


@helper
def update_all(s, rows, N, at, adam):
    """Every weight moves. adam is (beta1, 1 - beta1, beta2, 1 - beta2, rate, epsilon, 1 - lr weight_decay),
    with the corrections 1 - beta^step of both moments in rate and epsilon."""
    C, tile = row_width(s), s + at.tile
    _update(s + at.head, at.width, C, s + at.logits, at.width, s + at.x, C, N, tile, at.size, adam)
    for layer in range(at.L):
        y, w = s + (at.layer + layer * at.layer_size), s + (at.w_layer + layer * 12 * C * C)
        a = y + (SQUARED if at.activation == RELU2 else HIDDEN) * at.plane
        for j in range(3):
            dq, h1 = y + (DQ + j) * at.plane, y + H1 * at.plane
            _update(w + j * C * C, C, C, dq, C, h1, C, N, tile, at.size, adam)
        dx1, o, df, h2 = y + DX1 * at.plane, y + O * at.plane, y + DH * at.plane, y + H2 * at.plane
        _update(w + 3 * C * C, C, C, dx1, C, o, C, N, tile, at.size, adam)
        _update(w + 4 * C * C, 4 * C, C, df, 4 * C, h2, C, N, tile, at.size, adam)
        _update(w + 8 * C * C, C, 4 * C, y + DX * at.plane, C, a, 4 * C, N, tile, at.size, adam)
    _update_embeddings(s, rows, N, at, adam)
