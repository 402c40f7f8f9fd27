/* Causal attention of one head of one document, its five products in bfloat16, the softmax in float32.
 *
 *     S = K Q^T scale / ln 2,  P = 2^(S - largest) share,  o = P^T V           (over keys that are not after the query)
 *     delta = d_o . o,  dS = scale P (V d_o^T - delta)
 *     dq = dS^T K,  dk = dS Q,  dv = P d_o
 *
 * Keys are rows and queries are lanes: the softmax runs down the rows and needs no sums across lanes. What leaves the
 * registers of P and dS is bfloat16.
 */
#ifndef MGF_MIXED_ATTENTION_H
#define MGF_MIXED_ATTENTION_H

#include "mixed/rows.h"

typedef struct {
    mixed_layer y;
    head_scratch s;
    ptrdiff_t row, n;      /* the document's first row, and its rows, an even number */
    ptrdiff_t h;           /* the head */
    const pair *q, *k, *v; /* rows of pairs along D, ld apart */
    ptrdiff_t ld;
    float *largest, *share; /* [n] */
    float scale;
} mixed_head;

INLINE mixed_head head_at(const mixed *g, ptrdiff_t layer, ptrdiff_t document, ptrdiff_t h, ptrdiff_t worker) {
    const mixed_layer y = layer_of(g, layer);
    const ptrdiff_t row = g->first_row[document];
    const pair *q = (const pair *)(y.qkv + row * g->ld_3a + h * g->D);
    return (mixed_head){
        .y = y,
        .s = scratch_of(g, worker),
        .row = row,
        .n = g->first_row[document + 1] - row,
        .h = h,
        .q = q,
        .k = q + g->A / 2,
        .v = q + g->A,
        .ld = g->ld_3a / 2,
        .largest = y.largest + h * g->N + row,
        .share = y.share + h * g->N + row,
        .scale = (float)(1 / sqrt((double)(g->config.n_embd / g->H))),
    };
}

#define LOG2_E 1.4426950408889634

/* 2^x for x <= 0, and for x below -126 that of -126: 2^n times a polynomial of x - n, |x - n| <= 1/2, relative error
 * 2.4e-6: a tenth of what bfloat16 rounds to. NaN stays NaN. */
INLINE vec vexp2(vec x) {
    x = vmax(splat(-126), x);
    const vec shifted = x + splat(EXP_ROUND), r = x - (shifted - splat(EXP_ROUND)), r2 = r * r;
    const vec low = r * splat(0.693147182f) + splat(1), middle = r * splat(0.0555041162f) + splat(0.240226462f);
    const vec high = r * splat(0.00133894768f) + splat(0.00961834174f);
    return (vec)((ivec)((high * r2 + middle) * r2 + low) + ((ivec)shifted << 23));
}

/* x where the lane's query, the first of which is `query`, is not before the key; else 0 or what is `hidden` */
INLINE vec seen(vec x, ptrdiff_t query, ptrdiff_t key, float hidden) {
    return key <= query ? x : blend(lane_numbers() < isplat((integer)min_of(VL, key - query)), splat(hidden), x);
}

INLINE ptrdiff_t whole_queries(ptrdiff_t n) { return (n + QUERIES - 1) / QUERIES * QUERIES; }

/* to [keys][QUERIES] = the product of rows of pairs with the transposed queries from `query` on */
INLINE void score_keys(const mixed *g, float *to, const pair *rows, ptrdiff_t ld, ptrdiff_t keys, const pair *transposed,
                       ptrdiff_t query) {
    const tile_arguments t = {
        .K = g->D / 2, .a = rows, .ld_a = ld, .b = transposed + query, .ld_b = g->ld_t, .c = to, .ld_c = QUERIES};
    multiply_strip(t, keys, QUERIES);
}

/* P before it is shared out, in pairs of keys, for the VL queries from `query` on; keeps largest and share */
INLINE void softmax_lanes(const mixed_head *x, const float *scores, pair *p, ptrdiff_t query, ptrdiff_t keys) {
    const vec scale = splat((float)(x->scale * LOG2_E));
    vec largest = splat(-INFINITY), even = {0}, odd = {0};
    for (ptrdiff_t k = 0; k < keys; k++) largest = vmax(seen(load(scores + k * QUERIES), query, k, -INFINITY), largest);
    largest *= scale;
    for (ptrdiff_t k = 0; k < keys; k += 2) {
        const vec u = seen(vexp2(load(scores + k * QUERIES) * scale - largest), query, k, 0);
        const vec w = seen(vexp2(load(scores + (k + 1) * QUERIES) * scale - largest), query, k + 1, 0);
        even += u, odd += w;
        store_pairs(p + k / 2 * QUERIES, pair_up(u, w));
    }
    if (query >= x->n) return;
    const int left = lanes_left(query, x->n);
    store_n(x->largest + query, largest, left);
    store_n(x->share + query, splat(1) / (even + odd), left);
}

static void attend(const mixed *g, bfloat16 *o_rows, mixed_head x) {
    const head_scratch s = x.s;
    transpose_pairs(s.queries, g->ld_t, x.q, x.ld, whole_queries(x.n), g->D / 2);
    for (ptrdiff_t q = 0; q < x.n; q += QUERIES) {
        const ptrdiff_t rows = min_of(QUERIES, x.n - q), keys = q + rows;
        score_keys(g, s.scores, x.k, x.ld, keys, s.queries, q);
        for (ptrdiff_t lane = 0; lane < QUERIES; lane += VL) softmax_lanes(&x, s.scores + lane, s.p + lane, q + lane, keys);
        tile_arguments t = {
            .a = s.p,
            .ld_a = QUERIES,
            .transposed = 1,
            .ld_b = 3 * g->A,
            .mode = SCALED,
            .ld_rows = g->ld_a,
            .pairs = x.y.o,
            .row_pair = (x.row + q) / 2,
            .scale = x.share + q,
            .K = keys / 2,
        };
        for (ptrdiff_t d = 0; d < g->D; d += PANEL) {
            const ptrdiff_t column = x.h * g->D + d;
            t.b = pairs_at(x.y.qkv_pairs, x.row / 2, 0) + 2 * g->A + column;
            t.rows = o_rows + (x.row + q) * g->ld_a + column, t.column = column;
            multiply_strip(t, rows, min_of(PANEL, g->D - d));
        }
    }
}

#endif
