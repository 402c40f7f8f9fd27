/* Activations as data: value and slope of each, and whether the slope needs the input.
 *
 *     relu     max(h, 0)          [h > 0]
 *     relu2    max(h, 0)^2        2 max(h, 0)
 *
 * A new one is two functions, a line in the table, and a name in microgpt_fast.h.
 */
#ifndef MGF_ACTIVATION_H
#define MGF_ACTIVATION_H

#include "base/simd.h"
#include "microgpt_fast.h"

/* f(h), and d f'(h) */
INLINE vec relu(vec h) { return vmax((vec){0}, h); } /* in this order NaN stays NaN */
INLINE vec relu_gradient(vec h, vec d) { return blend(h > (vec){0}, d, (vec){0}); }

INLINE vec relu2(vec h) { return relu(h) * relu(h); }
INLINE vec relu2_gradient(vec h, vec d) { return relu(h) * (d + d); }

/* a [rows, columns] = f(h); a may be h */
typedef void activation_value(real *a, ptrdiff_t ld_a, const real *h, ptrdiff_t ld_h, ptrdiff_t rows, ptrdiff_t columns);
/* d [rows, columns] *= f'(h) */
typedef void activation_gradient(real *d, ptrdiff_t ld_d, const real *h, ptrdiff_t ld_h, ptrdiff_t rows, ptrdiff_t columns);

#define ACTIVATION_ROWS(f)                                                                                                 \
    static void f##_rows(real *a, ptrdiff_t ld_a, const real *h, ptrdiff_t ld_h, ptrdiff_t rows, ptrdiff_t columns) {      \
        for (ptrdiff_t i = 0; i < rows; i++, a += ld_a, h += ld_h)                                                         \
            for (ptrdiff_t c = 0; c < columns; c += VL) {                                                                  \
                const int n = lanes_left(c, columns);                                                                      \
                store_n(a + c, f(load_n(h + c, n)), n);                                                                    \
            }                                                                                                              \
    }                                                                                                                      \
    static void f##_gradient_rows(real *d, ptrdiff_t ld_d, const real *h, ptrdiff_t ld_h, ptrdiff_t rows,                  \
                                  ptrdiff_t columns) {                                                                     \
        for (ptrdiff_t i = 0; i < rows; i++, d += ld_d, h += ld_h)                                                         \
            for (ptrdiff_t c = 0; c < columns; c += VL) {                                                                  \
                const int n = lanes_left(c, columns);                                                                      \
                store_n(d + c, f##_gradient(load_n(h + c, n), load_n(d + c, n)), n);                                       \
            }                                                                                                              \
    }
ACTIVATION_ROWS(relu)
ACTIVATION_ROWS(relu2)

typedef struct {
    activation_value *value;
    activation_gradient *gradient;
    int needs_input; /* 0: the gradient may take f(h) in place of h, which then need not be kept */
} activation_functions;

/* by mgf_config.activation */
static const activation_functions activations[MGF_ACTIVATIONS] = {
    [MGF_RELU] = {relu_rows, relu_gradient_rows, .needs_input = 0},
    [MGF_RELU2] = {relu2_rows, relu2_gradient_rows, .needs_input = 1},
};

#endif
