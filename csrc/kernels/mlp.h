/* The feed-forward block: h = x w1^T, a = f(h), y = a w2^T with f = max(., 0) (RELU) or its square (RELU2). */
#ifndef MGF_MLP_H
#define MGF_MLP_H

#include "base/gemm.h"
#include "microgpt_fast.h"

enum { MLP_ROWS = 32, MLP_COLUMNS = 256 }; /* of f(h), recomputed block by block on the stack: 64 KB in float64 */

/* a [rows, columns] = f(h) */
INLINE void activate(real *a, ptrdiff_t ld_a, const real *h, ptrdiff_t ld_h, ptrdiff_t rows, ptrdiff_t columns,
                     int activation) {
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t c = 0; c < columns; c += VL) {
            int n = lanes_left(c, columns);
            vec r = vmax(load_n(h + i * ld_h + c, n), (vec){0});
            store_n(a + i * ld_a + c, activation == MGF_RELU2 ? r * r : r, n);
        }
}

static void mlp_forward(real *y, real *h, const real *x, const real *w1, const real *w2, ptrdiff_t N, ptrdiff_t C,
                        ptrdiff_t F, int activation) {
    real a[MLP_ROWS * MLP_COLUMNS] __attribute__((aligned(VECTOR_BYTES)));
    gemm_nt(h, x, w1, N, F, C, F, C, C, 0);
    if (F == 0) gemm_nt(y, h, w2, N, C, 0, C, F, F, 0);
    for (ptrdiff_t i = 0; i < N; i += MLP_ROWS)
        for (ptrdiff_t f = 0; f < F; f += MLP_COLUMNS) {
            ptrdiff_t rows = min_of(MLP_ROWS, N - i), columns = min_of(MLP_COLUMNS, F - f);
            activate(a, MLP_COLUMNS, h + i * F + f, F, rows, columns, activation);
            gemm_nt(y + i * C, a, w2 + f, rows, C, columns, C, MLP_COLUMNS, F, f > 0);
        }
}

/* dh = (dy w2) f'(h),  dx = dh w1,  dw1 += dh^T x,  dw2 += dy^T f(h);  f' = [h > 0], or 2 max(h, 0) */
static void mlp_backward(real *dx, real *dw1, real *dw2, real *dh, const real *dy, const real *h, const real *x,
                         const real *w1, const real *w2, ptrdiff_t N, ptrdiff_t C, ptrdiff_t F, int activation) {
    real a[MLP_ROWS * MLP_COLUMNS] __attribute__((aligned(VECTOR_BYTES)));
    gemm_nn(dh, dy, w2, N, F, C, F, C, F, 0);
    for (ptrdiff_t i = 0; i < N * F; i += VL) {
        int n = lanes_left(i, N * F);
        vec u = load_n(h + i, n), d = load_n(dh + i, n), r = vmax(u, (vec){0});
        store_n(dh + i, activation == MGF_RELU2 ? d * (r + r) : blend(u > (vec){0}, d, (vec){0}), n);
    }
    gemm_nn(dx, dh, w1, N, C, F, C, F, C, 0);
    gemm_tn(dw1, dh, x, F, C, N, C, F, C, 1);
    for (ptrdiff_t f = 0; f < F; f += MLP_COLUMNS)
        for (ptrdiff_t i = 0; i < N; i += MLP_ROWS) {
            ptrdiff_t rows = min_of(MLP_ROWS, N - i), columns = min_of(MLP_COLUMNS, F - f);
            activate(a, MLP_COLUMNS, h + i * F + f, F, rows, columns, activation);
            gemm_tn(dw2 + f, dy + i * C, a, C, columns, rows, F, C, MLP_COLUMNS, 1);
        }
}

#endif
