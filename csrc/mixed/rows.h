/* Rows of float32 to and from both forms of bfloat16, with the arithmetic that lies between two products: norms,
 * activations, the loss. Two rows are worked at a time, since they make pairs.
 */
#ifndef MGF_MIXED_ROWS_H
#define MGF_MIXED_ROWS_H

#include "mixed/layout.h"

/* where two rows go: their first elements, and their pairs */
typedef struct {
    bfloat16 *even, *odd;
    row_pairs pairs;
    ptrdiff_t row_pair;
} both_forms;

INLINE both_forms forms_at(bfloat16 *rows, ptrdiff_t ld, row_pairs pairs, ptrdiff_t row) {
    return (both_forms){rows + row * ld, rows + (row + 1) * ld, pairs, row / 2};
}
INLINE void store_forms(both_forms to, ptrdiff_t c, vec even, vec odd) {
    store_row(to.even + c, even), store_row(to.odd + c, odd);
    store_pairs(pairs_at(to.pairs, to.row_pair, c), pair_up(even, odd));
}

/* rms(x) = x rstd,  rstd = (mean(x^2) + eps)^(-1/2); C of the n padded elements count */
INLINE vec rstd_of(const float *x, ptrdiff_t n, ptrdiff_t C) {
    return splat(1) / vsqrt(dot_in_lanes(x, x, n) / splat((float)C) + splat((float)RMS_EPS));
}
static void normalise_two(both_forms to, float *rstd, const float *x, ptrdiff_t n, ptrdiff_t C) {
    const vec even = rstd_of(x, n, C), odd = rstd_of(x + n, n, C);
    rstd[0] = even[0], rstd[1] = odd[0];
    for (ptrdiff_t c = 0; c < n; c += VL) store_forms(to, c, load(x + c) * even, load(x + n + c) * odd);
}
static void round_two(both_forms to, const float *x, ptrdiff_t n) {
    for (ptrdiff_t c = 0; c < n; c += VL) store_forms(to, c, load(x + c), load(x + n + c));
}

/* sums over n elements of the products of two rows, with the rows of float32, or with pairs */
INLINE void dot_rows_with_pairs(vec *even, vec *odd, const float *d, row_pairs h, ptrdiff_t row_pair, ptrdiff_t n) {
    vec a[PARTS] = {{0}}, b[PARTS] = {{0}};
    for (ptrdiff_t c = 0; c < n; c += LANES)
        EACH(k, PARTS) {
            const pairs x = load_pairs(pairs_at(h, row_pair, c) + k * VL);
            a[k] += load(d + c + k * VL) * even_of(x);
            b[k] += load(d + n + c + k * VL) * odd_of(x);
        }
    *even = sum_parts(a), *odd = sum_parts(b);
}

/* dx += rstd (dh - h mean(h dh)), h being the norm's output; the sum goes to both forms as well, if to.even */
static void normalise_two_backward(both_forms to, float *dx, const float *dh, row_pairs h, const float *rstd, ptrdiff_t row,
                                   ptrdiff_t n, ptrdiff_t C) {
    vec even, odd;
    dot_rows_with_pairs(&even, &odd, dh, h, row / 2, n);
    even /= splat((float)C), odd /= splat((float)C);
    const vec a = splat(rstd[0]), b = splat(rstd[1]);
    for (ptrdiff_t c = 0; c < n; c += VL) {
        const pairs x = load_pairs(pairs_at(h, row / 2, c));
        const vec u = load(dx + c) + a * (load(dh + c) - even_of(x) * even);
        const vec w = load(dx + n + c) + b * (load(dh + n + c) - odd_of(x) * odd);
        store(dx + c, u), store(dx + n + c, w);
        if (to.even) store_forms(to, c, u, w);
    }
}

/* the same for one row of float32, in place: d = rstd (d - h mean(h d)) */
static void normalise_row_backward(float *d, const float *h, float rstd, ptrdiff_t n, ptrdiff_t C) {
    const vec mean = dot_in_lanes(h, d, n) / splat((float)C);
    for (ptrdiff_t c = 0; c < n; c += VL) store(d + c, splat(rstd) * (load(d + c) - load(h + c) * mean));
}

/* One row's logits become their gradient, weight (softmax - onehot(target)); returns the loss,
 * log sum_j exp(z_j - m) - (z_target - m), m = max_j z_j. V of the n padded ones count. */
static float loss_row(float *z, int32_t target, float weight, ptrdiff_t n, ptrdiff_t V) {
    const ivec lanes = lane_numbers();
    vec largest = splat(-INFINITY), sum[PARTS] = {{0}};
    for (ptrdiff_t j = 0; j < V; j += VL)
        largest = vmax(blend(lanes < isplat(lanes_left(j, V)), load(z + j), splat(-INFINITY)), largest);
    largest = max_lanes(largest);
    const float below = z[target] - largest[0];
    for (ptrdiff_t j = 0; j < n; j += LANES)
        EACH(k, PARTS) {
            const ptrdiff_t at = j + k * VL;
            const vec e = at < V ? vexp(load(z + at) - largest) : (vec){0};
            const vec counted = at + VL <= V ? e : blend(lanes < isplat((integer)max_of(0, V - at)), e, (vec){0});
            store(z + at, counted);
            sum[k] += counted;
        }
    const vec total = sum_parts(sum), factor = splat(weight) / total;
    for (ptrdiff_t j = 0; j < n; j += VL) store(z + j, load(z + j) * factor);
    z[target] -= weight;
    return vlog(total)[0] - below;
}

/* activations that are not made in tiles: h to its pairs, f(h) to both forms */
static void activate_two(const activation_functions *f, both_forms to, row_pairs h, float *x, ptrdiff_t n) {
    for (ptrdiff_t c = 0; c < n; c += VL) store_pairs(pairs_at(h, to.row_pair, c), pair_up(load(x + c), load(x + n + c)));
    f->value(x, n, x, n, 2, n);
    round_two(to, x, n);
}
/* d f'(h) to both forms; `block` has room for two vectors */
static void activate_two_backward(const activation_functions *f, both_forms to, row_pairs h, float *d, ptrdiff_t n) {
    for (ptrdiff_t c = 0; c < n; c += VL) {
        float block[2 * VL];
        const pairs x = load_pairs(pairs_at(h, to.row_pair, c));
        store(block, even_of(x)), store(block + VL, odd_of(x));
        f->gradient(d + c, n, block, VL, 2, VL);
    }
    round_two(to, d, n);
}

#endif
