"""The blocks of a GPT as modules: weights are [out, in], without biases, as in the original."""

import torch
from torch import nn

from . import functional


class RMSNorm(nn.Module):
    """`functional.rmsnorm`; in place of torch.nn.RMSNorm.

    Parameters
    ----------
    n_embd : int
    eps : float
    elementwise_affine : bool
        Whether there is a gain, the parameter `weight`, which begins at 1. The original has none.
    """

    def __init__(self, n_embd, eps=1e-5, elementwise_affine=False, *, device=None, dtype=None):
        super().__init__()
        self.n_embd, self.eps = n_embd, eps
        gain = nn.Parameter(torch.ones(n_embd, device=device, dtype=dtype)) if elementwise_affine else None
        self.register_parameter("weight", gain)

    def forward(self, x):
        return functional.rmsnorm(x, self.weight, self.eps)

    def extra_repr(self):
        return f"{self.n_embd}, eps={self.eps}, elementwise_affine={self.weight is not None}"


def _matrix(rows, columns, device, dtype):
    """A weight as torch.nn.Linear begins: uniform in +-columns^(-1/2)."""
    weight = nn.Parameter(torch.empty(rows, columns, device=device, dtype=dtype))
    nn.init.uniform_(weight, -(columns**-0.5), columns**-0.5)
    return weight


class CausalSelfAttention(nn.Module):
    """o = attention(x wq^T, x wk^T, x wv^T) wo^T.

    Parameters
    ----------
    n_embd, n_head : int
        The heads are n_embd / n_head wide.
    """

    def __init__(self, n_embd, n_head, *, device=None, dtype=None):
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"n_embd must be a multiple of n_head, not {n_embd} with {n_head} heads")
        self.n_head = n_head
        for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo"):
            self.register_parameter(name, _matrix(n_embd, n_embd, device, dtype))

    def forward(self, x, cu_seqlens=None):
        """x [B, T, C], or [N, C]: documents end to end, see `functional.attention`."""
        heads = (*x.shape[:-1], self.n_head, x.shape[-1] // self.n_head)
        q, k, v = (functional.linear(x, w).reshape(heads) for w in (self.attn_wq, self.attn_wk, self.attn_wv))
        return functional.linear(functional.attention(q, k, v, cu_seqlens).reshape(x.shape), self.attn_wo)

    def extra_repr(self):
        return f"{self.attn_wq.shape[1]}, n_head={self.n_head}"


class MLP(nn.Module):
    """y = f(x fc1^T) fc2^T.

    Parameters
    ----------
    n_embd : int
    width : int, optional
        Between the two matrices; 4 n_embd if not given.
    activation : str
        f: one of `microgpt_fast.config.ACTIVATIONS`.
    """

    def __init__(self, n_embd, width=None, activation="relu", *, device=None, dtype=None):
        super().__init__()
        width = 4 * n_embd if width is None else width
        self.activation = activation
        self.mlp_fc1 = _matrix(width, n_embd, device, dtype)
        self.mlp_fc2 = _matrix(n_embd, width, device, dtype)

    def forward(self, x):
        return functional.mlp(x, self.mlp_fc1, self.mlp_fc2, self.activation)

    def extra_repr(self):
        width, n_embd = self.mlp_fc1.shape
        return f"{n_embd}, width={width}, activation={self.activation!r}"


class CrossEntropy(nn.Module):
    """The mean of `functional.cross_entropy`, or its losses; in place of torch.nn.CrossEntropyLoss.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}
    """

    def __init__(self, reduction="mean"):
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
        self.reduction = reduction

    def forward(self, logits, targets):
        losses = functional.cross_entropy(logits, targets)
        return losses if self.reduction == "none" else getattr(losses, self.reduction)()

    def extra_repr(self):
        return f"reduction={self.reduction!r}"
