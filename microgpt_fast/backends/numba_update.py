"""AdamW on a gradient that is divided and clipped on the way, for the Numba backend."""

import math

from .numba_compile import helper, kernel
from .numba_layers import adam, dot_row
from .numba_simd import denormals_flush, denormals_restore, pointer

NORM_BLOCK = 4096  # elements whose squares are summed in their own type


@helper
def _norm(g, size):
    squares = 0.0
    for i in range(0, size, NORM_BLOCK):
        block = g + i
        squares += float(dot_row(block, block, min(NORM_BLOCK, size - i)))
    return math.sqrt(squares)


@kernel
def gpt_update(params, m, v, grads, lr, beta1, beta2, eps, weight_decay, step, divisor, max_norm):
    # norm = |grads| / divisor, g = grads / divisor * (max_norm / norm where norm > max_norm > 0, else 1);
    # AdamW with g; grads = 0. Returns norm, 0 where max_norm is 0
    size = params.size
    p, m, v, g = pointer(params, grads), pointer(m, grads), pointer(v, grads), pointer(grads, grads)
    before = denormals_flush()
    norm = _norm(g, size) / divisor if max_norm > 0 else 0.0
    factor = max_norm / norm if norm > max_norm else 1.0
    adam(p, m, v, g, factor / divisor, size, lr, beta1, beta2, eps, weight_decay, step)
    for i in range(size):
        g[i] = 0
    denormals_restore(before)
    return norm
