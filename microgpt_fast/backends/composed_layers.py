"""The parts of the model composed of a backend's kernels, forward beside backward; options without a kernel in NumPy.

`w` and `dw` are the parameters and their gradients by name; what a forward keeps for its backward it returns.
"""

import numpy as np

from ..config import ACTIVATIONS
from .numpy_activations import BY_CODE

NORM_EPS = 1e-5
ROPE_BASE = 10_000.0


class Calls:
    """A backend's kernels as functions that return what they compute."""

    def __init__(self, kernels, config, dtype):
        self.kernels, self.config, self.dtype = kernels, config, dtype
        self.heads = config.n_head, config.head_dim
        self.scale = config.attention_scale
        self.slopes = None if config.slopes is None else np.array(config.slopes, dtype)

    def empty(self, *shape):
        return np.empty(shape, self.dtype)

    def embedding(self, w, batch):
        """wte[token] (+ wpe[position])"""
        if "wpe" not in w:
            return w["wte"][batch.inputs]
        x, config = self.empty(batch.N, self.config.n_embd), self.config
        sizes = (*x.shape, config.vocab_size, config.block_size)
        self.kernels.embedding_forward(x, batch.inputs, batch.positions, w["wte"], w["wpe"], *sizes)
        return x

    def embedding_backward(self, dw, dx, batch):
        if "wpe" not in dw:
            np.add.at(dw["wte"], batch.inputs, dx)
            return
        sizes = (*dx.shape, self.config.vocab_size, self.config.block_size)
        self.kernels.embedding_backward(dw["wte"], dw["wpe"], dx, batch.inputs, batch.positions, *sizes)

    def norm(self, x, gain=None):
        y, rstd = np.empty_like(x), self.empty(len(x))
        self.kernels.rmsnorm_forward(y, rstd, x, gain, *x.shape, NORM_EPS)
        return y, rstd

    def norm_backward(self, dgain, dy, x, gain, rstd):
        dx = np.empty_like(x)
        self.kernels.rmsnorm_backward(dx, dgain, dy, x, gain, rstd, *x.shape, False)
        return dx

    def linear(self, x, w):
        y = self.empty(len(x), len(w))
        self.kernels.linear_forward(y, x, w, len(x), *w.T.shape)
        return y

    def linear_backward(self, dw, dy, x, w):
        dx = np.empty_like(x)
        self.kernels.linear_backward(dx, dw, dy, x, w, len(x), *w.T.shape, False)
        return dx

    def split(self, qkv):
        """q, k, v [N, H, D] as views into qkv [N, 3C]"""
        return [part.reshape(len(qkv), *self.heads) for part in np.split(qkv, 3, axis=1)]

    def attention(self, qkv, batch):
        N, C = len(qkv), self.config.n_embd
        o, lse = self.empty(N, *self.heads), self.empty(N, self.config.n_head)
        sizes = C, 3 * C, batch.cu_seqlens, batch.B, *self.heads, self.scale, self.slopes
        self.kernels.attention_forward(o, lse, *self.split(qkv), *sizes)
        return o, lse

    def attention_backward(self, d_o, o, lse, qkv, batch):
        C, dqkv, delta = self.config.n_embd, np.empty_like(qkv), np.empty_like(lse)
        sizes = C, 3 * C, batch.cu_seqlens, batch.B, *self.heads, self.scale, self.slopes
        self.kernels.attention_backward(*self.split(dqkv), delta, d_o, o, lse, *self.split(qkv), *sizes)
        return dqkv

    def attention_decode(self, q, k_cache, v_cache, lengths):
        o, q = np.empty(q.shape, self.dtype), np.ascontiguousarray(q)
        sizes = len(q), k_cache.shape[1], *self.heads, self.scale, self.slopes
        self.kernels.attention_decode(o, q, k_cache, v_cache, lengths, *sizes)
        return o

    def rope(self, rows, batch):
        """Rows [2 N H, D], all heads' queries and keys, turned by their positions' angles."""
        sizes = batch.N, 2 * self.config.n_head, self.config.head_dim
        y = self.empty(*sizes)
        self.kernels.rope_forward(y, rows.reshape(sizes), batch.positions, *sizes, ROPE_BASE)
        return y

    def rope_backward(self, dy, batch):
        sizes = batch.N, 2 * self.config.n_head, self.config.head_dim
        dx = self.empty(*sizes)
        self.kernels.rope_backward(dx, dy.reshape(sizes), batch.positions, *sizes, ROPE_BASE)
        return dx


class Attention:
    """y = attention(x wqkv^T) wo^T, with what the options do to queries, keys and values on the way."""

    def __init__(self, calls):
        self.calls, self.config = calls, calls.config

    def forward(self, w, layer, x, batch):
        calls, config, block = self.calls, self.config, f"layer{layer}."
        qkv, before, rstd = calls.linear(x, w[block + "attn_qkv"]), None, None
        if config.qk_norm:
            before = self._rows(qkv)
            normed, rstd = calls.norm(before)
            self._put(qkv, normed)
        if config.position == "rope":
            self._put(qkv, calls.rope(self._rows(qkv), batch))
        if config.value_embedding:
            qkv[:, 2 * config.n_embd :] += w[block + "attn_ve"][batch.inputs]
        o, lse = batch.attend(calls, layer, qkv)
        y = calls.linear(o.reshape(x.shape), w[block + "attn_wo"])
        return y, (qkv, before, rstd, o, lse)

    def backward(self, w, dw, layer, dy, x, kept, batch):
        calls, config, block = self.calls, self.config, f"layer{layer}."
        qkv, before, rstd, o, lse = kept
        wo, w_qkv = block + "attn_wo", block + "attn_qkv"
        d_o = calls.linear_backward(dw[wo], dy, o.reshape(x.shape), w[wo]).reshape(o.shape)
        dqkv = calls.attention_backward(d_o, o, lse, qkv, batch)
        if config.value_embedding:
            np.add.at(dw[block + "attn_ve"], batch.inputs, dqkv[:, 2 * config.n_embd :])
        if config.position == "rope":
            self._put(dqkv, calls.rope_backward(self._rows(dqkv), batch))
        if config.qk_norm:
            self._put(dqkv, calls.norm_backward(None, self._rows(dqkv), before, None, rstd))
        return calls.linear_backward(dw[w_qkv], dqkv, x, w[w_qkv])

    def _rows(self, qkv):
        """All heads' queries and keys, each a row: a copy [2 N H, D]"""
        return qkv[:, : 2 * self.config.n_embd].copy().reshape(-1, self.config.head_dim)

    def _put(self, qkv, rows):
        qkv[:, : 2 * self.config.n_embd] = rows.reshape(len(qkv), -1)


class Mlp:
    """y = f(x fc1^T) fc2^T; gated, y = (f(x fc1^T) * x fc3^T) fc2^T."""

    def __init__(self, calls):
        self.calls, self.config = calls, calls.config
        self.activation = ACTIVATIONS.index(calls.config.activation)

    def forward(self, w, layer, x, batch):
        calls, block, F = self.calls, f"layer{layer}.", self.config.mlp_width
        fc1, fc2 = w[block + "mlp_fc1"], w[block + "mlp_fc2"]
        if self.config.mlp == "gated":
            h, u = calls.linear(x, fc1), calls.linear(x, w[block + "mlp_fc3"])
            value, _ = BY_CODE[self.activation]
            return calls.linear(value(h) * u, fc2), (h, u)
        y, h = np.empty_like(x), calls.empty(len(x), F)
        calls.kernels.mlp_forward(y, h, x, fc1, fc2, *x.shape, F, self.activation)
        return y, h

    def backward(self, w, dw, layer, dy, x, kept, batch):
        calls, block, F = self.calls, f"layer{layer}.", self.config.mlp_width
        fc1, fc2, fc3 = block + "mlp_fc1", block + "mlp_fc2", block + "mlp_fc3"
        if self.config.mlp == "gated":
            (h, u), (value, slope) = kept, BY_CODE[self.activation]
            f = value(h)
            da = calls.linear_backward(dw[fc2], dy, f * u, w[fc2])
            dx = calls.linear_backward(dw[fc1], da * u * slope(h), x, w[fc1])
            return dx + calls.linear_backward(dw[fc3], da * f, x, w[fc3])
        dx, dh = np.empty_like(x), calls.empty(len(x), F)
        arrays = dx, dw[fc1], dw[fc2], dh, dy, kept, x, w[fc1], w[fc2]
        calls.kernels.mlp_backward(*arrays, *x.shape, F, self.activation)
        return dx


def softcap(x, cap):
    """y = cap tanh(x / cap)"""
    return cap * np.tanh(x / cap)


def softcap_backward(dy, y, cap):
    """dx = dy (1 - (y / cap)^2)"""
    return dy * (1 - (y / cap) ** 2)
