/* Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467): y = x * rstd (* gain),
 * rstd = (mean(x^2) + eps)^(-1/2). */
#ifndef MGF_RMSNORM_H
#define MGF_RMSNORM_H

#include "base/rows.h"

/* y [N, C] with row stride ld_y, x with ld_x; y may be x */
static void rmsnorm_rows(real *y, ptrdiff_t ld_y, real *rstd, const real *x, ptrdiff_t ld_x, const real *gain, ptrdiff_t N,
                         ptrdiff_t C, double eps) {
    for (ptrdiff_t i = 0; i < N; i++) {
        const real *row = x + i * ld_x;
        vec r = splat(1) / vsqrt(dot_row(row, row, C) / splat((real)C) + splat((real)eps));
        rstd[i] = r[0];
        for (ptrdiff_t c = 0; c < C; c += VL) {
            int n = lanes_left(c, C);
            vec z = load_n(row + c, n) * r;
            store_n(y + i * ld_y + c, gain ? z * load_n(gain + c, n) : z, n);
        }
    }
}

/* dx (+ base) = rstd * g - x * factor * sum(x * g) / C,  g = dy (* gain)
 * x is the input and factor = rstd^3; or x is the normalised output and factor = rstd. base may be NULL, or dx. */
static void rmsnorm_rows_backward(real *dx, ptrdiff_t ld_dx, const real *base, ptrdiff_t ld_base, const real *dy,
                                  ptrdiff_t ld_dy, const real *x, ptrdiff_t ld_x, int x_is_normalised, const real *gain,
                                  const real *rstd, ptrdiff_t N, ptrdiff_t C) {
    for (ptrdiff_t i = 0; i < N; i++) {
        const real *dy_row = dy + i * ld_dy, *x_row = x + i * ld_x;
        vec sum = {0};
        if (gain)
            for (ptrdiff_t c = 0; c < C; c += VL) {
                int n = lanes_left(c, C);
                sum += load_n(dy_row + c, n) * load_n(gain + c, n) * load_n(x_row + c, n);
            }
        sum = gain ? sum_lanes(sum) : dot_row(dy_row, x_row, C);
        vec r = splat(rstd[i]), factor = sum * (x_is_normalised ? r : r * r * r) / splat((real)C);
        for (ptrdiff_t c = 0; c < C; c += VL) {
            int n = lanes_left(c, C);
            vec g = load_n(dy_row + c, n);
            if (gain) g *= load_n(gain + c, n);
            vec d = r * g - load_n(x_row + c, n) * factor;
            if (base) d += load_n(base + i * ld_base + c, n);
            store_n(dx + i * ld_dx + c, d, n);
        }
    }
}

static void rmsnorm_forward(real *y, real *rstd, const real *x, const real *gain, ptrdiff_t N, ptrdiff_t C, double eps) {
    rmsnorm_rows(y, C, rstd, x, C, gain, N, C, eps);
}

static void rmsnorm_backward(real *dx, real *dgain, const real *dy, const real *x, const real *gain, const real *rstd,
                             ptrdiff_t N, ptrdiff_t C, int accumulate_dx) {
    rmsnorm_rows_backward(dx, C, accumulate_dx ? dx : NULL, C, dy, C, x, C, 0, gain, rstd, N, C);
    if (!dgain) return;
    for (ptrdiff_t i = 0; i < N; i++)
        for (ptrdiff_t c = 0; c < C; c += VL) {
            int n = lanes_left(c, C);
            vec d = load_n(dy + i * C + c, n) * load_n(x + i * C + c, n) * splat(rstd[i]);
            store_n(dgain + c, load_n(dgain + c, n) + d, n);
        }
}

#endif
