"""Derivatives of the operators.

A rule has two functions: what a forward keeps, and the derivative. Three things are made of each rule:
`register_autograd` is for torch.compile; an autograd.Function that computes at once is for eager code, where the way
through the dispatcher would take longer than a small kernel; another one over the operators is for torch.func.
"""

from functools import partial
from types import SimpleNamespace

import torch

from . import operators
from .calls import PLAIN

OPERATORS = {name: value for name, value in vars(operators).items() if isinstance(value, operators.Operator)}


def _once(operator):
    """A backward's operator where gradients are recorded: its missing derivative must not be taken for zero."""

    class Once(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(operator.dispatched)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, *gradients):
            raise RuntimeError(
                f"{operator.name} cannot be differentiated: kernels can be differentiated once"
            )

    return Once.apply


# The operators that the backwards call: in eager code, in compiled graphs, and where gradients are recorded.
DIRECT = SimpleNamespace(**{name: operator.compute for name, operator in OPERATORS.items()})
DISPATCHED = SimpleNamespace(**{name: operator.dispatched for name, operator in OPERATORS.items()})
TRANSFORMED = SimpleNamespace(**{name: _once(operator) for name, operator in OPERATORS.items()})

# Not public; where a release lacks them, calls take a slower way.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_modes_active = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def _is_plain(tensor):
    """Whether nothing but eager code sees the call: no compiler, no mode, no tensor of another kind."""
    return type(tensor) in PLAIN and not torch.compiler.is_compiling() and not _modes_active()


def differentiable(operator, keep, derive):
    """A function of tensors with a derivative.

    Parameters
    ----------
    operator : Operator
    keep : function of ctx, inputs and output
        Saves what the backward needs.
    derive : function of the operators, ctx and the first output's gradient
        The gradients of the inputs, None for those that have none.
    """

    def backward(ops, ctx, gradient, *_):
        if gradient is None:  # the output was not used
            return (None,) * len(ctx.needs_input_grad)
        return derive(ops, ctx, gradient)

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            output = operator.compute(*inputs)
            keep(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx, *gradients):
            return backward(TRANSFORMED if torch.is_grad_enabled() else DIRECT, ctx, *gradients)

    class Transformed(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(operator.dispatched)
        setup_context = staticmethod(keep)

    Transformed.backward = staticmethod(partial(backward, TRANSFORMED))
    Eager.__name__ = Transformed.__name__ = operator.name.rpartition("::")[2]
    torch.library.register_autograd(
        operator.name, partial(backward, DISPATCHED), setup_context=keep, lib=operators.LIBRARY
    )

    def call(*inputs):
        if not _is_plain(inputs[0]):
            return operator.dispatched(*inputs)
        return (Transformed if _transforms_active() else Eager).apply(*inputs)

    setattr(TRANSFORMED, Eager.__name__, call)
    return call


def _auxiliary(ctx, tensor):
    """An output that only the backward reads."""
    ctx.mark_non_differentiable(tensor)
    ctx.set_materialize_grads(False)


def _keep_rmsnorm(ctx, inputs, output):
    x, gain, _ = inputs
    ctx.save_for_backward(x, gain, output[1])
    _auxiliary(ctx, output[1])


def _rmsnorm(ops, ctx, dy):
    x, gain, rstd = ctx.saved_tensors
    dx, dgain = ops.rmsnorm_backward(dy, x, gain, rstd)
    return dx, None if gain is None else dgain, None


def _keep_inputs(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gemm_nn(ops, ctx, dc):
    """c = a b:  da = dc b^T,  db = a^T dc"""
    a, b = ctx.saved_tensors
    wants_a, wants_b = ctx.needs_input_grad
    return ops.gemm_nt(dc, b) if wants_a else None, ops.gemm_tn(a, dc) if wants_b else None


def _gemm_nt(ops, ctx, dc):
    """c = a b^T:  da = dc b,  db = dc^T a"""
    a, b = ctx.saved_tensors
    wants_a, wants_b = ctx.needs_input_grad
    return ops.gemm_nn(dc, b) if wants_a else None, ops.gemm_tn(dc, a) if wants_b else None


def _gemm_tn(ops, ctx, dc):
    """c = a^T b:  da = b dc^T,  db = a dc"""
    a, b = ctx.saved_tensors
    wants_a, wants_b = ctx.needs_input_grad
    return ops.gemm_nt(b, dc) if wants_a else None, ops.gemm_nn(a, dc) if wants_b else None


def _keep_mlp(ctx, inputs, output):
    x, w1, w2, ctx.activation = inputs
    ctx.save_for_backward(output[1], x, w1, w2)
    _auxiliary(ctx, output[1])


def _mlp(ops, ctx, dy):
    return *ops.mlp_backward(dy, *ctx.saved_tensors, ctx.activation), None


def _keep_cross_entropy(ctx, inputs, output):
    ctx.save_for_backward(output[1], *inputs)
    _auxiliary(ctx, output[1])


def _cross_entropy(ops, ctx, dlosses):
    return ops.cross_entropy_backward(dlosses, *ctx.saved_tensors), None


def _keep_embedding(ctx, inputs, output):
    tokens, positions, wte, wpe = inputs
    ctx.save_for_backward(tokens, positions)
    ctx.rows = wte.shape[0], wpe.shape[0]


def _embedding(ops, ctx, dx):
    return None, None, *ops.embedding_backward(dx, *ctx.saved_tensors, *ctx.rows)


def _keep_attention(ctx, inputs, output):
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*output, *tensors)
    _auxiliary(ctx, output[1])


def _attention(ops, ctx, d_o):
    return *ops.attention_backward(d_o, *ctx.saved_tensors, ctx.scale), None, None, None


rmsnorm_forward = differentiable(operators.rmsnorm_forward, _keep_rmsnorm, _rmsnorm)
gemm_nn = differentiable(operators.gemm_nn, _keep_inputs, _gemm_nn)
gemm_nt = differentiable(operators.gemm_nt, _keep_inputs, _gemm_nt)
gemm_tn = differentiable(operators.gemm_tn, _keep_inputs, _gemm_tn)
mlp_forward = differentiable(operators.mlp_forward, _keep_mlp, _mlp)
cross_entropy_forward = differentiable(operators.cross_entropy_forward, _keep_cross_entropy, _cross_entropy)
embedding_forward = differentiable(operators.embedding_forward, _keep_embedding, _embedding)
attention_forward = differentiable(operators.attention_forward, _keep_attention, _attention)
