# cython: language_level=3, boundscheck=False, wraparound=False
"""RMSNorm and a linear map in one function, which calls the kernels as C functions."""

import numpy as np

from microgpt_fast.kernels cimport (
    linear_forward_f32, linear_forward_f64, rmsnorm_forward_f32, rmsnorm_forward_f64
)

ctypedef fused real:
    float
    double


def norm_and_project(const real[:, ::1] x, const real[:, ::1] w):
    """y [N, O] = rmsnorm(x) w^T, for x [N, C] and w [O, C]."""
    cdef Py_ssize_t N = x.shape[0], C = x.shape[1], O = w.shape[0]
    if N == 0 or O == 0 or C == 0 or w.shape[1] != C:
        raise ValueError("x must be [N, C], w [O, C]")
    dtype = np.asarray(x).dtype
    cdef real[:, ::1] z = np.empty((N, C), dtype), y = np.empty((N, O), dtype)
    cdef real[::1] rstd = np.empty(N, dtype)
    with nogil:
        if real is float:
            rmsnorm_forward_f32(&z[0, 0], &rstd[0], &x[0, 0], NULL, N, C, 1e-5)
            linear_forward_f32(&y[0, 0], &z[0, 0], &w[0, 0], N, C, O)
        else:
            rmsnorm_forward_f64(&z[0, 0], &rstd[0], &x[0, 0], NULL, N, C, 1e-5)
            linear_forward_f64(&y[0, 0], &z[0, 0], &w[0, 0], N, C, O)
    return np.asarray(y)
