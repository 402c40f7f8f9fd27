/* Attention residuals (arXiv:2603.15031): a sublayer reads a mixture of values in place of their sum.
 *
 *     h = sum over j of alpha_j v_j,  alpha = softmax over j of w . rms(v_j)
 *
 * State 0 is the embedding, state k + 1 what sublayer k leaves, of which each layer has two: its output, or the sum of it and
 * the state before. Every `span` sublayers a sum begins anew. What sublayer k may choose from are the last states of the sums
 * before, and state k. After the last layer lm_head reads such a mixture, as sublayer 2 L.
 */
#ifndef MGF_MIXTURE_H
#define MGF_MIXTURE_H

#include "gpt/options.h"

/* how many values sublayer k chooses from, and which states they are */
INLINE ptrdiff_t value_count(const gpt *g, ptrdiff_t k) { return (k + g->span - 1) / g->span + 1; }
INLINE ptrdiff_t state_of(const gpt *g, ptrdiff_t value, ptrdiff_t k) { return min_of(value * g->span, k); }

/* rows [N, C] of a state; of the gradient of a value; a row [K] of sublayer k's weights */
INLINE real *state(const gpt *g, ptrdiff_t s) { return g->states + s * g->N * g->ld_c; }
INLINE real *dvalue(const gpt *g, ptrdiff_t value) { return g->dvalues + value * g->N * g->ld_c; }
INLINE real *alpha_row(const gpt *g, ptrdiff_t k, ptrdiff_t i) { return g->alpha + (k * g->N + i) * g->ld_k; }

INLINE const real *mixing_weights(const gpt *g, ptrdiff_t k) {
    if (k == 2 * g->L) return parameter_of(g, &g->table.outside[OUT_RES_PROJ], 0);
    return parameter_of(g, &g->table.layer[k % 2 ? MLP_RES_PROJ : ATTN_RES_PROJ], k / 2);
}

/* where sublayer k's output goes, and whether it is added to what is there: state k + 1 then holds state k */
static real *begin_state(gpt *g, ptrdiff_t k, row_range r, tile_mode *mode) {
    const size_t bytes = (size_t)(r.rows * g->ld_c) * sizeof(real);
    *mode = k % g->span ? ADD : STORE;
    if (*mode == ADD) memcpy(state(g, k + 1) + r.first * g->ld_c, state(g, k) + r.first * g->ld_c, bytes);
    return state(g, k + 1);
}
/* the rows' factors of rms */
static void end_state(gpt *g, ptrdiff_t s, row_range r) {
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++) {
        const real *v = state(g, s) + i * g->ld_c;
        const vec mean_square = dot_row(v, v, g->C) / splat((real)g->C);
        g->state_rstd[s * g->N + i] = (splat(1) / vsqrt(mean_square + splat((real)RMS_EPS)))[0];
    }
}

/* softmax of n numbers, in place */
INLINE void softmax_few(real *z, ptrdiff_t n) {
    real largest = z[0];
    for (ptrdiff_t j = 1; j < n; j++) largest = z[j] > largest ? z[j] : largest;
    vec total = {0};
    for (ptrdiff_t j = 0; j < n; j += VL) {
        const int lanes = lanes_left(j, n);
        const vec e = vexp(load_n(z + j, lanes) - splat(largest));
        store_n(z + j, e, lanes);
        total += blend(lane_numbers() < isplat(lanes), e, (vec){0});
    }
    const vec inverse = splat(1) / sum_lanes(total);
    for (ptrdiff_t j = 0; j < n; j += VL) store_n(z + j, load_n(z + j, lanes_left(j, n)) * inverse, lanes_left(j, n));
}

/* x = what sublayer k reads */
static void mix(gpt *g, ptrdiff_t k, row_range r) {
    const real *w = mixing_weights(g, k);
    const ptrdiff_t K = value_count(g, k);
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++) {
        real *alpha = alpha_row(g, k, i);
        for (ptrdiff_t j = 0; j < K; j++) {
            const ptrdiff_t s = state_of(g, j, k);
            alpha[j] = g->state_rstd[s * g->N + i] * dot_row(w, state(g, s) + i * g->ld_c, g->C)[0];
        }
        softmax_few(alpha, K);
        for (ptrdiff_t c = 0; c < g->C; c += VL) {
            const int n = lanes_left(c, g->C);
            vec h = {0};
            for (ptrdiff_t j = 0; j < K; j++)
                h += splat(alpha[j]) * load_n(state(g, state_of(g, j, k)) + i * g->ld_c + c, n);
            store_n(g->x + i * g->ld_c + c, h, n);
        }
    }
}

/* With s_j = rstd of v_j:  dalpha_j = dh . v_j,  dz_j = alpha_j (dalpha_j - sum alpha dalpha),
 * dv_j += alpha_j dh + dz_j s_j (w - v_j s_j^2 (w . v_j) / C),  dw += sum over rows and j of dz_j s_j v_j, of which a row's
 * part goes to `parts` */
static void mix_row_backward(gpt *g, ptrdiff_t k, ptrdiff_t i, const real *w, const real *dh, real *parts) {
    const ptrdiff_t K = value_count(g, k), C = g->C, at = i * g->ld_c;
    const real *alpha = alpha_row(g, k, i);
    real *dz = g->dalpha + i * g->ld_k, mean = 0;
    for (ptrdiff_t j = 0; j < K; j++) {
        dz[j] = dot_row(dh, state(g, state_of(g, j, k)) + at, C)[0];
        mean += alpha[j] * dz[j];
    }
    for (ptrdiff_t c = 0; c < C; c += VL) store_n(parts + c, (vec){0}, lanes_left(c, C));
    for (ptrdiff_t j = 0; j < K; j++) {
        const ptrdiff_t s = state_of(g, j, k);
        const real *v = state(g, s) + at, rstd = g->state_rstd[s * g->N + i];
        const vec a = splat(alpha[j]), d = splat(alpha[j] * (dz[j] - mean) * rstd);
        const vec along = d * splat(rstd * rstd / (real)C) * dot_row(w, v, C);
        real *dv = dvalue(g, j) + at;
        for (ptrdiff_t c = 0; c < C; c += VL) {
            const int n = lanes_left(c, C);
            const vec value = load_n(v + c, n);
            store_n(dv + c, load_n(dv + c, n) + a * load_n(dh + c, n) + d * load_n(w + c, n) - along * value, n);
            store_n(parts + c, load_n(parts + c, n) + d * value, n);
        }
    }
}
static void mix_backward(gpt *g, ptrdiff_t k, row_range r, const real *dh, real *parts) {
    const real *w = mixing_weights(g, k);
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++)
        mix_row_backward(g, k, i, w, dh + i * g->ld_c, parts + i * g->ld_c);
}

/* no gradient of any value yet */
static void begin_value_gradients(gpt *g, row_range r) {
    for (ptrdiff_t value = 0; value < value_count(g, 2 * g->L); value++)
        memset(dvalue(g, value) + r.first * g->ld_c, 0, (size_t)(r.rows * g->ld_c) * sizeof(real));
}
/* the gradient of what sublayer k left, or of the embedding for k = -1: to dx */
static void take_value_gradient(const gpt *g, ptrdiff_t k, row_range r, real *dx) {
    const real *from = dvalue(g, (k + g->span) / g->span);
    memcpy(dx + r.first * g->ld_c, from + r.first * g->ld_c, (size_t)(r.rows * g->ld_c) * sizeof(real));
}

#endif
