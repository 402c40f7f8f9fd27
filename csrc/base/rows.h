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

#endif
