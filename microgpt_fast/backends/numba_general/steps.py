"""What Python calls of the whole model: losses, gradients, training steps, cached decoding.

Document i of a batch reads tokens[starts[i]] .. tokens[starts[i] + lengths[i]]: each but the last is an input, each but
the first a target.
"""

import math

from ..numba_attention import attention_head_decode
from ..numba_batch import document_losses, first_bad_document, pack_batch
from ..numba_compile import kernel
from ..numba_gemm import ADD, STORE
from ..numba_layers import adam
from ..numba_simd import denormals_flush, denormals_restore, is_null, pointer
from .backward import backward, loss_rows
from .forward import block_rows, embed_rows, forward, head_rows, pack_weights, qkv_rows


@kernel
def gpt_forward(losses, logits, params, tokens, starts, lengths, B, work, rows, at):
    """losses[b] = mean cross-entropy of document b; logits [N, V] or None. Returns -1, or the first bad document."""
    w, s, rows, size = pointer(params, work), pointer(work, work), pointer(rows, rows), tokens.size
    losses, logits, tokens = pointer(losses, losses), pointer(logits, work), pointer(tokens, tokens)
    starts, lengths = pointer(starts, starts), pointer(lengths, lengths)
    bad = first_bad_document(tokens, starts, lengths, B, size, at)
    if bad >= 0:
        return bad
    before = denormals_flush()
    N = pack_batch(s, rows, tokens, starts, lengths, B, at)
    forward(w, s, rows, N, B, at)
    if not is_null(logits):
        for i in range(N):
            for j in range(at.V):
                logits[i * at.V + j] = s[at.logits + i * at.ld_v + j]
    loss_rows(s, rows + at.targets, 0, N, at)
    document_losses(losses, s, lengths, B, at)
    denormals_restore(before)
    return -1


@kernel
def gpt_backward(losses, grads, params, tokens, starts, lengths, B, work, rows, at):
    """gpt_forward, then grads += the gradient of the mean of losses"""
    w, s, rows, size = pointer(params, work), pointer(work, work), pointer(rows, rows), tokens.size
    losses, grads, tokens = pointer(losses, losses), pointer(grads, work), pointer(tokens, tokens)
    starts, lengths = pointer(starts, starts), pointer(lengths, lengths)
    bad = first_bad_document(tokens, starts, lengths, B, size, at)
    if bad >= 0:
        return bad
    before = denormals_flush()
    N = pack_batch(s, rows, tokens, starts, lengths, B, at)
    forward(w, s, rows, N, B, at)
    backward(w, s, rows, N, B, ADD, grads, at)
    document_losses(losses, s, lengths, B, at)
    denormals_restore(before)
    return -1


@kernel
def gpt_train_steps(
    losses, params, m, v, tokens, starts, lengths, k, B, lr, beta1, beta2, eps, weight_decay, first_step,
    work, rows, at,
):  # fmt: skip
    """k steps of B documents each; losses[i] is step i's, lr[i] its learning rate, first_step + i Adam's number of it.
    Returns as gpt_forward."""
    w, s, rows, size = pointer(params, work), pointer(work, work), pointer(rows, rows), tokens.size
    losses, m, v = pointer(losses, losses), pointer(m, work), pointer(v, work)
    tokens = pointer(tokens, tokens)
    starts, lengths = pointer(starts, starts), pointer(lengths, lengths)
    bad = first_bad_document(tokens, starts, lengths, k * B, size, at)
    if bad >= 0:
        return bad
    before = denormals_flush()
    grads = s + at.grads
    for step in range(k):
        N = pack_batch(s, rows, tokens, starts + step * B, lengths + step * B, B, at)
        forward(w, s, rows, N, B, at)
        backward(w, s, rows, N, B, STORE, grads, at)
        losses[step] = document_losses(pointer(None, losses), s, lengths + step * B, B, at)
        adam(w, m, v, grads, 1.0, at.w.size, lr[step], beta1, beta2, eps, weight_decay, first_step + step)
    denormals_restore(before)
    return -1


@kernel
def gpt_decode(logits, token, position, params, work, rows, at):
    """logits [V] that follow `token` at `position`. The workspace, of T rows, holds what came before; position 0 packs
    the weights."""
    w, s, rows = pointer(params, work), pointer(work, work), pointer(rows, rows)
    logits = pointer(logits, work)
    before = denormals_flush()
    if position == 0:
        pack_weights(w, s, at)
    rows[at.tokens + position], rows[at.positions + position] = token, position
    embed_rows(w, s, rows + at.tokens, rows + at.positions, position, 1, at)
    for layer in range(at.L):
        qkv_rows(s, layer, position, 1, at)
        y = s + (at.layers + layer * at.layer_size)
        q = y + (at.qkv + position * at.ld_3c)
        o, k = y + (at.o + position * at.ld_c), y + (at.qkv + at.C)
        for h in range(at.H):
            head, scale = h * at.D, 1 / math.sqrt(at.D)
            k_head = k + head
            attention_head_decode(
                o + head, q + head, k_head, k_head + at.C, at.ld_3c, position + 1, at.D, scale, 0.0
            )
        block_rows(s, layer, position, 1, at)
    head_rows(s, position, 1, at)
    for j in range(at.V):
        logits[j] = s[at.logits + position * at.ld_v + j]
    denormals_restore(before)
