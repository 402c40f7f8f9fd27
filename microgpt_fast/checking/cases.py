"""One case a kernel: seeded arguments of any size, and what to expect of the result.

A kernel's result is right if it is that of the NumPy twin in float64 for the same arguments: to 1e-12 of the
largest element of an output in float64, and to `bound` times float32's epsilon of it in float32; where the terms
of an output may cancel, of what they are made from (`scales`). The bounds hold for `sizes`; where sums are longer,
errors grow with about the square root of their length.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..config import ACTIVATIONS
from . import arguments

RELU, RELU2, GELU, SILU = map(ACTIVATIONS.index, ("relu", "relu2", "gelu", "silu"))


@dataclass(frozen=True)
class Case:
    """How to call one kernel, and how to judge it.

    Attributes
    ----------
    kernel : str
    build : function of a `Maker` and the sizes, returns the kernel's arguments by name, in order; see arguments.py
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
    scales : dict
        Output whose terms may cancel -> function of the arguments, the twin's results among them: how large they are.
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
    scales: dict = field(default_factory=dict)

    def scale(self, output, arguments):
        """What errors of an output count relative to; `arguments` hold the twin's results."""
        terms = self.scales[output](arguments) if output in self.scales else 0
        return max(_largest(arguments[output]), terms)

    def arguments(self, dtype, seed=0, **size):
        """Arguments by name, in order; the same seed, dtype and size give the same numbers in new arrays."""
        return self.build(arguments.Maker(np.random.default_rng(seed), dtype), **size)

    def run(self, backend, arguments):
        """Call the kernel of a backend; outputs are written in place."""
        return getattr(backend, self.kernel)(*arguments.values())


def _largest(array):
    return np.nanmax(np.abs(array), initial=0)  # a cache of keys and values holds NaN where it is not filled


def _largest_of(name, least=0):
    return lambda a: max(_largest(a[name]), least)


def _gradient_of_norm(a):
    gain = 1 if a["gain"] is None else _largest(a["gain"])
    return _largest(a["dy"]) * gain * _largest(a["rstd"])


def _gradient_of_gain(a):
    return _largest(np.abs(a["dy"] * a["x"] * a["rstd"][:, None]).sum(axis=0))


_EMBEDDING_SIZES = (
    dict(N=1, C=1, V=1, T=1),
    dict(N=5, C=20, V=27, T=16),
    dict(N=67, C=16, V=3, T=7),
    dict(N=30, C=33, V=100, T=30),
)
_RMSNORM_SIZES = (
    dict(N=1, C=1),
    dict(N=5, C=1, scale=3e-3),
    dict(N=4, C=2),
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
_ROPE_SIZES = (
    dict(N=1, H=1, D=2),
    dict(N=7, H=3, D=4),
    dict(N=5, H=1, D=34, base=100.0),
    dict(N=33, H=2, D=20),
)
_TIMED_ROPE = (dict(N=768, H=4, D=32),)
_MLP_SIZES = (
    dict(N=1, C=1, F=1, activation=RELU),
    dict(N=1, C=1, F=4, activation=RELU2),
    dict(N=5, C=3, F=12, activation=RELU2),
    dict(N=7, C=16, F=64, activation=RELU),
    dict(N=3, C=20, F=80, activation=RELU, zero_row=True),
    dict(N=3, C=20, F=80, activation=RELU2, zero_row=True),
    dict(N=13, C=17, F=71, activation=RELU2),
    dict(N=33, C=20, F=130, activation=RELU),
    dict(N=7, C=5, F=12, activation=GELU),
    dict(N=33, C=20, F=130, activation=GELU),
    dict(N=5, C=3, F=12, activation=SILU),
    dict(N=13, C=17, F=71, activation=SILU),
    dict(N=35, C=5, F=523, activation=RELU2),
)
_CROSS_ENTROPY_SIZES = (
    dict(N=1, V=1),
    dict(N=1, V=27),
    dict(N=67, V=2),
    dict(N=7, V=3),
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
        Case("embedding_forward", arguments.embedding_forward, ("x",), _EMBEDDING_SIZES, 1,
             timed=_TIMED_EMBEDDING, operations=lambda N, C, V, T: N * C),
        Case("embedding_backward", arguments.embedding_backward, ("dwte", "dwpe"), _EMBEDDING_SIZES, 8,
             "embedding_forward", {"x": "dx"}, {"dwte": "wte", "dwpe": "wpe"},
             _TIMED_EMBEDDING, lambda N, C, V, T: 2 * N * C),
        Case("rmsnorm_forward", arguments.rmsnorm_forward, ("y", "rstd"), _RMSNORM_SIZES, 8,
             timed=_TIMED_ROWS, operations=lambda N, C: 3 * N * C),
        Case("rmsnorm_backward", arguments.rmsnorm_backward, ("dx", "dgain"),
             (*_RMSNORM_SIZES, dict(N=13, C=20, gain=True, accumulate_dx=1),
              dict(N=2, C=17, accumulate_dx=1)),
             8, "rmsnorm_forward", {"y": "dy"}, {"dx": "x", "dgain": "gain"},
             _TIMED_ROWS, lambda N, C: 5 * N * C, {"dx": _gradient_of_norm, "dgain": _gradient_of_gain}),
        Case("linear_forward", arguments.linear_forward, ("y",), _LINEAR_SIZES, 16,
             timed=_TIMED_LINEAR, operations=lambda N, C, O: 2 * N * C * O),
        Case("linear_backward", arguments.linear_backward, ("dx", "dw"),
             (*_LINEAR_SIZES, dict(N=13, C=17, O=31, accumulate_dx=1), dict(N=7, C=20, O=27, with_dx=False),
              dict(N=7, C=20, O=27, with_dw=False)),
             16, "linear_forward", {"y": "dy"}, {"dx": "x", "dw": "w"},
             _TIMED_LINEAR, lambda N, C, O: 4 * N * C * O),
        Case("attention_forward", arguments.attention_forward, ("o", "lse"), _ATTENTION_SIZES, 16,
             timed=_TIMED_ATTENTION,
             operations=lambda lengths, H, D: 2 * H * D * sum(T * T for T in lengths),
             scales={"o": _largest_of("v")}),
        Case("attention_backward", arguments.attention_backward, ("dq", "dk", "dv", "delta"), _ATTENTION_SIZES, 32,
             "attention_forward", {"o": "d_o"}, {"dq": "q", "dk": "k", "dv": "v"},
             _TIMED_ATTENTION, lambda lengths, H, D: 4 * H * D * sum(T * T for T in lengths),
             {name: _largest_of("delta") for name in ("dq", "dk")}),
        Case("attention_decode", arguments.attention_decode, ("o",),
             (dict(lengths=(1,), T_max=1, H=1, D=1), dict(lengths=(3, 1, 8), T_max=8, H=2, D=3, alibi=True),
              dict(lengths=(16,), T_max=17, H=4, D=4), dict(lengths=(131, 5), T_max=200, H=3, D=20)), 8,
             timed=(dict(lengths=(256,), T_max=256, H=6, D=64),),
             operations=lambda lengths, T_max, H, D: 4 * H * D * sum(lengths), scales={"o": _largest_of("v_cache")}),
        Case("rope_forward", arguments.rope_forward, ("y",), _ROPE_SIZES, 4,
             timed=_TIMED_ROPE, operations=lambda N, H, D: 3 * N * H * D),
        Case("rope_backward", arguments.rope_backward, ("dx",), _ROPE_SIZES, 4,
             "rope_forward", {"y": "dy"}, {"dx": "x"}, _TIMED_ROPE, lambda N, H, D: 3 * N * H * D),
        Case("mlp_forward", arguments.mlp_forward, ("y", "h"), _MLP_SIZES, 16,
             timed=_TIMED_MLP, operations=lambda N, C, F, activation: 4 * N * C * F),
        Case("mlp_backward", arguments.mlp_backward, ("dx", "dw1", "dw2", "dh"), _MLP_SIZES, 16,
             "mlp_forward", {"y": "dy"}, {"dx": "x", "dw1": "w1", "dw2": "w2"},
             _TIMED_MLP, lambda N, C, F, activation: 8 * N * C * F),
        Case("cross_entropy_forward", arguments.cross_entropy_forward, ("losses", "lse"), _CROSS_ENTROPY_SIZES, 8,
             timed=_TIMED_CROSS_ENTROPY, operations=lambda N, V: 3 * N * V,
             scales={"losses": lambda a: 1.0, "lse": _largest_of("logits", least=1.0)}),
        Case("cross_entropy_backward", arguments.cross_entropy_backward, ("dlogits",), _CROSS_ENTROPY_SIZES, 8,
             "cross_entropy_forward", {"losses": "dlosses"}, {"dlogits": "logits"},
             _TIMED_CROSS_ENTROPY, lambda N, V: 3 * N * V,
             {"dlogits": _largest_of("dlosses")}),
        Case("adamw_step", arguments.adamw_step, ("p", "m", "v"),
             (dict(n=1, step=1), dict(n=7, step=2, weight_decay=0.1), dict(n=20, step=10),
              dict(n=1003, step=100_000)), 8,
             timed=(dict(n=1 << 20, step=10), dict(n=1 << 12, step=10)), operations=lambda n, step: 13 * n),
        Case("gemm_nn", arguments.gemm("MK", "KN"), ("c",), _GEMM_SIZES, 16, **_GEMM),
        Case("gemm_nt", arguments.gemm("MK", "NK"), ("c",), _GEMM_SIZES, 16, **_GEMM),
        Case("gemm_tn", arguments.gemm("KM", "KN"), ("c",), _GEMM_SIZES, 16, **_GEMM),
    )
}  # fmt: skip
