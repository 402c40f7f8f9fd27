/* The feed-forward block: h = x w1^T, a = f(h), y = a w2^T for the activations f of base/activation.h. */
#ifndef MGF_MLP_H
#define MGF_MLP_H

#include "base/gemm.h"
#include "base/activation.h"

enum { MLP_ROWS = 32, MLP_COLUMNS = 256 }; /* of f(h), recomputed block by block on the stack: 64 KB in float64 */

static void mlp_forward(real *y, real *h, const real *x, const real *w1, const real *w2, ptrdiff_t N, ptrdiff_t C,
                        ptrdiff_t F, int activation) {
    real a[MLP_ROWS * MLP_COLUMNS] __attribute__((aligned(VECTOR_BYTES)));
    gemm_nt(h, x, w1, N, F, C, F, C, C, 0);
    if (F == 0) gemm_nt(y, h, w2, N, C, 0, C, F, F, 0);
    for (ptrdiff_t i = 0; i < N; i += MLP_ROWS)
        for (ptrdiff_t f = 0; f < F; f += MLP_COLUMNS) {
            ptrdiff_t rows = min_of(MLP_ROWS, N - i), columns = min_of(MLP_COLUMNS, F - f);
            activations[activation].value(a, MLP_COLUMNS, h + i * F + f, F, rows, columns);
            gemm_nt(y + i * C, a, w2 + f, rows, C, columns, C, MLP_COLUMNS, F, f > 0);
        }
}

/* dh = (dy w2) f'(h),  dx = dh w1,  dw1 += dh^T x,  dw2 += dy^T f(h) */
static void mlp_backward(real *dx, real *dw1, real *dw2, real *dh, const real *dy, const real *h, const real *x,
                         const real *w1, const real *w2, ptrdiff_t N, ptrdiff_t C, ptrdiff_t F, int activation) {
    real a[MLP_ROWS * MLP_COLUMNS] __attribute__((aligned(VECTOR_BYTES)));
    gemm_nn(dh, dy, w2, N, F, C, F, C, F, 0);
    activations[activation].gradient(dh, F, h, F, N, F);
    gemm_nn(dx, dh, w1, N, C, F, C, F, C, 0);
    gemm_tn(dw1, dh, x, F, C, N, C, F, C, 1);
    for (ptrdiff_t f = 0; f < F; f += MLP_COLUMNS)
        for (ptrdiff_t i = 0; i < N; i += MLP_ROWS) {
            ptrdiff_t rows = min_of(MLP_ROWS, N - i), columns = min_of(MLP_COLUMNS, F - f);
            activations[activation].value(a, MLP_COLUMNS, h + i * F + f, F, rows, columns);
            gemm_tn(dw2 + f, dy + i * C, a, C, columns, rows, F, C, MLP_COLUMNS, 1);
        }
}

#endif
