/* Adam with decoupled weight decay (Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101). */
#ifndef MGF_ADAM_H
#define MGF_ADAM_H

#include "simd.h"

/* m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,
 * p -= lr (m / c1 / (sqrt(v / c2) + eps) + weight_decay p),  c = 1 - beta^step; that is
 * p = p (1 - lr weight_decay) - rate m / (sqrt(v) + epsilon) with rate = lr sqrt(c2) / c1, epsilon = eps sqrt(c2) */
typedef struct {
    vec beta1, rest1, beta2, rest2, rate, epsilon, keep;
} adam_constants;

INLINE adam_constants adam_at(double lr, double beta1, double beta2, double eps, double weight_decay, int64_t step) {
    double c1 = 1 - pow(beta1, (double)step), root = sqrt(1 - pow(beta2, (double)step));
    return (adam_constants){
        .beta1 = splat((real)beta1), .rest1 = splat((real)(1 - beta1)),
        .beta2 = splat((real)beta2), .rest2 = splat((real)(1 - beta2)),
        .rate = splat((real)(lr * root / c1)), .epsilon = splat((real)(eps * root)),
        .keep = splat((real)(1 - lr * weight_decay)),
    };
}

/* one vector of parameters after the step; the moments are replaced */
INLINE vec adam_step(vec p, vec *m, vec *v, vec g, const adam_constants *a) {
    *m = a->beta1 * *m + a->rest1 * g;
    *v = a->beta2 * *v + a->rest2 * (g * g);
    return a->keep * p - a->rate * *m / (vsqrt(*v) + a->epsilon);
}

INLINE void adam_vector(real *p, real *m, real *v, vec g, const adam_constants *a, int n) {
    vec first = load_n(m, n), second = load_n(v, n), moved = adam_step(load_n(p, n), &first, &second, g, a);
    store_n(m, first, n);
    store_n(v, second, n);
    store_n(p, moved, n);
}
INLINE void adam_whole_vector(real *p, real *m, real *v, vec g, const adam_constants *a) {
    vec first = load(m), second = load(v), moved = adam_step(load(p), &first, &second, g, a);
    store(m, first);
    store(v, second);
    store(p, moved);
}

static void adam_range(real *p, real *m, real *v, const real *g, ptrdiff_t n, const adam_constants *a) {
    const adam_constants constants = *a;
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) adam_vector(p + i, m + i, v + i, load(g + i), &constants, VL);
    if (i < n) adam_vector(p + i, m + i, v + i, load_n(g + i, lanes_left(i, n)), &constants, lanes_left(i, n));
}

static void adamw_step(real *p, real *m, real *v, const real *g, ptrdiff_t n, double lr, double beta1, double beta2,
                       double eps, double weight_decay, int64_t step) {
    adam_constants a = adam_at(lr, beta1, beta2, eps, weight_decay, step);
    adam_range(p, m, v, g, n, &a);
}

#endif
