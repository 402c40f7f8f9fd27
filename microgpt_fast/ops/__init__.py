"""Every kernel as a function of arrays: checked, documented, forward and backward.

Inputs come first and may be read-only or strided; they are copied where a kernel needs contiguous arrays. NumPy's,
and whatever offers `__dlpack__` or `__array_interface__` in the memory of the CPU, is read where it lies. What is
returned is torch tensors where an input is one, JAX arrays where an input is one, NumPy arrays otherwise.
`out` takes such arrays too (not those of JAX, which cannot be written to): C-contiguous, overlapping no input; if a
kernel has several outputs, it is a tuple, with None for those that are to be allocated. Gradients of parameters are
added to what `out` holds, or to zeros if there is no `out`; all other outputs are overwritten. `backend` is "auto", or
the name or the module of one of `microgpt_fast.backends`. The arrays of a call are all float32 or all float64; indices
are int32 (other integers are converted).

All functions raise TypeError for a wrong dtype, an array that is not in the CPU's memory, and a tensor that requires
a gradient (`microgpt_fast.torch` has those); ValueError for a wrong shape, and for an `out` that is
read-only, not contiguous or overlaps an input; IndexError for an index out of range; always before anything is
written. docs/kernels.md has the formulas and examples.
"""

from .adam import adamw_step
from .attention import attention_backward, attention_decode, attention_forward
from .cross_entropy import cross_entropy_backward, cross_entropy_forward
from .embedding import embedding_backward, embedding_forward
from .gemm import gemm_nn, gemm_nt, gemm_tn
from .gpt import gpt_backward, gpt_decode, gpt_forward, gpt_train_steps
from .linear import linear_backward, linear_forward
from .mlp import mlp_backward, mlp_forward
from .rmsnorm import rmsnorm_backward, rmsnorm_forward
from .rope import rope_backward, rope_forward

__all__ = [
    "adamw_step",
    "attention_backward",
    "attention_decode",
    "attention_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "embedding_backward",
    "embedding_forward",
    "gemm_nn",
    "gemm_nt",
    "gemm_tn",
    "gpt_backward",
    "gpt_decode",
    "gpt_forward",
    "gpt_train_steps",
    "linear_backward",
    "linear_forward",
    "mlp_backward",
    "mlp_forward",
    "rmsnorm_backward",
    "rmsnorm_forward",
    "rope_backward",
    "rope_forward",
]
