/* Rotary position embedding (Su et al. 2021, arXiv:2104.09864): of each head's row the pairs (x_i, x_(i + D/2)) are turned by
 * the angle positions[n] * base^(-2i / D). The gradient is turned back. */
#ifndef MGF_ROPE_H
#define MGF_ROPE_H

#include <math.h>

#include "base/simd.h"

/* y, x [N, H, D]; sign -1 turns the other way */
static void turn_heads(real *y, const real *x, const int32_t *positions, ptrdiff_t N, ptrdiff_t H, ptrdiff_t D, double base,
                       int sign) {
    const ptrdiff_t half = D / 2;
    for (ptrdiff_t i = 0; i < half; i++) {
        const double frequency = pow(base, -(double)i / (double)half);
        for (ptrdiff_t n = 0; n < N; n++) {
            const double angle = positions[n] * frequency;
            const real cosine = (real)cos(angle), sine = (real)(sign * sin(angle));
            for (ptrdiff_t at = n * H * D + i; at < (n + 1) * H * D; at += D) {
                const real a = x[at], b = x[at + half];
                y[at] = a * cosine - b * sine;
                y[at + half] = b * cosine + a * sine;
            }
        }
    }
}

static void rope_forward(real *y, const real *x, const int32_t *positions, ptrdiff_t N, ptrdiff_t H, ptrdiff_t D,
                         double base) {
    turn_heads(y, x, positions, N, H, D, base, 1);
}

static void rope_backward(real *dx, const real *dy, const int32_t *positions, ptrdiff_t N, ptrdiff_t H, ptrdiff_t D,
                          double base) {
    turn_heads(dx, dy, positions, N, H, D, base, -1);
}

#endif
