"""The kernels as operators of torch's dispatcher: torch.ops.microgpt_fast.<kernel>.

Each function below allocates the outputs and calls the kernel through `run`. With a `run` that does nothing it is what
torch.compile asks for shapes. Nothing here knows of gradients; see autograd.py.
"""

import inspect
from functools import partial
from operator import le

import torch
from torch import Tensor

from .calls import Strided, run, run_nothing

LIBRARY = torch.library.Library("microgpt_fast", "DEF")


class Operator:
    """A kernel that torch knows.

    Attributes
    ----------
    name : str
        "microgpt_fast::<kernel>".
    compute : function
        The kernel itself, without the dispatcher: for plain tensors.
    dispatched : function
        The same as an operator, which torch.compile and torch.func see.
    """

    def __init__(self, function):
        kernel = function.__name__
        self.name = f"microgpt_fast::{kernel}"
        self.compute = partial(function, run)
        shapes = partial(function, run_nothing)
        LIBRARY.define(kernel + _schema(function))
        LIBRARY.impl(kernel, self.compute, "CPU")
        torch.library.register_fake(self.name, shapes, lib=LIBRARY)
        self.dispatched = getattr(torch.ops.microgpt_fast, kernel).default
        torch.library.register_vmap(self.name, partial(_one_by_one, self.dispatched), lib=LIBRARY)


def _schema(function):
    """The operator's arguments and results, as the function's annotations after `run` say."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1:]
    plain = lambda *arguments: None  # noqa: E731
    plain.__signature__ = signature.replace(parameters=parameters)
    return torch.library.infer_schema(plain, mutates_args=())


def _one_by_one(operator, info, in_dims, *arguments):
    """torch.func.vmap: one element of the batch after another."""
    results = []
    for i in range(info.batch_size):
        chosen = [a if d is None else a.select(d, i) for a, d in zip(arguments, in_dims)]
        result = operator(*chosen)
        results.append(result if isinstance(result, tuple) else (result,))
    stacked = tuple(torch.stack(parts) for parts in zip(*results))
    return (stacked, (0,) * len(stacked)) if len(stacked) > 1 else (stacked[0], 0)


def expect(kernel, *expected):
    """ValueError unless each tensor has its shape: (name, tensor or None, shape)."""
    for name, tensor, shape in expected:
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{kernel} takes {name} of shape {tuple(shape)}, not {tuple(tensor.shape)}")


@Operator
def rmsnorm_forward(run, x: Tensor, gain: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    N, C = x.shape
    expect("rmsnorm", ("gain", gain, (C,)))
    y, rstd = x.new_empty(N, C), x.new_empty(N)
    run("rmsnorm_forward", y, rstd, x, gain, N, C, eps)
    return y, rstd


@Operator
def rmsnorm_backward(run, dy: Tensor, x: Tensor, gain: Tensor | None, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """dgain is empty without a gain."""
    N, C = x.shape
    expect("rmsnorm", ("dy", dy, (N, C)), ("gain", gain, (C,)), ("rstd", rstd, (N,)))
    dx, dgain = x.new_empty(N, C), x.new_empty(0) if gain is None else x.new_zeros(C)
    run("rmsnorm_backward", dx, None if gain is None else dgain, dy, x, gain, rstd, N, C, 0)
    return dx, dgain


@Operator
def gemm_nn(run, a: Tensor, b: Tensor) -> Tensor:
    (M, K), N = a.shape, b.shape[1]
    expect("gemm_nn", ("b", b, (K, N)))
    c = a.new_empty(M, N)
    run("gemm_nn", c, a, b, M, N, K, N, K, N, 0)
    return c


@Operator
def gemm_nt(run, a: Tensor, b: Tensor) -> Tensor:
    (M, K), N = a.shape, b.shape[0]
    expect("gemm_nt", ("b", b, (N, K)))
    c = a.new_empty(M, N)
    run("gemm_nt", c, a, b, M, N, K, N, K, K, 0)
    return c


@Operator
def gemm_tn(run, a: Tensor, b: Tensor) -> Tensor:
    (K, M), N = a.shape, b.shape[1]
    expect("gemm_tn", ("b", b, (K, N)))
    c = a.new_empty(M, N)
    run("gemm_tn", c, a, b, M, N, K, N, M, N, 0)
    return c


@Operator
def mlp_forward(run, x: Tensor, w1: Tensor, w2: Tensor, activation: int) -> tuple[Tensor, Tensor]:
    (N, C), F = x.shape, w1.shape[0]
    expect("mlp", ("w1", w1, (F, C)), ("w2", w2, (C, F)))
    y, h = x.new_empty(N, C), x.new_empty(N, F)
    run("mlp_forward", y, h, x, w1, w2, N, C, F, activation)
    return y, h


@Operator
def mlp_backward(
    run, dy: Tensor, h: Tensor, x: Tensor, w1: Tensor, w2: Tensor, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    (N, C), F = x.shape, w1.shape[0]
    expect("mlp", ("dy", dy, (N, C)), ("h", h, (N, F)), ("w1", w1, (F, C)), ("w2", w2, (C, F)))
    dx, dh, dw1, dw2 = x.new_empty(N, C), x.new_empty(N, F), x.new_zeros(F, C), x.new_zeros(C, F)
    run("mlp_backward", dx, dw1, dw2, dh, dy, h, x, w1, w2, N, C, F, activation)
    return dx, dw1, dw2


@Operator
def cross_entropy_forward(run, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    N, V = logits.shape
    expect("cross_entropy", ("targets", targets, (N,)))
    losses, lse = logits.new_empty(N), logits.new_empty(N)
    run("cross_entropy_forward", losses, lse, logits, targets, N, V)
    return losses, lse


@Operator
def cross_entropy_backward(run, dlosses: Tensor, lse: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    N, V = logits.shape
    expect("cross_entropy", ("dlosses", dlosses, (N,)), ("lse", lse, (N,)), ("targets", targets, (N,)))
    dlogits = logits.new_empty(N, V)
    run("cross_entropy_backward", dlogits, dlosses, lse, logits, targets, N, V)
    return dlogits


@Operator
def embedding_forward(run, tokens: Tensor, positions: Tensor, wte: Tensor, wpe: Tensor) -> Tensor:
    (N,), (V, C), T = tokens.shape, wte.shape, wpe.shape[0]
    expect("embedding", ("positions", positions, (N,)), ("wpe", wpe, (T, C)))
    x = wte.new_empty(N, C)
    run("embedding_forward", x, tokens, positions, wte, wpe, N, C, V, T)
    return x


@Operator
def embedding_backward(
    run, dx: Tensor, tokens: Tensor, positions: Tensor, V: int, T: int
) -> tuple[Tensor, Tensor]:
    N, C = dx.shape
    expect("embedding", ("tokens", tokens, (N,)), ("positions", positions, (N,)))
    dwte, dwpe = dx.new_zeros(V, C), dx.new_zeros(T, C)
    run("embedding_backward", dwte, dwpe, dx, tokens, positions, N, C, V, T)
    return dwte, dwpe


def _rows(run, q, k, v, cu_seqlens):
    """q, k and v with rows equally far apart, this distance, and a check of cu_seqlens where it has values."""
    N, H, D = q.shape
    expect("attention", ("k", k, (N, H, D)), ("v", v, (N, H, D)))
    if run is run_nothing:
        return q, k, v, H * D
    offsets = cu_seqlens.tolist()
    if not offsets or offsets[0] != 0 or offsets[-1] != N or not all(map(le, offsets, offsets[1:])):
        raise ValueError(f"attention takes cu_seqlens that rise from 0 to {N}, not {cu_seqlens}")
    strides = q.stride()
    if strides == k.stride() == v.stride() and strides[1:] == (D, 1) and strides[0] >= H * D:
        return Strided(q), Strided(k), Strided(v), strides[0]
    return q, k, v, H * D


@Operator
def attention_forward(
    run, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, slopes: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    N, H, D = q.shape
    expect("attention", ("slopes", slopes, (H,)))
    o, lse = q.new_empty(N, H, D), q.new_empty(N, H)
    q, k, v, stride = _rows(run, q, k, v, cu_seqlens)
    B = cu_seqlens.shape[0] - 1
    run("attention_forward", o, lse, q, k, v, H * D, stride, cu_seqlens, B, H, D, scale, slopes)
    return o, lse


@Operator
def attention_backward(
    run, d_o: Tensor, o: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor,
    slopes: Tensor | None, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    N, H, D = q.shape
    expect(
        "attention",
        ("d_o", d_o, (N, H, D)),
        ("o", o, (N, H, D)),
        ("lse", lse, (N, H)),
        ("slopes", slopes, (H,)),
    )
    dq, dk, dv = (q.new_empty(N, H, D) for _ in range(3))
    q, k, v, stride = _rows(run, q.contiguous(), k.contiguous(), v.contiguous(), cu_seqlens)
    B = cu_seqlens.shape[0] - 1
    arrays = dq, dk, dv, lse.new_empty(N, H), d_o, o, lse, q, k, v
    run("attention_backward", *arrays, H * D, stride, cu_seqlens, B, H, D, scale, slopes)
    return dq, dk, dv
