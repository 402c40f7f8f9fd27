"""The kernels inside PyTorch: differentiable functions, modules, the whole model, AdamW.

Tensors are read and written where they lie, in the memory of the CPU; they are float32 or float64. The functions work
in eager code, under `torch.compile` without breaking the graph, with `torch.func` and with any number of uses in one
graph; derivatives of derivatives are not available. docs/bridges.md has examples.
"""

try:
    import torch as _  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "microgpt_fast.torch needs PyTorch: pip install 'microgpt-fast[torch]'", name="torch"
    ) from error

from .functional import attention, cross_entropy, embedding, gemm_nn, gemm_nt, gemm_tn, linear, mlp, rmsnorm
from .gpt import GPT
from .modules import MLP, CausalSelfAttention, CrossEntropy, RMSNorm
from .optimizer import AdamW

__all__ = [
    "GPT",
    "MLP",
    "AdamW",
    "CausalSelfAttention",
    "CrossEntropy",
    "RMSNorm",
    "attention",
    "cross_entropy",
    "embedding",
    "gemm_nn",
    "gemm_nt",
    "gemm_tn",
    "linear",
    "mlp",
    "rmsnorm",
]
