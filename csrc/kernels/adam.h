/* Adam with decoupled weight decay (Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101). */
#ifndef MGF_ADAM_H
#define MGF_ADAM_H

#include "base/simd.h"

/* m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,
 * p -= lr (m / c1 / (sqrt(v / c2) + eps) + weight_decay p),  c = 1 - beta^step; that is, with d = scale g,
 * m = beta1 m + share d,  v = beta2 v + d^2,  p = p (1 - lr weight_decay) - rate m / (sqrt(v) + epsilon),
 * scale = sqrt(1 - beta2), share = (1 - beta1) / scale, rate = lr sqrt(c2) / c1, epsilon = eps sqrt(c2) */
typedef struct {
    vec beta1, share, beta2, rate, epsilon, keep;
    int decays;
    real scale;
} adam_constants;

/* what a gradient is to be multiplied with for adam_moved */
INLINE double adam_scale(double beta2) { return sqrt(1 - beta2); }

/* 1 - beta^step: exactly 1 when beta^step <= exp(-(1 - beta) step) is less than half of 1's last place */
INLINE double adam_correction(double beta, int64_t step) {
    return (1 - beta) * (double)step > 37.5 ? 1 : 1 - pow(beta, (double)step);
}

INLINE adam_constants adam_at(double lr, double beta1, double beta2, double eps, double weight_decay, int64_t step) {
    double c1 = adam_correction(beta1, step), root = sqrt(adam_correction(beta2, step));
    return (adam_constants){
        .beta1 = splat((real)beta1),
        .share = splat((real)((1 - beta1) / adam_scale(beta2))),
        .beta2 = splat((real)beta2),
        .rate = splat((real)(lr * root / c1)),
        .epsilon = splat((real)(eps * root)),
        .keep = splat((real)(1 - lr * weight_decay)),
        .decays = lr * weight_decay != 0,
        .scale = (real)adam_scale(beta2),
    };
}

/* the same step for what weight decay does not apply to */
INLINE adam_constants without_decay(adam_constants a) {
    a.keep = splat(1), a.decays = 0;
    return a;
}

/* one vector of parameters after the step, d being the scaled gradient; the moments are replaced */
INLINE vec adam_moved(vec p, vec *m, vec *v, vec d, const adam_constants *a, const int decays, const int root_by_steps) {
    *m = a->beta1 * *m + a->share * d;
    *v = d * d + a->beta2 * *v;
    if (decays) p *= a->keep;
    if (!root_by_steps) return p - a->rate * (*m / (vsqrt(*v) + a->epsilon));
    const vec factor = splat(ROOT_FACTOR);
    return p - factor * a->rate * (*m / root_by_steps_plus(*v, factor * a->epsilon));
}

INLINE void adam_vector(real *p, real *m, real *v, vec d, const adam_constants *a, int n) {
    vec first = load_n(m, n), second = load_n(v, n), moved = adam_moved(load_n(p, n), &first, &second, d, a, a->decays, 0);
    store_n(m, first, n);
    store_n(v, second, n);
    store_n(p, moved, n);
}
INLINE void adam_whole_vector(real *p, real *m, real *v, vec d, const adam_constants *a, const int decays,
                              const int root_by_steps) {
    vec first = load(m), second = load(v), moved = adam_moved(load(p), &first, &second, d, a, decays, root_by_steps);
    store(m, first);
    store(v, second);
    store(p, moved);
}

static void adam_range(real *p, real *m, real *v, const real *g, ptrdiff_t n, const adam_constants *a) {
    const adam_constants constants = *a;
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) adam_vector(p + i, m + i, v + i, load(g + i) * splat(a->scale), &constants, VL);
    if (i < n)
        adam_vector(p + i, m + i, v + i, load_n(g + i, lanes_left(i, n)) * splat(a->scale), &constants, lanes_left(i, n));
}

__attribute__((unused)) static void adamw_step(real *p, real *m, real *v, const real *g, ptrdiff_t n, double lr,
                                               double beta1, double beta2, double eps, double weight_decay, int64_t step) {
    adam_constants a = adam_at(lr, beta1, beta2, eps, weight_decay, step);
    adam_range(p, m, v, g, n, &a);
}

#endif
