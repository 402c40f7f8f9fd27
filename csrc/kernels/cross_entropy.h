/* Softmax cross-entropy: losses_i = log sum_j exp(z[i, j] - m_i) - (z[i, targets[i]] - m_i), m_i = max_j z[i, j].
 *
 * The maximum never meets the logarithm: far from 0, where lse_i = m_i + log sum_j exp(z[i, j] - m_i) is rounded to the
 * distance between large numbers, losses and gradients are as precise as near 0. */
#ifndef MGF_CROSS_ENTROPY_H
#define MGF_CROSS_ENTROPY_H

#include "base/simd.h"

INLINE ptrdiff_t first_bad_target(const int32_t *targets, ptrdiff_t N, ptrdiff_t V) {
    for (ptrdiff_t i = 0; i < N; i++)
        if (targets[i] < 0 || targets[i] >= V) return i;
    return -1;
}

INLINE vec largest_of_row(const real *row, ptrdiff_t V) {
    vec largest = splat(row[0]);
    ptrdiff_t j = 0;
    for (; j + VL <= V; j += VL) largest = vmax(largest, load(row + j));
    for (; j < V; j++) largest = vmax(largest, splat(row[j]));
    return max_lanes(largest);
}

/* the first n lanes of exp(row - shift), the others 0 */
INLINE vec exp_lanes(const real *row, vec shift, int n) {
    vec e = vexp(load_n(row, n) - shift);
    return n == VL ? e : blend(lane_numbers() < isplat(n), e, (vec){0});
}

static ptrdiff_t cross_entropy_forward(real *losses, real *lse, const real *logits, const int32_t *targets, ptrdiff_t N,
                                       ptrdiff_t V) {
    ptrdiff_t bad = first_bad_target(targets, N, V);
    if (bad >= 0) return bad;
    for (ptrdiff_t i = 0; i < N; i++) {
        const real *row = logits + i * V;
        vec largest = largest_of_row(row, V), total = {0};
        for (ptrdiff_t j = 0; j < V; j += VL) total += exp_lanes(row + j, largest, lanes_left(j, V));
        const vec log_total = vlog(sum_lanes(total));
        lse[i] = (largest + log_total)[0];
        losses[i] = log_total[0] - (row[targets[i]] - largest[0]);
    }
    return -1;
}

/* d [V] = weight (softmax(z) - onehot(target)); d may be z; returns the sum of exp(z - largest) in every lane */
INLINE vec softmax_gradient(real *d, const real *z, vec largest, int32_t target, real weight, ptrdiff_t V) {
    vec total = {0};
    for (ptrdiff_t j = 0; j < V; j += VL) {
        const int n = lanes_left(j, V);
        const vec e = exp_lanes(z + j, largest, n);
        store_n(d + j, e, n);
        total += e;
    }
    total = sum_lanes(total);
    const vec factor = splat(weight) / total;
    for (ptrdiff_t j = 0; j < V; j += VL) {
        const int n = lanes_left(j, V);
        store_n(d + j, load_n(d + j, n) * factor, n);
    }
    d[target] -= weight;
    return total;
}

static ptrdiff_t cross_entropy_backward(real *dlogits, const real *dlosses, const real *lse, const real *logits,
                                        const int32_t *targets, ptrdiff_t N, ptrdiff_t V) {
    ptrdiff_t bad = first_bad_target(targets, N, V);
    if (bad >= 0) return bad;
    (void)lse; /* rounded: the sums of exponentials are taken again */
    for (ptrdiff_t i = 0; i < N; i++) {
        const real *row = logits + i * V;
        softmax_gradient(dlogits + i * V, row, largest_of_row(row, V), targets[i], dlosses[i], V);
    }
    return -1;
}

/* One row of a training step: logits [V] become their own gradient for a loss of this weight; returns the loss. */
INLINE real cross_entropy_row(real *logits, int32_t target, real weight, ptrdiff_t V) {
    const vec largest = largest_of_row(logits, V);
    const real below_largest = logits[target] - largest[0];
    return vlog(softmax_gradient(logits, logits, largest, target, weight, V))[0] - below_largest;
}

#endif
