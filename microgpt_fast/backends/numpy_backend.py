"""Every kernel of microgpt_fast_kernels.h in NumPy: the readable twin, to which the others are compared.

Names, arguments and return values are the C ones. Arrays have the shapes given there and their own strides,
so the row strides ld_* and some sizes are not needed here. Outputs are written in place; an argument that may
be NULL in C may be None. The arithmetic is that of the arrays' dtype, float32 or float64.
"""

import sys

import numpy as np

from .composed import ComposedEngine
from .numpy_activations import ACTIVATIONS, BY_CODE  # noqa: F401

HAS_EXACT = False
HAS_MIXED = False


def path_of(config, numerics="fast", dtype=None):
    """The path that computes a model: composed from the kernels; None for exact numerics."""
    return "composed" if numerics == "fast" else None


def _store(out, value, accumulate):
    if accumulate:
        out += value
    else:
        out[...] = value


def _first_outside(*values_and_limits):
    """First index at which one of the (values, limit) pairs is not in 0 .. limit - 1; -1 if there is none."""
    outside = np.logical_or.reduce([(values < 0) | (values >= limit) for values, limit in values_and_limits])
    return int(outside.argmax()) if outside.any() else -1


def embedding_forward(x, tokens, positions, wte, wpe, N, C, V, T):
    # x_i = wte[token_i] + wpe[position_i]
    bad = _first_outside((tokens, V), (positions, T))
    if bad < 0:
        x[...] = wte[tokens] + wpe[positions]
    return bad


def embedding_backward(dwte, dwpe, dx, tokens, positions, N, C, V, T):
    # dwte[token_i] += dx_i, dwpe[position_i] += dx_i
    bad = _first_outside((tokens, V), (positions, T))
    if bad < 0:
        np.add.at(dwte, tokens, dx)
        np.add.at(dwpe, positions, dx)
    return bad


def rmsnorm_forward(y, rstd, x, gain, N, C, eps):
    # y = x * rstd (* gain), rstd = (mean(x^2) + eps)^(-1/2)
    rstd[...] = 1 / np.sqrt((x * x).sum(axis=1) / C + eps)
    y[...] = x * rstd[:, None]
    if gain is not None:
        y *= gain


def rmsnorm_backward(dx, dgain, dy, x, gain, rstd, N, C, accumulate_dx):
    # g = dy (* gain), dx = rstd * g - x * rstd^3 / C * sum(x * g), dgain += sum over rows of dy * x * rstd
    r = rstd[:, None]
    g = dy if gain is None else dy * gain
    _store(dx, r * g - x * (r**3 / C * (x * g).sum(axis=1, keepdims=True)), accumulate_dx)
    if dgain is not None:
        dgain += (dy * x * r).sum(axis=0)


def linear_forward(y, x, w, N, C, O):
    # y = x w^T
    y[...] = x @ w.T


def linear_backward(dx, dw, dy, x, w, N, C, O, accumulate_dx):
    # dx = dy w, dw += dy^T x
    if dx is not None:
        _store(dx, dy @ w, accumulate_dx)
    if dw is not None:
        dw += dy.T @ x


def _documents(cu_seqlens, B):
    """The rows of every document that has any."""
    for b in range(B):
        if cu_seqlens[b] < cu_seqlens[b + 1]:
            yield slice(int(cu_seqlens[b]), int(cu_seqlens[b + 1]))


def _scores(q, k, scale, slopes):
    """s[h, i, j] = scale * q_i . k_j - slope_h * (i - j), -inf for j > i; the last query sees every key."""
    distance = np.arange(len(k) - len(q), len(k))[:, None] - np.arange(len(k))
    s = scale * (q.transpose(1, 0, 2) @ k.transpose(1, 2, 0))
    if slopes is not None:
        s -= slopes[:, None, None] * distance.astype(s.dtype)
    s[:, distance < 0] = -np.inf
    return s


def _sum_over_keys(p, x):
    """Sum over j <= i of p[h, i, j] x[h, j], where p is 0 for j > i: NaN or infinity there counts for nothing."""
    sums = p @ x
    if not np.isfinite(x).all():
        for i in range(p.shape[1]):
            sums[:, i] = (p[:, i : i + 1, : i + 1] @ x[:, : i + 1])[:, 0]
    return sums


def _sum_over_queries(p, x):
    """Sum over i >= j of p[h, i, j] x[h, i], likewise."""
    sums = p.transpose(0, 2, 1) @ x
    if not np.isfinite(x).all():
        for j in range(p.shape[2]):
            sums[:, j] = (p[:, j:, j : j + 1].transpose(0, 2, 1) @ x[:, j:])[:, 0]
    return sums


def attention_forward(o, lse, q, k, v, ld_o, ld_qkv, cu_seqlens, B, H, D, scale, slopes):
    # p = softmax(s), o_i = sum_j p[i, j] v_j, lse_i = log sum_j exp s[i, j]
    for rows in _documents(cu_seqlens, B):
        s = _scores(q[rows], k[rows], scale, slopes)
        largest = s.max(axis=2, keepdims=True)
        e = np.exp(s - largest)
        total = e.sum(axis=2, keepdims=True)
        o[rows] = _sum_over_keys(e / total, v[rows].transpose(1, 0, 2)).transpose(1, 0, 2)
        lse[rows] = (largest + np.log(total))[:, :, 0].T


def attention_backward(
    dq, dk, dv, delta, d_o, o, lse, q, k, v, ld_o, ld_qkv, cu_seqlens, B, H, D, scale, slopes
):  # fmt: skip
    # delta_i = do_i . o_i, ds[i, j] = p[i, j] * (do_i . v_j - delta_i)
    # dq_i = scale * sum_j ds[i, j] k_j, dk_j = scale * sum_i ds[i, j] q_i, dv_j = sum_i p[i, j] do_i
    delta[...] = (d_o * o).sum(axis=2)
    for rows in _documents(cu_seqlens, B):
        d_o_h, q_h, k_h, v_h = (a[rows].transpose(1, 0, 2) for a in (d_o, q, k, v))
        p = np.tril(np.exp(_scores(q[rows], k[rows], scale, slopes) - lse[rows].T[:, :, None]))
        ds = np.tril(p * (d_o_h @ v_h.transpose(0, 2, 1) - delta[rows].T[:, :, None]))
        dq[rows] = (scale * _sum_over_keys(ds, k_h)).transpose(1, 0, 2)
        dk[rows] = (scale * _sum_over_queries(ds, q_h)).transpose(1, 0, 2)
        dv[rows] = _sum_over_queries(p, d_o_h).transpose(1, 0, 2)


def attention_decode(o, q, k_cache, v_cache, lengths, B, T_max, H, D, scale, slopes):
    # attention_forward for the last of lengths[b] positions
    for b in range(B):
        k, v = k_cache[b, : lengths[b]], v_cache[b, : lengths[b]]
        s = _scores(q[b][None], k, scale, slopes)
        e = np.exp(s - s.max(axis=2, keepdims=True))
        o[b] = (e / e.sum(axis=2, keepdims=True) @ v.transpose(1, 0, 2))[:, 0]


def _turned(x, positions, D, base):
    """x [N, H, D], of whose rows the pairs (x_i, x_(i + D/2)) are turned by the angle position * base^(-2i / D)."""
    half = D // 2
    angles = positions[:, None, None] * base ** (-np.arange(half) / half)
    cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=2)


def rope_forward(y, x, positions, N, H, D, base):
    y[...] = _turned(x, positions, D, base)


def rope_backward(dx, dy, positions, N, H, D, base):
    dx[...] = _turned(dy, -positions, D, base)


def mlp_forward(y, h, x, w1, w2, N, C, F, activation):
    # h = x w1^T, y = f(h) w2^T
    h[...] = x @ w1.T
    value, _ = BY_CODE[activation]
    y[...] = value(h) @ w2.T


def mlp_backward(dx, dw1, dw2, dh, dy, h, x, w1, w2, N, C, F, activation):
    # dh = (dy w2) f'(h), dx = dh w1, dw1 += dh^T x, dw2 += dy^T f(h)
    value, slope = BY_CODE[activation]
    dh[...] = (dy @ w2) * slope(h)
    dx[...] = dh @ w1
    dw1 += dh.T @ x
    dw2 += dy.T @ value(h)


def cross_entropy_forward(losses, lse, logits, targets, N, V):
    # losses_i = lse_i - logits[i, target_i], lse_i = log sum_j exp logits[i, j], both less the largest logit
    bad = _first_outside((targets, V))
    if bad < 0 and N:
        largest = logits.max(axis=1)
        log_total = np.log(np.exp(logits - largest[:, None]).sum(axis=1))
        lse[...] = largest + log_total
        losses[...] = log_total - (logits[np.arange(N), targets] - largest)
    return bad


def cross_entropy_backward(dlogits, dlosses, lse, logits, targets, N, V):
    # dlogits[i, j] = dlosses_i * (exp(logits[i, j] - lse_i) - (j == target_i))
    bad = _first_outside((targets, V))
    if bad < 0 and N:
        dlogits[...] = np.exp(logits - logits.max(axis=1, keepdims=True))
        dlogits /= dlogits.sum(axis=1, keepdims=True)
        dlogits[np.arange(N), targets] -= 1
        dlogits *= dlosses[:, None]
    return bad


def adamw_step(p, m, v, g, n, lr, beta1, beta2, eps, weight_decay, step):
    # m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2
    # p -= lr * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay * p)
    m[...] = beta1 * m + (1 - beta1) * g
    v[...] = beta2 * v + (1 - beta2) * (g * g)
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    p -= lr * (m_hat / (np.sqrt(v_hat) + eps) + weight_decay * p)


def gemm_nn(c, a, b, M, N, K, ld_c, ld_a, ld_b, accumulate):
    # c (+)= a b
    _store(c, a @ b, accumulate)


def gemm_nt(c, a, b, M, N, K, ld_c, ld_a, ld_b, accumulate):
    # c (+)= a b^T
    _store(c, a @ b.T, accumulate)


def gemm_tn(c, a, b, M, N, K, ld_c, ld_a, ld_b, accumulate):
    # c (+)= a^T b
    _store(c, a.T @ b, accumulate)


class Engine(ComposedEngine):
    """The whole model on these kernels; see `ComposedEngine`."""

    def __init__(self, config, dtype, numerics="fast", threads=1):
        super().__init__(sys.modules[__name__], config, dtype, numerics, threads)
