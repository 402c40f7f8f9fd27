/* Adam in the original's order of operations, a vector at a time; the two powers are the library's
 * (exact/math.h).
 *
 * A power next to a tie is one of two neighbours, and a rounded sum that has it as a small term mostly does
 * not notice which. So the vector code finds the lanes where it could matter, about 1 in 200, leaves them as
 * they are, and they are computed with the library's pow when the others are done.
 *
 * A parameter that is 0 is assumed to have |m| above 2^-900, or 0: the quotient's correction fails below, and
 * elsewhere the update is then lost in the parameter.
 */
#ifndef MGF_EXACT_ADAM_H
#define MGF_EXACT_ADAM_H

#include "exact/math.h"
#include "microgpt_fast.h"

typedef struct {
    double lr, beta1, beta2, eps, c1, c2; /* c = 1 - beta^step */
} exact_adam_constants;

/* v = beta2 * v + (1 - beta2) * g^2,  p -= lr * (m / c1) / ((v / c2)^0.5 + eps) */
static void library_v(double *v, double g, const exact_adam_constants *a) {
    *v = a->beta2 * *v + (1 - a->beta2) * pow(g, 2.0);
}
static void library_p(double *p, double m, double v, const exact_adam_constants *a) {
    *p -= a->lr * (m / a->c1) / (pow(v / a->c2, 0.5) + a->eps);
}

enum { ADAM_CHUNK = 512 };

/* What the first half of a chunk leaves to the second, and both to the library; two short loops keep more
 * vectors in flight than a long one. */
typedef struct {
    vec root[ADAM_CHUNK / VL];                                /* (v / c2)^0.5 */
    uint8_t near_tie[ADAM_CHUNK / VL];                        /* lanes where it may be its neighbour */
    uint8_t left_v[ADAM_CHUNK / VL], left_p[ADAM_CHUNK / VL]; /* lanes that are left to the library */
} adam_half;

/* m = beta1 * m + (1 - beta1) * g,  v = beta2 * v + (1 - beta2) * g^2
 * A square next to a tie matters where its neighbour makes another v. Squares below LOWEST_RESULT other than
 * 0, and large v, are left to the library. A root below LOWEST_RESULT is lost in eps. */
static void adam_moments(adam_half *half, double *restrict m, double *restrict v, const double *restrict grads, ptrdiff_t n,
                         const exact_adam_constants *a, unsigned ask) {
    const vec beta1 = splat(a->beta1), rest1 = splat(1 - a->beta1), beta2 = splat(a->beta2), rest2 = splat(1 - a->beta2);
    const divisor by_c2 = divisor_of(a->c2);
    for (ptrdiff_t i = 0; i < n; i += VL) {
        const vec g = load(grads + i), square = g * g, v0 = load(v + i), kept = beta2 * v0;
        const vec v1 = kept + rest2 * square;
        const vec v_hat = divided(v1, by_c2), root = square_root(v_hat);
        const vec other_v = kept + rest2 * neighbour(square, residual(g, g, square), TIE_MARGIN);
        const ivec differs = (ivec)v1 ^ (ivec)other_v, size = (ivec)square;
        const ivec too_small = (size - (ivec)splat(LOWEST_RESULT)) & -size;
        const ivec too_large = (ivec)splat(0x1p100) - (ivec)v1;
        const unsigned lanes = ask | mask_bits(differs | -differs | too_small | too_large);
        half->root[i / VL] = root;
        half->near_tie[i / VL] = (uint8_t)roots_near_ties(v_hat, root, TIE_MARGIN);
        half->left_v[i / VL] = (uint8_t)lanes;
        store(m + i, beta1 * load(m + i) + rest1 * g);
        store(v + i, choose(lanes, v0, v1));
    }
}

/* p -= lr * (m / c1) / (root + eps)
 * A root next to a tie matters where p comes out differently for an update that is up to 2^-50 of itself
 * larger or smaller; an ulp of the root, and the roundings after it, make 0.75 of that. */
static void adam_params(adam_half *half, double *restrict p, const double *restrict m, ptrdiff_t n,
                        const exact_adam_constants *a) {
    const vec lr = splat(a->lr), eps = splat(a->eps);
    const divisor by_c1 = divisor_of(a->c1);
    for (ptrdiff_t i = 0; i < n; i += VL) {
        const vec update = lr * divided(load(m + i), by_c1) / (half->root[i / VL] + eps), p0 = load(p + i);
        const vec spread = update * splat(0x1p-50);
        const unsigned sensitive = differ(p0 - (update + spread), p0 - (update - spread));
        const unsigned lanes = half->left_v[i / VL] | (half->near_tie[i / VL] & sensitive);
        half->left_p[i / VL] = (uint8_t)lanes;
        store(p + i, choose(lanes, p0, p0 - update));
    }
}

static void adam_chunk(double *p, double *m, double *v, const double *grads, ptrdiff_t n, const exact_adam_constants *a,
                       unsigned ask) {
    adam_half half;
    const ptrdiff_t whole = n / VL * VL;
    adam_moments(&half, m, v, grads, whole, a, ask);
    adam_params(&half, p, m, whole, a);
    for (ptrdiff_t i = 0; i < whole; i += VL)
        for (unsigned lanes = half.left_p[i / VL]; lanes; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            if (half.left_v[i / VL] >> lane & 1) library_v(v + i + lane, grads[i + lane], a);
            library_p(p + i + lane, m[i + lane], v[i + lane], a);
        }
    for (ptrdiff_t i = whole; i < n; i++) {
        m[i] = a->beta1 * m[i] + (1 - a->beta1) * grads[i];
        library_v(v + i, grads[i], a);
        library_p(p + i, m[i], v[i], a);
    }
}

/* One step; `ask` as in exact/math.h. An eps that could be less than the roots asks always. */
static void exact_adam_step(double *p, double *m, double *v, const double *grads, ptrdiff_t n, double lr,
                            const mgf_adam *adam, double step, unsigned ask) {
    const exact_adam_constants a = {
        lr, adam->beta1, adam->beta2, adam->eps, 1 - pow(adam->beta1, step), 1 - pow(adam->beta2, step)};
    if (!(a.eps >= 0x1p-80)) ask = ALL_LANES;
    for (ptrdiff_t i = 0; i < n; i += ADAM_CHUNK)
        adam_chunk(p + i, m + i, v + i, grads + i, min_of(n - i, ADAM_CHUNK), &a, ask);
}

#endif
