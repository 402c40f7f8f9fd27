/* Activations as data: value and slope of each, and whether the slope needs the input.
 *
 *     relu     max(h, 0)          [h > 0]
 *     relu2    max(h, 0)^2        2 max(h, 0)
 *     gelu     h s, s = 1 / (1 + exp(-u)), u = 2 sqrt(2 / pi) (h + 0.044715 h^3)          s + h s (1 - s) u'
 *     silu     h s, s = 1 / (1 + exp(-h))                                                s + h s (1 - s)
 *
 * A new one is two functions, a line in the table, and a name in microgpt_fast.h.
 */
#ifndef MGF_ACTIVATION_H
#define MGF_ACTIVATION_H

#include "base/simd.h"
#include "microgpt_fast.h"

/* f(h), and d f'(h) */
INLINE vec relu(vec h) { return vmax((vec){0}, h); } /* in this order NaN stays NaN */
INLINE vec relu_gradient(vec h, vec d) { return d * blend(h > (vec){0}, splat(1), (vec){0}); } /* NaN times 0 is NaN */

INLINE vec relu2(vec h) { return relu(h) * relu(h); }
INLINE vec relu2_gradient(vec h, vec d) { return relu(h) * (d + d); }

/* 1 / (1 + exp(-x)), by an exponential that is at most 1 */
INLINE vec sigmoid(vec x) {
    const vec e = vexp(-vmax(x, -x));
    return blend(x < (vec){0}, e, splat(1)) / (splat(1) + e);
}

INLINE vec silu(vec h) { return h * sigmoid(h); }
INLINE vec silu_gradient(vec h, vec d) {
    const vec s = sigmoid(h);
    return d * (s + h * s * (splat(1) - s));
}

/* The tanh form, (h / 2) (1 + tanh(u / 2)) = h sigmoid(u); beyond 30 the sigmoid is 0 or 1, and cubes would overflow. */
#define GELU_SLOPE ((real)1.5957691216057308) /* 2 sqrt(2 / pi) */
#define GELU_CUBIC ((real)(0.044715 * 1.5957691216057308))
INLINE vec gelu_inner(vec h) { return -vmax(-vmax(h, splat(-30)), splat(-30)); }
INLINE vec gelu(vec h) {
    const vec x = gelu_inner(h);
    return h * sigmoid(x * (splat(GELU_SLOPE) + splat(GELU_CUBIC) * x * x));
}
INLINE vec gelu_gradient(vec h, vec d) {
    const vec x = gelu_inner(h), s = sigmoid(x * (splat(GELU_SLOPE) + splat(GELU_CUBIC) * x * x));
    return d * (s + h * s * (splat(1) - s) * (splat(GELU_SLOPE) + splat(3 * GELU_CUBIC) * x * x));
}

/* a [rows, columns] = f(h); a may be h */
typedef void activation_value(real *a, ptrdiff_t ld_a, const real *h, ptrdiff_t ld_h, ptrdiff_t rows, ptrdiff_t columns);
/* d [rows, columns] *= f'(h) */
typedef void activation_gradient(real *d, ptrdiff_t ld_d, const real *h, ptrdiff_t ld_h, ptrdiff_t rows, ptrdiff_t columns);

#define ACTIVATION_ROWS(f)                                                                                                 \
    static void f##_rows(real *a, ptrdiff_t ld_a, const real *h, ptrdiff_t ld_h, ptrdiff_t rows, ptrdiff_t columns) {      \
        for (ptrdiff_t i = 0; i < rows; i++, a += ld_a, h += ld_h) {                                                       \
            ptrdiff_t c = 0;                                                                                               \
            for (; c + VL <= columns; c += VL) store(a + c, f(load(h + c)));                                               \
            if (c < columns) store_n(a + c, f(load_n(h + c, lanes_left(c, columns))), lanes_left(c, columns));             \
        }                                                                                                                  \
    }                                                                                                                      \
    static void f##_gradient_rows(real *d, ptrdiff_t ld_d, const real *h, ptrdiff_t ld_h, ptrdiff_t rows,                  \
                                  ptrdiff_t columns) {                                                                     \
        for (ptrdiff_t i = 0; i < rows; i++, d += ld_d, h += ld_h) {                                                       \
            ptrdiff_t c = 0;                                                                                               \
            for (; c + VL <= columns; c += VL) store(d + c, f##_gradient(load(h + c), load(d + c)));                       \
            if (c == columns) continue;                                                                                    \
            const int n = lanes_left(c, columns);                                                                          \
            store_n(d + c, f##_gradient(load_n(h + c, n), load_n(d + c, n)), n);                                           \
        }                                                                                                                  \
    }
ACTIVATION_ROWS(relu)
ACTIVATION_ROWS(relu2)
ACTIVATION_ROWS(gelu)
ACTIVATION_ROWS(silu)

typedef struct {
    activation_value *value;
    activation_gradient *gradient;
    int needs_input; /* 0: the gradient may take f(h) in place of h, which then need not be kept */
    int in_tiles;    /* products apply it to tiles in registers; others pass over the product when it is done */
} activation_functions;

/* by mgf_config.activation */
static const activation_functions activations[MGF_ACTIVATIONS] = {
    [MGF_RELU] = {relu_rows, relu_gradient_rows, .in_tiles = 1},
    [MGF_RELU2] = {relu2_rows, relu2_gradient_rows, .needs_input = 1},
    [MGF_GELU] = {gelu_rows, gelu_gradient_rows, .needs_input = 1},
    [MGF_SILU] = {silu_rows, silu_gradient_rows, .needs_input = 1},
};

#endif
