"""Seeded arguments of each kernel, of any size: outputs NaN, or any numbers where a kernel adds to them.

A function of a kernel's name takes a `Maker` and sizes, and gives the kernel's arguments by name, in order.
"""

import numpy as np

from ..backends import numpy_backend as twin
from ..backends.composed import NORM_EPS


class Maker:
    """Makes arrays of one dtype. With `pad`, rows lie that many elements further apart than they are long."""

    def __init__(self, rng, dtype):
        self.rng, self.dtype = rng, np.dtype(dtype)

    def normal(self, *shape, pad=0, scale=1.0):
        array = self.unset(*shape, pad=pad)
        array[...] = scale * self.rng.standard_normal(shape)
        return array

    def unset(self, *shape, pad=0):
        """NaN everywhere, the padding too."""
        rows = np.full((*shape[:-1], shape[-1] + pad), np.nan, self.dtype)
        return rows[..., : shape[-1]]

    def output(self, *shape, pad=0, accumulate=False):
        return self.normal(*shape, pad=pad) if accumulate else self.unset(*shape, pad=pad)

    def integers(self, n, limit):
        return self.rng.integers(0, limit, n, dtype=np.int32)


def embedding_forward(make, N, C, V, T):
    return dict(
        x=make.unset(N, C),
        tokens=make.integers(N, V),
        positions=make.integers(N, T),
        wte=make.normal(V, C),
        wpe=make.normal(T, C),
        **dict(N=N, C=C, V=V, T=T),
    )


def embedding_backward(make, N, C, V, T):
    return dict(
        dwte=make.normal(V, C),
        dwpe=make.normal(T, C),
        dx=make.normal(N, C),
        tokens=make.integers(N, V),
        positions=make.integers(N, T),
        **dict(N=N, C=C, V=V, T=T),
    )


def rmsnorm_forward(make, N, C, gain=False, zero_row=False, scale=1.0):
    x = make.normal(N, C, scale=scale)
    if zero_row:
        x[0] = 0
    return dict(
        y=make.unset(N, C),
        rstd=make.unset(N),
        x=x,
        gain=make.normal(C) if gain else None,
        **dict(N=N, C=C, eps=NORM_EPS),
    )


def rmsnorm_backward(make, N, C, gain=False, zero_row=False, scale=1.0, accumulate_dx=0):
    forward = rmsnorm_forward(make, N, C, gain, zero_row, scale)
    twin.rmsnorm_forward(*forward.values())
    return dict(
        dx=make.output(N, C, accumulate=accumulate_dx),
        dgain=make.normal(C) if gain else None,
        dy=make.normal(N, C),
        x=forward["x"],
        gain=forward["gain"],
        rstd=forward["rstd"],
        **dict(N=N, C=C, accumulate_dx=accumulate_dx),
    )


def linear_forward(make, N, C, O):
    return dict(y=make.unset(N, O), x=make.normal(N, C), w=make.normal(O, C), N=N, C=C, O=O)


def linear_backward(make, N, C, O, accumulate_dx=0, with_dx=True, with_dw=True):
    return dict(
        dx=make.output(N, C, accumulate=accumulate_dx) if with_dx else None,
        dw=make.normal(O, C) if with_dw else None,
        dy=make.normal(N, O),
        x=make.normal(N, C),
        w=make.normal(O, C),
        **dict(N=N, C=C, O=O, accumulate_dx=accumulate_dx),
    )


def _cu_seqlens(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _heads(rows, count, H, D):
    """`count` views [N, H, D] into the columns of `rows`."""
    return [rows[:, i * H * D : (i + 1) * H * D].reshape(len(rows), H, D) for i in range(count)]


def _slopes(make, H, alibi):
    return (2.0 ** (-8 * np.arange(1, H + 1) / H)).astype(make.dtype) if alibi else None


def attention_forward(make, lengths, H, D, pad=0, alibi=False):
    N, C = sum(lengths), H * D
    [o] = _heads(make.unset(N, C, pad=pad), 1, H, D)
    q, k, v = _heads(make.normal(N, 3 * C, pad=pad), 3, H, D)
    return dict(
        o=o,
        lse=make.unset(N, H),
        **dict(q=q, k=k, v=v, ld_o=C + pad, ld_qkv=3 * C + pad),
        cu_seqlens=_cu_seqlens(lengths),
        **dict(B=len(lengths), H=H, D=D, scale=D**-0.5),
        slopes=_slopes(make, H, alibi),
    )


def attention_backward(make, lengths, H, D, pad=0, alibi=False):
    forward = attention_forward(make, lengths, H, D, pad, alibi)
    twin.attention_forward(*forward.values())
    N, C = sum(lengths), H * D
    dq, dk, dv = _heads(make.unset(N, 3 * C, pad=pad), 3, H, D)
    [d_o] = _heads(make.normal(N, C, pad=pad), 1, H, D)
    return dict(dq=dq, dk=dk, dv=dv, delta=make.unset(N, H), d_o=d_o, **forward)


def attention_decode(make, lengths, T_max, H, D, alibi=False):
    B = len(lengths)
    k_cache, v_cache = make.normal(B, T_max, H, D), make.normal(B, T_max, H, D)
    for b, length in enumerate(lengths):
        k_cache[b, length:] = v_cache[b, length:] = np.nan
    return dict(
        o=make.unset(B, H, D),
        q=make.normal(B, H, D),
        k_cache=k_cache,
        v_cache=v_cache,
        lengths=np.array(lengths, np.int32),
        **dict(B=B, T_max=T_max, H=H, D=D, scale=D**-0.5),
        slopes=_slopes(make, H, alibi),
    )


def rope_forward(make, N, H, D, base=10_000.0):
    return dict(
        y=make.unset(N, H, D),
        x=make.normal(N, H, D),
        positions=make.integers(N, 1000),
        **dict(N=N, H=H, D=D, base=base),
    )


def rope_backward(make, N, H, D, base=10_000.0):
    forward = rope_forward(make, N, H, D, base)
    return dict(
        dx=make.unset(N, H, D),
        dy=make.normal(N, H, D),
        **{name: forward[name] for name in ("positions", "N", "H", "D", "base")},
    )


def mlp_forward(make, N, C, F, activation, zero_row=False):
    x = make.normal(N, C)
    if zero_row:  # the activation at exactly 0
        x[0] = 0
    return dict(
        y=make.unset(N, C),
        h=make.unset(N, F),
        x=x,
        w1=make.normal(F, C),
        w2=make.normal(C, F),
        **dict(N=N, C=C, F=F, activation=activation),
    )


def mlp_backward(make, N, C, F, activation, zero_row=False):
    forward = mlp_forward(make, N, C, F, activation, zero_row)
    twin.mlp_forward(*forward.values())
    return dict(
        dx=make.unset(N, C),
        dw1=make.normal(F, C),
        dw2=make.normal(C, F),
        dh=make.unset(N, F),
        dy=make.normal(N, C),
        **{name: forward[name] for name in ("h", "x", "w1", "w2", "N", "C", "F", "activation")},
    )


def cross_entropy_forward(make, N, V):
    return dict(
        losses=make.unset(N),
        lse=make.unset(N),
        logits=make.normal(N, V, scale=3.0),
        targets=make.integers(N, V),
        **dict(N=N, V=V),
    )


def cross_entropy_backward(make, N, V):
    forward = cross_entropy_forward(make, N, V)
    twin.cross_entropy_forward(*forward.values())
    return dict(
        dlogits=make.unset(N, V),
        dlosses=make.normal(N),
        **{name: forward[name] for name in ("lse", "logits", "targets", "N", "V")},
    )


def adamw_step(make, n, step, weight_decay=0.0):
    p, m, g = make.normal(n), make.normal(n, scale=0.1), make.normal(n, scale=0.1)
    v = g * g + 0.01
    m[0] = v[0] = g[0] = 0  # a parameter that never had a gradient
    return dict(
        **dict(p=p, m=m, v=v, g=g, n=n),
        **dict(lr=0.01, beta1=0.85, beta2=0.99, eps=1e-8, weight_decay=weight_decay, step=step),
    )


def gemm(a_shape, b_shape):
    def build(make, M, N, K, pad=0, accumulate=0):
        sizes = dict(M=M, N=N, K=K)
        a_rows, a_columns = (sizes[letter] for letter in a_shape)
        b_rows, b_columns = (sizes[letter] for letter in b_shape)
        return dict(
            c=make.output(M, N, pad=pad, accumulate=accumulate),
            a=make.normal(a_rows, a_columns, pad=pad),
            b=make.normal(b_rows, b_columns, pad=pad),
            **sizes,
            **dict(ld_c=N + pad, ld_a=a_columns + pad, ld_b=b_columns + pad, accumulate=accumulate),
        )

    return build
