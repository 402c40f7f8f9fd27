/* Sums and products of rows, which several kernels share. */
#ifndef MGF_ROWS_H
#define MGF_ROWS_H

#include "base/simd.h"

/* sum over C of a * b, in every lane; two chains, so that one addition's latency does not set the pace */
INLINE vec dot_row(const real *a, const real *b, ptrdiff_t C) {
    vec even = {0}, odd = {0};
    ptrdiff_t c = 0;
    for (; c + 2 * VL <= C; c += 2 * VL) {
        even += load(a + c) * load(b + c);
        odd += load(a + c + VL) * load(b + c + VL);
    }
    for (; c < C; c += VL) even += load_n(a + c, lanes_left(c, C)) * load_n(b + c, lanes_left(c, C));
    return sum_lanes(even + odd);
}

/* to = a + b over C elements */
INLINE void add_rows(real *to, const real *a, const real *b, ptrdiff_t C) {
    for (ptrdiff_t c = 0; c < C; c += VL) {
        int n = lanes_left(c, C);
        store_n(to + c, load_n(a + c, n) + load_n(b + c, n), n);
    }
}

/* whether a block of numbers, its rows ld apart, holds neither NaN nor infinity */
INLINE int all_finite(const real *x, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns) {
    vec sum = {0};
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t c = 0; c < columns; c += VL) sum += load_n(x + i * ld + c, lanes_left(c, columns)) * splat(0);
    return !any(sum != sum);
}

#endif
