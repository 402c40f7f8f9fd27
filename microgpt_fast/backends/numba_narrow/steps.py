"""Training steps of a narrow model: the mathematics of numba_general's `gpt_train_steps` with constant sizes.

A step passes the batch through the model and back, a tile of rows at a time, as far as the gradients of
activations; then each tile of a weight takes its gradient from all rows of the batch and moves at once. No
sum depends on how rows are cut into tiles, nor anything on how many steps a call has.

Rows beyond the batch are computed too, where a tile reaches that far: they hold what earlier steps left, or
0, and have the weight 0 in the loss.
"""

import math

from ..numba_batch import document_losses, first_bad_document, pack_batch
from ..numba_compile import helper, kernel
from ..numba_rows import rows_pointer, tile_height
from ..numba_simd import denormals_flush, denormals_restore, pointer
from .attention import attention, attention_backward
from .backward import feed_backward, head_backward, qkv_backward
from .forward import embed, feed_forward, loss, qkv, transpose_all
from .layout import HEAD_WIDTHS, MASKED, PLANE, WIDTHS
from .update import update_all


@helper
def _copy(to, layers_to, source, layers_from, at):
    """Parameters or moments between the caller's buffer and the workspace, where lm_head, the last before the
    layers, is padded at its end"""
    for i in range(at.layers_outside):
        to[i] = source[i]
    for i in range(at.L * at.w.layer_size):
        to[layers_to + i] = source[layers_from + i]


@helper
def _take_in(s, params, m, v, reals, at):
    for i in range(reals):
        s[i] = 0
    inside, outside = at.w.layers, at.layers_outside
    _copy(s, inside, params, outside, at)
    _copy(s + at.w.size, inside, m, outside, at)
    _copy(s + 2 * at.w.size, inside, v, outside, at)
    for j in range(at.V, at.width):
        s[at.mask + j] = MASKED


@helper
def _give_back(params, m, v, s, at):
    inside, outside = at.w.layers, at.layers_outside
    _copy(params, outside, s, inside, at)
    _copy(m, outside, s + at.w.size, inside, at)
    _copy(v, outside, s + 2 * at.w.size, inside, at)


@helper
def _pass(s, rows, N, B, at):
    """Through the model and back, as far as the gradients of activations"""
    transpose_all(s, at)
    embed(s, rows, N, at)
    for layer in range(at.L):
        y, w = s + (at.layers + layer * at.layer_size), s + (at.w.layers + layer * at.w.layer_size)
        qkv(s, y, w, N, at)
        attention(y, rows, B, at)
        feed_forward(s, y, w, N, at)
    loss(s, rows, N, at)
    head_backward(s, y + PLANE.dx * at.plane, N, at)
    for layer in range(at.L - 1, -1, -1):
        y, w = s + (at.layers + layer * at.layer_size), s + (at.w.layers + layer * at.w.layer_size)
        feed_backward(s, y, w, N, at)
        attention_backward(s, y, rows, B, at)
        to = y + (PLANE.dx * at.plane - at.layer_size) if layer else s + at.dx0
        qkv_backward(s, y, w, to, N, layer, at)


def _train_steps_of(C, D):
    def train_steps(
        losses, params, m, v, tokens, starts, lengths, k, B, lr, beta1, beta2, eps, weight_decay, first_step,
        work, rows, at,
    ):  # fmt: skip
        # numba_general's gpt_train_steps for n_embd C and head_dim D
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
        _give_back(params, m, v, s, at)
        denormals_restore(before)
        return -1

    # what comes from the cache is linked by name: it must be another one for other constants
    train_steps.__qualname__ = f"train_steps_{C}_{D}"
    return kernel(train_steps)


TRAIN_STEPS = {(C, D): _train_steps_of(C, D) for C in WIDTHS for D in HEAD_WIDTHS}
