"""Every kernel of microgpt_fast_kernels.h for Numba: functions to call from Python, or from jitted code of
your own.

Names, arguments and return values are the C ones. Matrices are arrays, of whatever shape, whose first element
is the matrix's: rows are contiguous and ld_* (or the row's length) elements apart. An argument that may be
NULL in C may be None. Nothing is checked. The GIL is released.

The functions are compiled at their first call for a dtype and kept on disk (numba_compile.py). Within,
matrices are pointers (numba_simd/), and `n` is the number of lanes of a vector. What computes is in
numba_gemm.py, numba_attention.py and numba_layers.py; the whole model, from the same parts, in numba_general/.
"""

import sys

from . import numba_general, numba_narrow
from .numba_attention import attention_head, attention_head_backward, attention_head_decode
from .numba_batch import outside
from .numba_compile import inline, kernel
from .numba_docs import described
from .numba_engine import JitEngine
from .numba_gemm import ACTIVATE_GRADIENT, ADD, STORE, gemm, gemm_aux, gemm_transposed
from .numba_general import gpt_backward, gpt_decode, gpt_forward, gpt_layout, gpt_train_steps  # noqa: F401
from .numba_layers import (
    activate,
    adam,
    add_rows,
    exp_lanes,
    largest_of_row,
    log_number,
    rmsnorm_rows,
    rmsnorm_rows_backward,
    turn_heads,
)
from .numba_simd import is_null, lanes, load_partial, pointer, stack, store_partial, sum_lanes, zeros
from .numba_update import gpt_update  # noqa: F401

HAS_EXACT = False
HAS_MIXED = False


def path_of(config, numerics="fast", dtype=None):
    """The path that computes a model: "narrow", "general" or "composed"; None for exact numerics."""
    if numerics == "exact":
        return None
    return (
        "narrow" if numba_narrow.serves(config) else "general" if numba_general.serves(config) else "composed"
    )


# ---- gemm


@described
@kernel
def gemm_nn(c, a, b, M, N, K, ld_c, ld_a, ld_b, accumulate):
    """Matrix product: c = a b, or c += a b."""
    c, a, b = pointer(c, c), pointer(a, a), pointer(b, b)
    gemm(ADD if accumulate else STORE, M, N, K, a, ld_a, 1, b, ld_b, c, ld_c)


@described
@kernel
def gemm_nt(c, a, b, M, N, K, ld_c, ld_a, ld_b, accumulate):
    """Matrix product with a transposed matrix: c = a b^T, or c += a b^T."""
    c, a, b = pointer(c, c), pointer(a, a), pointer(b, b)
    gemm_transposed(ADD if accumulate else STORE, M, N, K, a, ld_a, 1, b, ld_b, c, ld_c)


@described
@kernel
def gemm_tn(c, a, b, M, N, K, ld_c, ld_a, ld_b, accumulate):
    """Matrix product with a transposed matrix: c = a^T b, or c += a^T b."""
    c, a, b = pointer(c, c), pointer(a, a), pointer(b, b)
    gemm(ADD if accumulate else STORE, M, N, K, a, 1, ld_a, b, ld_b, c, ld_c)


# ---- embedding


@described
@kernel
def embedding_forward(x, tokens, positions, wte, wpe, N, C, V, T):
    """Embeddings of tokens and positions, added: x_i = wte[token_i] + wpe[position_i]."""
    tokens, positions = pointer(tokens, tokens), pointer(positions, positions)
    x, wte, wpe = pointer(x, x), pointer(wte, x), pointer(wpe, x)
    for i in range(N):
        if outside(tokens, i, V) or outside(positions, i, T):
            return i
    for i in range(N):
        add_rows(x + i * C, wte + tokens[i] * C, wpe + positions[i] * C, C)
    return -1


@described
@kernel
def embedding_backward(dwte, dwpe, dx, tokens, positions, N, C, V, T):
    """Gradients of `embedding_forward`: dwte[token_i] += dx_i, dwpe[position_i] += dx_i, rows in ascending order."""
    tokens, positions = pointer(tokens, tokens), pointer(positions, positions)
    dwte, dwpe, dx = pointer(dwte, dx), pointer(dwpe, dx), pointer(dx, dx)
    for i in range(N):
        if outside(tokens, i, V) or outside(positions, i, T):
            return i
    for i in range(N):
        token, position = dwte + tokens[i] * C, dwpe + positions[i] * C
        add_rows(token, token, dx + i * C, C)
        add_rows(position, position, dx + i * C, C)
    return -1


# ---- rmsnorm


@described
@kernel
def rmsnorm_forward(y, rstd, x, gain, N, C, eps):
    """Rows over their root mean square: y = x * rstd (* gain), rstd = (mean(x^2) + eps)^(-1/2)."""
    y, rstd, gain, x = pointer(y, x), pointer(rstd, x), pointer(gain, x), pointer(x, x)
    rmsnorm_rows(y, C, rstd, x, C, gain, N, C, eps)


@described
@kernel
def rmsnorm_backward(dx, dgain, dy, x, gain, rstd, N, C, accumulate_dx):
    """Gradients of `rmsnorm_forward`, where g = dy (* gain):

    dx = rstd * g - x * rstd^3 / C * sum(x * g),  dgain += sum over rows of dy * x * rstd
    """
    dx, dgain, dy, gain = pointer(dx, x), pointer(dgain, x), pointer(dy, x), pointer(gain, x)
    rstd, nothing, x = pointer(rstd, x), pointer(None, x), pointer(x, x)
    n = lanes(x)
    rmsnorm_rows_backward(dx, dx if accumulate_dx else nothing, dy, x, False, gain, rstd, C, N, C)
    if not is_null(dgain):
        for i in range(N):
            for c in range(0, C, n):
                count = min(n, C - c)
                d = load_partial(dy, i * C + c, count) * load_partial(x, i * C + c, count) * rstd[i]
                store_partial(dgain, c, load_partial(dgain, c, count) + d, count)


# ---- linear


@described
@kernel
def linear_forward(y, x, w, N, C, O):
    """A linear layer: y = x w^T."""
    y, x, w = pointer(y, y), pointer(x, x), pointer(w, w)
    gemm_transposed(STORE, N, O, C, x, C, 1, w, C, y, O)


@described
@kernel
def linear_backward(dx, dw, dy, x, w, N, C, O, accumulate_dx):
    """Gradients of `linear_forward`: dx = dy w, dw += dy^T x; where one is None, the other alone."""
    dx, dw, dy, x, w = pointer(dx, dy), pointer(dw, dy), pointer(dy, dy), pointer(x, x), pointer(w, w)
    if not is_null(dx):
        gemm(ADD if accumulate_dx else STORE, N, C, O, dy, O, 1, w, C, dx, C)
    if not is_null(dw):
        gemm(ADD, O, C, N, dy, 1, O, x, C, dw, C)


# ---- attention


@inline
def _slope_of(slopes, h):
    return 0.0 if is_null(slopes) else float(slopes[h])


@described
@kernel
def attention_forward(o, lse, q, k, v, ld_o, ld_qkv, cu_seqlens, B, H, D, scale, slopes):
    """Causal attention of each document's rows to its own:

    s[i, j] = scale * q_i . k_j - slope_h * (i - j) for j <= i
    p = softmax(s),  o_i = sum_j p[i, j] v_j,  lse_i = log sum_j exp s[i, j]
    """
    slopes, cu_seqlens = pointer(slopes, o), pointer(cu_seqlens, cu_seqlens)
    lse, q, k, v, o = pointer(lse, o), pointer(q, o), pointer(k, o), pointer(v, o), pointer(o, o)
    for b in range(B):
        first, T = cu_seqlens[b], cu_seqlens[b + 1] - cu_seqlens[b]
        for h in range(H):
            at, out = first * ld_qkv + h * D, first * ld_o + h * D
            attention_head(
                o + out, ld_o, lse + (first * H + h), H, q + at, k + at, v + at, ld_qkv, T, D, scale,
                _slope_of(slopes, h),
            )  # fmt: skip


@described
@kernel
def attention_backward(
    dq, dk, dv, delta, d_o, o, lse, q, k, v, ld_o, ld_qkv, cu_seqlens, B, H, D, scale, slopes
):  # fmt: skip
    """Gradients of `attention_forward`:

    delta_i = do_i . o_i,  ds[i, j] = p[i, j] * (do_i . v_j - delta_i)
    dq_i = scale * sum_j ds[i, j] k_j, dk_j = scale * sum_i ds[i, j] q_i, dv_j = sum_i p[i, j] do_i
    """
    slopes, cu_seqlens = pointer(slopes, o), pointer(cu_seqlens, cu_seqlens)
    dq, dk, dv = pointer(dq, o), pointer(dk, o), pointer(dv, o)
    delta, d_o = pointer(delta, o), pointer(d_o, o)
    lse, q, k, v, o = pointer(lse, o), pointer(q, o), pointer(k, o), pointer(v, o), pointer(o, o)
    for b in range(B):
        first, T = cu_seqlens[b], cu_seqlens[b + 1] - cu_seqlens[b]
        for h in range(H):
            at, out, row = first * ld_qkv + h * D, first * ld_o + h * D, first * H + h
            attention_head_backward(
                dq + at, dk + at, dv + at, delta + row, d_o + out, o + out, ld_o, lse + row, H,
                q + at, k + at, v + at, ld_qkv, T, D, scale, _slope_of(slopes, h),
            )  # fmt: skip


@described
@kernel
def attention_decode(o, q, k_cache, v_cache, lengths, B, T_max, H, D, scale, slopes):
    """`attention_forward` of one query per document, that of the last of lengths[b] positions."""
    slopes, lengths = pointer(slopes, o), pointer(lengths, lengths)
    q, k, v, o = pointer(q, o), pointer(k_cache, o), pointer(v_cache, o), pointer(o, o)
    for b in range(B):
        for h in range(H):
            row, cache = (b * H + h) * D, (b * T_max * H + h) * D
            slope = _slope_of(slopes, h)
            attention_head_decode(o + row, q + row, k + cache, v + cache, H * D, lengths[b], D, scale, slope)


# ---- rope


@described
@kernel
def rope_forward(y, x, positions, N, H, D, base):
    """Pairs (x_i, x_(i + D/2)) of every head's row turned by the angle positions_n * base^(-2i / D)."""
    turn_heads(pointer(y, y), pointer(x, x), pointer(positions, positions), N, H, D, base, 1.0)


@described
@kernel
def rope_backward(dx, dy, positions, N, H, D, base):
    """The gradient of `rope_forward`: dy turned the other way."""
    turn_heads(pointer(dx, dx), pointer(dy, dy), pointer(positions, positions), N, H, D, base, -1.0)


# ---- mlp

MLP_ROWS, MLP_COLUMNS = 64, 128  # a block of f(h) on the stack
MLP_SIZE = MLP_ROWS * MLP_COLUMNS


@described
@kernel
def mlp_forward(y, h, x, w1, w2, N, C, F, activation):
    """A feed-forward layer: h = x w1^T, y = f(h) w2^T; h is for the backward pass."""
    y, h, x, w1, w2 = pointer(y, x), pointer(h, x), pointer(x, x), pointer(w1, x), pointer(w2, x)
    a = stack(x, MLP_SIZE)
    gemm_transposed(STORE, N, F, C, x, C, 1, w1, C, h, F)
    for i in range(0, N, MLP_ROWS):
        rows = min(MLP_ROWS, N - i)
        for j in range(0, max(F, 1), MLP_COLUMNS):
            columns = min(MLP_COLUMNS, F - j)
            activate(a, columns, h + (i * F + j), F, rows, columns, activation)
            mode = ADD if j else STORE
            gemm_transposed(mode, rows, C, columns, a, columns, 1, w2 + j, F, y + i * C, C)


@described
@kernel
def mlp_backward(dx, dw1, dw2, dh, dy, h, x, w1, w2, N, C, F, activation):
    """Gradients of `mlp_forward`: dh = (dy w2) f'(h), dx = dh w1, dw1 += dh^T x, dw2 += dy^T f(h)."""
    dx, dw1, dw2, dh, dy = pointer(dx, x), pointer(dw1, x), pointer(dw2, x), pointer(dh, x), pointer(dy, x)
    h, w1, w2, x = pointer(h, x), pointer(w1, x), pointer(w2, x), pointer(x, x)
    n = lanes(x)
    a = stack(x, MLP_SIZE)
    gemm_aux(ACTIVATE_GRADIENT, activation, N, F, C, dy, C, 1, w2, F, 2 * n, dh, F, h, F)
    gemm(STORE, N, C, F, dh, F, 1, w1, C, dx, C)
    gemm(ADD, F, C, N, dh, 1, F, x, C, dw1, C)
    for i in range(0, N, MLP_ROWS):
        rows = min(MLP_ROWS, N - i)
        for j in range(0, F, MLP_COLUMNS):
            columns = min(MLP_COLUMNS, F - j)
            activate(a, columns, h + (i * F + j), F, rows, columns, activation)
            gemm(ADD, C, columns, rows, dy + i * C, 1, C, a, columns, dw2 + j, F)


# ---- cross entropy


@inline
def _first_bad_target(targets, N, V):
    for i in range(N):
        if outside(targets, i, V):
            return i
    return -1


@described
@kernel
def cross_entropy_forward(losses, lse, logits, targets, N, V):
    """Cross-entropy of each row: losses_i = lse_i - logits[i, target_i], lse_i = log sum_j exp logits[i, j].

    The largest logit is subtracted from both, so that logits far from 0 lose nothing.
    """
    losses, lse, targets = pointer(losses, logits), pointer(lse, logits), pointer(targets, targets)
    logits = pointer(logits, logits)
    bad = _first_bad_target(targets, N, V)
    if bad >= 0:
        return bad
    n = lanes(logits)
    for i in range(N):
        row = logits + i * V
        largest, total = largest_of_row(row, V), zeros(logits)
        for j in range(0, V, n):
            total += exp_lanes(row, j, largest, V)
        log_total = log_number(sum_lanes(total), logits)
        lse[i] = largest + log_total
        losses[i] = log_total - (row[targets[i]] - largest)
    return -1


@described
@kernel
def cross_entropy_backward(dlogits, dlosses, lse, logits, targets, N, V):
    """Gradient of `cross_entropy_forward`:

    dlogits[i, j] = dlosses_i * (exp(logits[i, j] - lse_i) - (j == target_i))
    """
    dlogits, dlosses = pointer(dlogits, logits), pointer(dlosses, logits)
    targets, logits = pointer(targets, targets), pointer(logits, logits)
    bad = _first_bad_target(targets, N, V)
    if bad >= 0:
        return bad
    n = lanes(logits)
    for i in range(N):
        row, out = logits + i * V, dlogits + i * V
        largest, total = largest_of_row(row, V), zeros(logits)
        for j in range(0, V, n):
            e = exp_lanes(row, j, largest, V)
            store_partial(out, j, e, min(n, V - j))
            total += e
        factor = dlosses[i] / sum_lanes(total)
        for j in range(0, V, n):
            store_partial(out, j, load_partial(out, j, min(n, V - j)) * factor, min(n, V - j))
        out[targets[i]] -= dlosses[i]
    return -1


# ---- Adam


@described
@kernel
def adamw_step(p, m, v, g, n, lr, beta1, beta2, eps, weight_decay, step):
    """A step of AdamW with the gradient g:

    m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
    p -= lr * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay * p)
    """
    p, m, v, g = pointer(p, g), pointer(m, g), pointer(v, g), pointer(g, g)
    adam(p, m, v, g, 1.0, n, lr, beta1, beta2, eps, weight_decay, step)


class Engine(JitEngine):
    """The whole model on these kernels; see `JitEngine`."""

    def __init__(self, config, dtype, numerics="fast", threads=1):
        super().__init__(sys.modules[__name__], config, dtype, numerics, threads)
