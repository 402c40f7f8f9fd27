/* y = x w^T with w [O, C]. */
#ifndef MGF_LINEAR_H
#define MGF_LINEAR_H

#include "base/gemm.h"

static void linear_forward(real *y, const real *x, const real *w, ptrdiff_t N, ptrdiff_t C, ptrdiff_t O) {
    gemm_nt(y, x, w, N, O, C, O, C, C, 0);
}

/* dx = dy w,  dw += dy^T x */
static void linear_backward(real *dx, real *dw, const real *dy, const real *x, const real *w, ptrdiff_t N, ptrdiff_t C,
                            ptrdiff_t O, int accumulate_dx) {
    if (dx) gemm_nn(dx, dy, w, N, C, O, C, O, C, accumulate_dx);
    if (dw) gemm_tn(dw, dy, x, O, C, N, C, O, C, 1);
}

#endif
