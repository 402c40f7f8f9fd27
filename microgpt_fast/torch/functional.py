"""The kernels as differentiable functions of tensors."""

import torch

from ..config import ACTIVATIONS
from . import autograd

FLOATS = (torch.float32, torch.float64)


def _check(name, tensor, dims):
    """What the dispatcher would say in a page, in a line."""
    if tensor.is_cpu and tensor.dtype in FLOATS and tensor.ndim >= dims:
        return
    if tensor.device.type not in ("cpu", "meta"):
        raise TypeError(f"{name} must be in the memory of the CPU, not on {tensor.device}: give {name}.cpu()")
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64, not {tensor.dtype}")
    if tensor.ndim < dims:
        raise ValueError(f"{name} must have at least {dims} dimensions, not the shape {tuple(tensor.shape)}")


def _rows(tensor):
    """[..., C] as [N, C]"""
    return tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])


def _like(rows, tensor):
    """[N, O] as [..., O], for the leading sizes of [..., C]"""
    return rows if tensor.ndim == 2 else rows.reshape(*tensor.shape[:-1], rows.shape[-1])


def _indices(name, tensor):
    """Token ids, positions or targets as the kernels read them: one dimension, int32."""
    if tensor.dtype is not torch.int32:
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype is torch.bool:
            raise TypeError(f"{name} must be of an integer dtype, not {tensor.dtype}")
        tensor = tensor.to(torch.int32)
    return tensor if tensor.ndim == 1 else tensor.reshape(-1)


def rmsnorm(x, gain=None, eps=1e-5):
    """y = x / sqrt(mean(x^2) + eps) (* gain) over the last dimension.

    Parameters
    ----------
    x : tensor [..., C]
    gain : tensor [C], optional
    eps : float

    Returns
    -------
    y : tensor [..., C]
    """
    _check("x", x, 1)
    return _like(autograd.rmsnorm_forward(_rows(x), gain, eps)[0], x)


def linear(x, w):
    """y = x w^T.

    Parameters
    ----------
    x : tensor [..., C]
    w : tensor [O, C]

    Returns
    -------
    y : tensor [..., O]
    """
    _check("x", x, 1)
    return _like(autograd.gemm_nt(_rows(x), w), x)


def gemm_nn(a, b):
    """c = a b for a [M, K] and b [K, N]."""
    return _gemm(autograd.gemm_nn, a, b)


def gemm_nt(a, b):
    """c = a b^T for a [M, K] and b [N, K]."""
    return _gemm(autograd.gemm_nt, a, b)


def gemm_tn(a, b):
    """c = a^T b for a [K, M] and b [K, N]."""
    return _gemm(autograd.gemm_tn, a, b)


def _gemm(function, a, b):
    for name, tensor in (("a", a), ("b", b)):
        _check(name, tensor, 2)
        if tensor.ndim != 2:
            raise ValueError(f"{name} must be a matrix, not of shape {tuple(tensor.shape)}")
    return function(a, b)


def mlp(x, w1, w2, activation="relu"):
    """y = f(x w1^T) w2^T.

    Parameters
    ----------
    x : tensor [..., C]
    w1, w2 : tensors [F, C], [C, F]
    activation : str
        f: one of `microgpt_fast.config.ACTIVATIONS`.

    Returns
    -------
    y : tensor [..., C]
    """
    _check("x", x, 1)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    return _like(autograd.mlp_forward(_rows(x), w1, w2, ACTIVATIONS.index(activation))[0], x)


def cross_entropy(logits, targets):
    """losses = log sum_j exp(logits_j) - logits[targets], one per row.

    Parameters
    ----------
    logits : tensor [..., V]
    targets : integer tensor [...]

    Returns
    -------
    losses : tensor [...]
        Their `mean()` is what `torch.nn.functional.cross_entropy` returns.

    Raises
    ------
    IndexError
        For a target that is not in 0 .. V - 1. There is no `ignore_index`.
    """
    _check("logits", logits, 1)
    if targets.shape != logits.shape[:-1]:
        shapes = f"{tuple(targets.shape)} for logits of shape {tuple(logits.shape)}"
        raise ValueError(f"targets must have one id per row of logits, not the shape {shapes}")
    losses = autograd.cross_entropy_forward(_rows(logits), _indices("targets", targets))[0]
    return losses if logits.ndim == 2 else losses.reshape(targets.shape)


def embedding(tokens, positions, wte, wpe):
    """x = wte[tokens] + wpe[positions].

    Parameters
    ----------
    tokens, positions : integer tensors [...]
    wte, wpe : tensors [V, C], [T, C]

    Returns
    -------
    x : tensor [..., C]

    Raises
    ------
    IndexError
        For a token or position out of range.
    """
    _check("wte", wte, 2)
    rows = _indices("tokens", tokens), _indices("positions", positions)
    x = autograd.embedding_forward(*rows, wte, wpe)
    return x if tokens.ndim == 1 else x.reshape(*tokens.shape, wte.shape[1])


def attention(q, k, v, cu_seqlens=None, *, scale=None, slopes=None):
    """Causal attention: each position attends to the earlier ones of its document and to itself.

    Parameters
    ----------
    q, k, v : tensors [N, H, D] or [B, T, H, D]
        Documents end to end, or B sequences of one length. Note the order: `scaled_dot_product_attention` of
        torch has [B, H, T, D].
    cu_seqlens : int32 tensor [B + 1], optional
        For [N, H, D]: document b has the rows cu_seqlens[b] .. cu_seqlens[b + 1] - 1; None means one document.
    scale : float, optional
        D ** -0.5 if not given.
    slopes : tensor [H], optional
        Slopes of a bias that grows with the distance (ALiBi); they have no gradient.

    Returns
    -------
    o : tensor of the shape of q
    """
    _check("q", q, 3)
    if slopes is not None and slopes.requires_grad:
        raise ValueError("slopes have no gradient here: give slopes.detach()")
    shape = q.shape
    if q.ndim == 4:
        if cu_seqlens is not None:
            raise ValueError("cu_seqlens goes with q of shape [N, H, D], not with [B, T, H, D]")
        B, T, H, D = shape
        if k.shape != shape or v.shape != shape:
            shapes = f"{tuple(shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
            raise ValueError(f"q, k and v must have one shape, not {shapes}")
        q, k, v = (part.reshape(B * T, H, D) for part in (q, k, v))
        cu_seqlens = (
            torch.arange(0, B * T + 1, T, dtype=torch.int32) if T else q.new_zeros(1, dtype=torch.int32)
        )
    elif cu_seqlens is None:
        cu_seqlens = torch.tensor([0, shape[0]], dtype=torch.int32)
    scale = shape[-1] ** -0.5 if scale is None else float(scale)
    o = autograd.attention_forward(q, k, v, _indices("cu_seqlens", cu_seqlens), slopes, scale)[0]
    return o if len(shape) == 3 else o.reshape(shape)
