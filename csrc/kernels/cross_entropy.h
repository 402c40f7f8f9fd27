/* Softmax cross-entropy: losses_i = lse_i - logits[i, targets[i]], lse_i = log sum_j exp logits[i, j]. */
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
        lse[i] = (largest + vlog(sum_lanes(total)))[0];
        losses[i] = lse[i] - row[targets[i]];
    }
    return -1;
}

static ptrdiff_t cross_entropy_backward(real *dlogits, const real *dlosses, const real *lse, const real *logits,
                                        const int32_t *targets, ptrdiff_t N, ptrdiff_t V) {
    ptrdiff_t bad = first_bad_target(targets, N, V);
    if (bad >= 0) return bad;
    for (ptrdiff_t i = 0; i < N; i++) {
        vec shift = splat(lse[i]), weight = splat(dlosses[i]);
        for (ptrdiff_t j = 0; j < V; j += VL) {
            int n = lanes_left(j, V);
            store_n(dlogits + i * V + j, exp_lanes(logits + i * V + j, shift, n) * weight, n);
        }
        dlogits[i * V + targets[i]] -= dlosses[i];
    }
    return -1;
}

/* One row of a training step: logits [V] become their own gradient for a loss of this weight; returns the loss. */
INLINE real cross_entropy_row(real *logits, int32_t target, real weight, ptrdiff_t V) {
    real at_target = logits[target];
    vec largest = largest_of_row(logits, V), total = {0};
    for (ptrdiff_t j = 0; j < V; j += VL) {
        int n = lanes_left(j, V);
        vec e = exp_lanes(logits + j, largest, n);
        store_n(logits + j, e, n);
        total += e;
    }
    total = sum_lanes(total);
    vec factor = splat(weight) / total;
    for (ptrdiff_t j = 0; j < V; j += VL) {
        int n = lanes_left(j, V);
        store_n(logits + j, load_n(logits + j, n) * factor, n);
    }
    logits[target] -= weight;
    return (largest + vlog(total))[0] - at_target;
}

#endif
