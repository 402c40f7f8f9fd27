"""The compiled kernels in a jitted and cached function: forward and backward without leaving Numba."""

import numpy as np
from numba import njit

from microgpt_fast import numba_kernels as mg


@njit(cache=True, nogil=True)
def norm_and_project(x, gain, w, dy):
    """y = rmsnorm(x) w^T, and the derivatives of sum(y * dy) with respect to x, gain and w."""
    (N, C), O = x.shape, len(w)
    z, rstd, y = np.empty_like(x), np.empty(N, x.dtype), np.empty_like(dy)
    mg.rmsnorm_forward(z, rstd, x, gain, N, C, 1e-5)
    mg.linear_forward(y, z, w, N, C, O)
    dz, dx, dgain, dw = np.empty_like(x), np.empty_like(x), np.zeros_like(gain), np.zeros_like(w)
    mg.linear_backward(dz, dw, dy, z, w, N, C, O, False)
    mg.rmsnorm_backward(dx, dgain, dz, x, gain, rstd, N, C, False)
    return y, dx, dgain, dw


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        x, w, dy = (rng.standard_normal(shape).astype(dtype) for shape in ((5, 20), (7, 20), (5, 7)))
        y, dx, dgain, dw = norm_and_project(x, np.ones(20, dtype), w, dy)
        rstd = 1 / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5)
        assert np.allclose(y, x * rstd @ w.T, atol=1e-4)
        assert np.allclose(dw, dy.T @ (x * rstd), atol=1e-4)
        dz = dy @ w
        assert np.allclose(dgain, (dz * x * rstd).sum(axis=0), atol=1e-3)
        assert np.allclose(dx, rstd * dz - x * rstd**3 / 20 * (x * dz).sum(axis=1, keepdims=True), atol=1e-4)
    hits = sum(norm_and_project.stats.cache_hits.values())
    print(f"compiled {2 - hits}, from the cache {hits}")
