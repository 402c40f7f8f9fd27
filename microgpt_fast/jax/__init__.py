"""The kernels inside JAX: differentiable functions that work under `jit`, `grad` and `vmap`, on the CPU.

Where the package was built beside jaxlib, XLA calls the kernels directly; else through `jax.pure_callback`, which takes
longer per call. docs/bridges.md has examples.
"""

try:
    import jax as _  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "microgpt_fast.jax needs JAX: pip install 'microgpt-fast[jax]'", name="jax"
    ) from error

from .functional import attention, cross_entropy, embedding, gemm_nn, gemm_nt, gemm_tn, linear, mlp, rmsnorm

__all__ = [
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
