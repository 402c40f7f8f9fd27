"""One case a kernel: seeded arguments of any size, and what to expect of the result.

A kernel's result is right if it is that of the NumPy twin in float64 for the same arguments: to 1e-12 of the
largest element of an output in float64, and to `bound` times float32's epsilon of it in float32. The bounds
hold for `sizes`; where sums are longer, errors grow with about the square root of their length.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..backends import numpy_backend as twin
from ..backends.composed import NORM_EPS, RELU, RELU2


@dataclass(frozen=True)
class Case:
    """How to call one kernel, and how to judge it.

    Attributes
    ----------
    kernel : str
    build : function of a `Maker` and the sizes, returns the kernel's arguments by name, in order
    outputs : tuple of str
        Arguments that are written: NaN before if overwritten, any numbers if added to.
    sizes : tuple of dict
        Sizes worth testing: 1, primes, and others that no vector width divides.
    bound : float
        Largest error in float32, in epsilons of the largest element of the output.
    forward : str
        For a backward kernel, the name of its forward.
    upstream : dict
        Output of the forward -> argument that holds the loss's derivative with respect to it.
    gradients : dict
        Output of this kernel -> input of the forward with respect to which it is the loss's derivative.
    timed : tuple of dict
        Sizes to measure speed at.
    operations : function of the sizes
        Additions and multiplications, the products of matrices alone where there are any.
    """

    kernel: str
    build: Callable
    outputs: tuple
    sizes: tuple
    bound: float
    forward: str = ""
    upstream: dict = field(default_factory=dict)
    gradients: dict = field(default_factory=dict)
    timed: tuple = ()
    operations: Callable | None = None

    def arguments(self, dtype, seed=0, **size):
        """Arguments by name, in order; the same seed, dtype and size give the same numbers in new arrays."""
        return self.build(Maker(np.random.default_rng(seed), dtype), **size)

    def run(self, backend, arguments):
        """Call the kernel of a backend; outputs are written in place."""
        return getattr(backend, self.kernel)(*arguments.values())


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


def _embedding_forward(make, N, C, V, T):
    return dict(
        x=make.unset(N, C),
        tokens=make.integers(N, V),
        positions=make.integers(N, T),
        wte=make.normal(V, C),
        wpe=make.normal(T, C),
        **dict(N=N, C=C, V=V, T=T),
    )


def _embedding_backward(make, N, C, V, T):
    return dict(
        dwte=make.normal(V, C),
        dwpe=make.normal(T, C),
        dx=make.normal(N, C),
        tokens=make.integers(N, V),
        positions=make.integers(N, T),
        **dict(N=N, C=C, V=V, T=T),
    )


def _rmsnorm_forward(make, N, C, gain=False, zero_row=False, scale=1.0):
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


def _rmsnorm_backward(make, N, C, gain=False, zero_row=False, scale=1.0, accumulate_dx=0):
    forward = _rmsnorm_forward(make, N, C, gain, zero_row, scale)
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


def _linear_forward(make, N, C, O):
    return dict(y=make.unset(N, O), x=make.normal(N, C), w=make.normal(O, C), N=N, C=C, O=O)


def _linear_backward(make, N, C, O, accumulate_dx=0, with_dx=True, with_dw=True):
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


def _attention_forward(make, lengths, H, D, pad=0, alibi=False):
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


def _attention_backward(make, lengths, H, D, pad=0, alibi=False):
    forward = _attention_forward(make, lengths, H, D, pad, alibi)
    twin.attention_forward(*forward.values())
    N, C = sum(lengths), H * D
    dq, dk, dv = _heads(make.unset(N, 3 * C, pad=pad), 3, H, D)
    [d_o] = _heads(make.normal(N, C, pad=pad), 1, H, D)
    return dict(dq=dq, dk=dk, dv=dv, delta=make.unset(N, H), d_o=d_o, **forward)


def _attention_decode(make, lengths, T_max, H, D, alibi=False):
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


def _mlp_forward(make, N, C, F, activation, zero_row=False):
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


def _mlp_backward(make, N, C, F, activation, zero_row=False):
    forward = _mlp_forward(make, N, C, F, activation, zero_row)
    twin.mlp_forward(*forward.values())
    return dict(
        dx=make.unset(N, C),
        dw1=make.normal(F, C),
        dw2=make.normal(C, F),
        dh=make.unset(N, F),
        dy=make.normal(N, C),
        **{name: forward[name] for name in ("h", "x", "w1", "w2", "N", "C", "F", "activation")},
    )


def _cross_entropy_forward(make, N, V):
    return dict(
        losses=make.unset(N),
        lse=make.unset(N),
        logits=make.normal(N, V, scale=3.0),
        targets=make.integers(N, V),
        **dict(N=N, V=V),
    )


def _cross_entropy_backward(make, N, V):
    forward = _cross_entropy_forward(make, N, V)
    twin.cross_entropy_forward(*forward.values())
    return dict(
        dlogits=make.unset(N, V),
        dlosses=make.normal(N),
        **{name: forward[name] for name in ("lse", "logits", "targets", "N", "V")},
    )


def _adamw_step(make, n, step, weight_decay=0.0):
    p, m, g = make.normal(n), make.normal(n, scale=0.1), make.normal(n, scale=0.1)
    v = g * g + 0.01
    m[0] = v[0] = g[0] = 0  # a parameter that never had a gradient
    return dict(
        **dict(p=p, m=m, v=v, g=g, n=n),
        **dict(lr=0.01, beta1=0.85, beta2=0.99, eps=1e-8, weight_decay=weight_decay, step=step),
    )


def _gemm(a_shape, b_shape):
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


_EMBEDDING_SIZES = (
    dict(N=1, C=1, V=1, T=1),
    dict(N=5, C=20, V=27, T=16),
    dict(N=67, C=16, V=3, T=7),
    dict(N=30, C=33, V=100, T=30),
)
_RMSNORM_SIZES = (
    dict(N=1, C=1, scale=3e-3),  # else dx cancels to nothing
    dict(N=1, C=3, gain=True),
    dict(N=7, C=16),
    dict(N=13, C=20, gain=True),
    dict(N=3, C=64, zero_row=True),
    dict(N=5, C=131),
)
_LINEAR_SIZES = (
    dict(N=1, C=1, O=1),
    dict(N=1, C=20, O=27),
    dict(N=2, C=3, O=5),
    dict(N=7, C=16, O=64),
    dict(N=13, C=17, O=31),
    dict(N=33, C=64, O=65),
    dict(N=70, C=20, O=130),
)
_ATTENTION_SIZES = (
    dict(lengths=(1,), H=1, D=1),
    dict(lengths=(7,), H=4, D=4),
    dict(lengths=(3, 1, 5), H=2, D=3, pad=5, alibi=True),
    dict(lengths=(16, 1, 1, 16), H=4, D=4, pad=1),
    dict(lengths=(33,), H=3, D=5, alibi=True),
    dict(lengths=(17, 9), H=1, D=20),
    dict(lengths=(2, 131), H=2, D=16),
    dict(lengths=(65,), H=1, D=67, alibi=True),
)
_MLP_SIZES = (
    dict(N=1, C=1, F=1, activation=RELU),
    dict(N=1, C=1, F=4, activation=RELU2),
    dict(N=5, C=3, F=12, activation=RELU2),
    dict(N=7, C=16, F=64, activation=RELU),
    dict(N=3, C=20, F=80, activation=RELU, zero_row=True),
    dict(N=3, C=20, F=80, activation=RELU2, zero_row=True),
    dict(N=13, C=17, F=71, activation=RELU2),
    dict(N=33, C=20, F=130, activation=RELU),
    dict(N=35, C=5, F=523, activation=RELU2),
)
_CROSS_ENTROPY_SIZES = (
    dict(N=1, V=1),
    dict(N=1, V=27),
    dict(N=7, V=2),
    dict(N=16, V=27),
    dict(N=5, V=131),
    dict(N=35, V=64),
)
_GEMM_SIZES = (
    dict(M=1, N=1, K=1),
    dict(M=1, N=27, K=20),
    dict(M=7, N=1, K=16, pad=3),
    dict(M=13, N=17, K=31, accumulate=1),
    dict(M=16, N=64, K=16, accumulate=1),
    dict(M=33, N=65, K=64, pad=1, accumulate=1),
    dict(M=70, N=130, K=20, pad=5),
    dict(M=20, N=19, K=257),
    dict(M=131, N=19, K=301, pad=700, accumulate=1),  # rows that lie far apart
    dict(M=403, N=3, K=257, pad=700),
)

# What is timed: the layers of a model of n_embd 384 on 4 documents of 256 tokens, and of 64 on 1 of 64. In
# attention the lower triangles count: 2 T T/2 D operations a product of matrices, head, and document.
_TIMED_ROWS = (dict(N=1024, C=384), dict(N=64, C=64))
_TIMED_EMBEDDING = tuple(dict(**rows, V=65, T=256) for rows in _TIMED_ROWS)
_TIMED_LINEAR = (dict(N=1024, C=384, O=1152), dict(N=64, C=64, O=192))
_TIMED_ATTENTION = (dict(lengths=(256,) * 4, H=6, D=64), dict(lengths=(64,), H=4, D=16))
_TIMED_MLP = tuple(dict(**rows, F=4 * rows["C"], activation=RELU) for rows in _TIMED_ROWS)
_TIMED_CROSS_ENTROPY = (dict(N=1024, V=65), dict(N=64, V=27))
_TIMED_GEMM = (dict(M=1024, N=1536, K=384), dict(M=512, N=512, K=512), dict(M=64, N=64, K=64))
_GEMM = dict(timed=_TIMED_GEMM, operations=lambda M, N, K: 2 * M * N * K)

CASES = {
    case.kernel: case
    for case in (
        Case("embedding_forward", _embedding_forward, ("x",), _EMBEDDING_SIZES, 1,
             timed=_TIMED_EMBEDDING, operations=lambda N, C, V, T: N * C),
        Case("embedding_backward", _embedding_backward, ("dwte", "dwpe"), _EMBEDDING_SIZES, 8,
             "embedding_forward", {"x": "dx"}, {"dwte": "wte", "dwpe": "wpe"},
             _TIMED_EMBEDDING, lambda N, C, V, T: 2 * N * C),
        Case("rmsnorm_forward", _rmsnorm_forward, ("y", "rstd"), _RMSNORM_SIZES, 8,
             timed=_TIMED_ROWS, operations=lambda N, C: 3 * N * C),
        Case("rmsnorm_backward", _rmsnorm_backward, ("dx", "dgain"),
             (*_RMSNORM_SIZES, dict(N=13, C=20, gain=True, accumulate_dx=1),
              dict(N=2, C=17, accumulate_dx=1)),
             8, "rmsnorm_forward", {"y": "dy"}, {"dx": "x", "dgain": "gain"},
             _TIMED_ROWS, lambda N, C: 5 * N * C),
        Case("linear_forward", _linear_forward, ("y",), _LINEAR_SIZES, 16,
             timed=_TIMED_LINEAR, operations=lambda N, C, O: 2 * N * C * O),
        Case("linear_backward", _linear_backward, ("dx", "dw"),
             (*_LINEAR_SIZES, dict(N=13, C=17, O=31, accumulate_dx=1), dict(N=7, C=20, O=27, with_dx=False),
              dict(N=7, C=20, O=27, with_dw=False)),
             16, "linear_forward", {"y": "dy"}, {"dx": "x", "dw": "w"},
             _TIMED_LINEAR, lambda N, C, O: 4 * N * C * O),
        Case("attention_forward", _attention_forward, ("o", "lse"), _ATTENTION_SIZES, 16,
             timed=_TIMED_ATTENTION,
             operations=lambda lengths, H, D: 2 * H * D * sum(T * T for T in lengths)),
        Case("attention_backward", _attention_backward, ("dq", "dk", "dv", "delta"), _ATTENTION_SIZES, 32,
             "attention_forward", {"o": "d_o"}, {"dq": "q", "dk": "k", "dv": "v"},
             _TIMED_ATTENTION, lambda lengths, H, D: 4 * H * D * sum(T * T for T in lengths)),
        Case("attention_decode", _attention_decode, ("o",),
             (dict(lengths=(1,), T_max=1, H=1, D=1), dict(lengths=(3, 1, 8), T_max=8, H=2, D=3, alibi=True),
              dict(lengths=(16,), T_max=17, H=4, D=4), dict(lengths=(131, 5), T_max=200, H=3, D=20)), 8,
             timed=(dict(lengths=(256,), T_max=256, H=6, D=64),),
             operations=lambda lengths, T_max, H, D: 4 * H * D * sum(lengths)),
        Case("mlp_forward", _mlp_forward, ("y", "h"), _MLP_SIZES, 16,
             timed=_TIMED_MLP, operations=lambda N, C, F, activation: 4 * N * C * F),
        Case("mlp_backward", _mlp_backward, ("dx", "dw1", "dw2", "dh"), _MLP_SIZES, 16,
             "mlp_forward", {"y": "dy"}, {"dx": "x", "dw1": "w1", "dw2": "w2"},
             _TIMED_MLP, lambda N, C, F, activation: 8 * N * C * F),
        Case("cross_entropy_forward", _cross_entropy_forward, ("losses", "lse"), _CROSS_ENTROPY_SIZES, 8,
             timed=_TIMED_CROSS_ENTROPY, operations=lambda N, V: 3 * N * V),
        Case("cross_entropy_backward", _cross_entropy_backward, ("dlogits",), _CROSS_ENTROPY_SIZES, 8,
             "cross_entropy_forward", {"losses": "dlosses"}, {"dlogits": "logits"},
             _TIMED_CROSS_ENTROPY, lambda N, V: 3 * N * V),
        Case("adamw_step", _adamw_step, ("p", "m", "v"),
             (dict(n=1, step=1), dict(n=7, step=2, weight_decay=0.1), dict(n=20, step=10),
              dict(n=1003, step=100_000)), 8,
             timed=(dict(n=1 << 20, step=10), dict(n=1 << 12, step=10)), operations=lambda n, step: 13 * n),
        Case("gemm_nn", _gemm("MK", "KN"), ("c",), _GEMM_SIZES, 16, **_GEMM),
        Case("gemm_nt", _gemm("MK", "NK"), ("c",), _GEMM_SIZES, 16, **_GEMM),
        Case("gemm_tn", _gemm("KM", "KN"), ("c",), _GEMM_SIZES, 16, **_GEMM),
    )
}  # fmt: skip
