/* One token of a narrow model: the same as gpt/decode.h's for n_embd 16 and 32, with constant sizes, so that rows stay in
 * registers. What is left is latency: every sum is cut into as many chains as hide a multiply-add's.
 *
 * Caches of keys and values are rows of C. In the attention a vector holds, for each of its heads, the scores of Q keys:
 * lane = head * Q + key, with Q = D, or VL where a head is wider than a vector.
 */
#ifndef MGF_MICRO_DECODE_H
#define MGF_MICRO_DECODE_H

#include "gpt/decoder.h"
#include "micro/layout.h"

enum {
    CHAINS = 8,
    WIDEST = 32, /* n_embd */
    ROW_VECTORS = WIDEST / VL,
};

/* y [vectors VL] = w x for a panel w [K, vectors VL]; term k goes into sum k modulo `sums` */
INLINE void panel_product(const int K, const int vectors, vec y[], const real *x, const real *w) {
    const int sums = vectors == 1 ? CHAINS : vectors == 2 ? CHAINS / 2 : CHAINS / 4;
    vec sum[CHAINS][TILE_VECTORS];
    EACH(i, sums)
        EACH(j, vectors) sum[i][j] = (vec){0};
    for (int k = 0; k < K; k += sums, x += sums, w += sums * vectors * VL)
        EACH(i, sums)
            EACH(j, vectors) sum[i][j] += splat(x[i]) * load(w + (i * vectors + j) * VL);
    UNROLL for (int i = sums - 1; i; i--) EACH(j, vectors) sum[(i - 1) / 2][j] += sum[i][j];
    EACH(j, vectors) y[j] = sum[0][j];
}

/* y [O] = w x for w [O, K], packed transposed. The panels are a loop: unrolled, they would make half of the unit's code. */
INLINE void product(const int K, const int O, vec y[], const real *x, const real *w) {
    const int whole = O / PANEL * TILE_VECTORS, rest = O / VL - whole;
    for (int j = 0; j < whole; j += TILE_VECTORS) panel_product(K, TILE_VECTORS, y + j, x, w + j * VL * K);
    if (rest) panel_product(K, rest, y + whole, x, w + whole * VL * K);
}

/* (mean(x^2) + eps)^(-1/2) of a row */
INLINE vec inverse_rms(const int C, const vec x[]) {
    vec sum = x[0] * x[0];
    UNROLL for (int j = 1; j < C / VL; j++) sum += x[j] * x[j];
    return splat(1) / vsqrt(sum_lanes(sum) * splat((real)1 / C) + splat((real)RMS_EPS));
}

INLINE void store_row(const int n, real *to, const vec x[]) {
    EACH(j, n / VL) store(to + j * VL, x[j]);
}

/* One group of heads, as many as share a vector: o = sum over t of softmax_t(q . k_t) v_t, with the scale already in q.
 * k and v are the cache's columns of these heads, scores a buffer of a vector for every Q keys. */
INLINE void group_attention(const int C, const int D, vec o[], const vec q[], const real *k, const real *v, real *scores,
                            ptrdiff_t n) {
    const int Q = D < VL ? D : VL, segments = D < VL ? 1 : D / VL;
    const ivec key = lane_numbers() & isplat(Q - 1);
    vec largest = splat(MASKED), total = {0};
    for (ptrdiff_t t = 0; t < n; t += Q, scores += VL) {
        vec rows[VL];
        EACH(i, Q) {
            rows[i] = q[0] * load(k + (t + i) * C);
            UNROLL for (int s = 1; s < segments; s++) rows[i] += q[s] * load(k + (t + i) * C + s * VL);
        }
        vec s = blend(key < isplat((integer)(n - t)), sum_groups(rows, Q), splat(MASKED));
        store(scores, s);
        largest = vmax(s, largest);
    }
    UNROLL for (int distance = Q / 2; distance; distance /= 2) largest = vmax(largest, swap_lanes(largest, distance));
    scores -= (n + Q - 1) / Q * VL;
    vec sum[2][16 / VL + 1];
    EACH(s, segments) sum[0][s] = sum[1][s] = (vec){0};
    for (ptrdiff_t t = 0; t < n; t += Q, scores += VL) {
        vec p = vexp(load(scores) - largest);
        total += p;
        EACH(i, Q)
            EACH(s, segments)
                sum[i % 2][s] += group_lane(p, Q, i) * load(v + (t + i) * C + s * VL);
    }
    UNROLL for (int distance = Q / 2; distance; distance /= 2) total += swap_lanes(total, distance);
    vec inverse = splat(1) / total;
    EACH(s, segments) o[s] = (sum[0][s] + sum[1][s]) * inverse;
}

INLINE void attend(const int C, const int D, decoder *d, ptrdiff_t layer, ptrdiff_t position, vec o[], vec qkv[]) {
    const int Q = D < VL ? D : VL, segments = D < VL ? 1 : D / VL, vectors = C / VL;
    real *keys = d->keys + layer * C * d->ld_t, *values = d->values + layer * C * d->ld_t;
    store_row(C, keys + position * C, qkv + vectors);
    store_row(C, values + position * C, qkv + 2 * vectors);
    if (position % Q == 0) /* what comes later in this block counts 0 times: it must be finite */
        for (ptrdiff_t i = C; i < Q * C; i += VL) store(values + position * C + i, (vec){0});
    EACH(j, vectors) qkv[j] *= splat((real)(1 / sqrt((double)D)));
    UNROLL for (int j = 0; j < vectors; j += segments)
        group_attention(C, D, o + j, qkv + j, keys + j * VL, values + j * VL, d->scores, position + 1);
}

/* rows are multiplied before they are normalised, and the factor comes after: the two need not wait for each other */
INLINE void micro_decode(const int C, const int D, decoder *d, int32_t token, ptrdiff_t position) {
    const gpt *g = &d->g;
    const int vectors = C / VL;
    const real *wte = g->params + g->table.outside[WTE].at + token * C, *wpe = g->params + g->table.outside[WPE].at + position * C;
    real row[4 * WIDEST] __attribute__((aligned(VECTOR_BYTES)));
    vec x[ROW_VECTORS], y[4 * ROW_VECTORS], o[ROW_VECTORS];
    EACH(j, vectors) x[j] = load(wte + j * VL) + load(wpe + j * VL);
    vec r = inverse_rms(C, x);
    EACH(j, vectors) x[j] *= r;
    store_row(C, row, x);
    for (ptrdiff_t layer = 0; layer < g->L; layer++) {
        r = inverse_rms(C, x);
        product(C, 3 * C, y, row, g->packed + layer_weight(g, layer, QKV).packed_at);
        EACH(j, 3 * vectors) y[j] *= r;
        attend(C, D, d, layer, position, o, y);
        store_row(C, row, o);
        product(C, C, y, row, g->packed + layer_weight(g, layer, WO).packed_at);
        EACH(j, vectors) x[j] += y[j];

        store_row(C, row, x);
        r = inverse_rms(C, x);
        product(C, 4 * C, y, row, g->packed + layer_weight(g, layer, FC1).packed_at);
        EACH(j, 4 * vectors) {
            y[j] = relu(y[j] * r);
            if (g->config.activation == MGF_RELU2) y[j] *= y[j];
        }
        store_row(4 * C, row, y);
        product(4 * C, C, y, row, g->packed + layer_weight(g, layer, FC2).packed_at);
        EACH(j, vectors) x[j] += y[j];
        store_row(C, row, x);
    }
    const real *w = g->packed;
    ptrdiff_t left = padded(g->V);
    real *logits = g->logits;
    for (; left >= PANEL; left -= PANEL, logits += PANEL, w += PANEL * C) {
        product(C, PANEL, y, row, w);
        store_row(PANEL, logits, y);
    }
    if (left == VL) product(C, VL, y, row, w), store_row(VL, logits, y);
    if (left == 2 * VL) product(C, 2 * VL, y, row, w), store_row(2 * VL, logits, y);
    if (left == 3 * VL) product(C, 3 * VL, y, row, w), store_row(3 * VL, logits, y);
}

NOINLINE void micro_decode_16_4(decoder *d, int32_t token, ptrdiff_t position) { micro_decode(16, 4, d, token, position); }
NOINLINE void micro_decode_16_8(decoder *d, int32_t token, ptrdiff_t position) { micro_decode(16, 8, d, token, position); }
NOINLINE void micro_decode_16_16(decoder *d, int32_t token, ptrdiff_t position) { micro_decode(16, 16, d, token, position); }
NOINLINE void micro_decode_32_4(decoder *d, int32_t token, ptrdiff_t position) { micro_decode(32, 4, d, token, position); }
NOINLINE void micro_decode_32_8(decoder *d, int32_t token, ptrdiff_t position) { micro_decode(32, 8, d, token, position); }
NOINLINE void micro_decode_32_16(decoder *d, int32_t token, ptrdiff_t position) { micro_decode(32, 16, d, token, position); }

static void micro_decode_token(decoder *d, int32_t token, ptrdiff_t position) {
    ptrdiff_t C = d->g.C, D = d->g.D;
    if (C == 16) (D == 4 ? micro_decode_16_4 : D == 8 ? micro_decode_16_8 : micro_decode_16_16)(d, token, position);
    else (D == 4 ? micro_decode_32_4 : D == 8 ? micro_decode_32_8 : micro_decode_32_16)(d, token, position);
}

#endif
