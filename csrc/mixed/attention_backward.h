/* The gradient of attention.h, in blocks of KEYS keys and QUERIES queries. */
#ifndef MGF_MIXED_ATTENTION_BACKWARD_H
#define MGF_MIXED_ATTENTION_BACKWARD_H

#include "mixed/attention.h"

/* delta [n] = row sums of d_o o */
INLINE void sum_outputs(const mixed *g, const mixed_head *x) {
    for (ptrdiff_t i = 0; i < x->n; i += 2) {
        vec even[PARTS] = {{0}}, odd[PARTS] = {{0}};
        for (ptrdiff_t d = 0; d < g->D; d += LANES)
            EACH(k, PARTS) {
                const ptrdiff_t column = x->h * g->D + d + k * VL, row_pair = (x->row + i) / 2;
                const pairs o = load_pairs(pairs_at(x->y.o, row_pair, column));
                const pairs d_o = load_pairs(pairs_at(g->d_o, row_pair, 0) + column);
                even[k] += even_of(o) * even_of(d_o), odd[k] += odd_of(o) * odd_of(d_o);
            }
        x->s.delta[i] = sum_parts(even)[0], x->s.delta[i + 1] = sum_parts(odd)[0];
    }
}

/* P and dS of the VL queries from `query` on and of the keys from `key` on, of which `scores` and `dscores` hold the
 * products: as rows of queries, and dS as pairs of keys too; they go to column `query`. */
INLINE void differentiate_lanes(const mixed *g, const mixed_head *x, const float *scores, const float *dscores,
                                ptrdiff_t query, ptrdiff_t key, ptrdiff_t keys) {
    const vec scale = splat((float)(x->scale * LOG2_E)), largest = load(x->largest + query), share = load(x->share + query);
    const vec delta = load(x->s.delta + query), outer = splat(x->scale);
    const ptrdiff_t ld = g->ld_t;
    for (ptrdiff_t k = 0; k < keys; k += 2) {
        vec ds[2];
        EACH(i, 2) {
            vec p = vexp2(load(scores + (k + i) * QUERIES) * scale - largest) * share;
            p = seen(p, query, key + k + i, 0);
            ds[i] = p * outer * (load(dscores + (k + i) * QUERIES) - delta);
            ds[i] = seen(ds[i], query, key + k + i, 0); /* of queries whose delta is NaN, too */
            store_row(x->s.p_rows + (k + i) * ld + query, p);
            store_row(x->s.ds_rows + (k + i) * ld + query, ds[i]);
        }
        store_pairs(x->s.ds + k / 2 * ld + query, pair_up(ds[0], ds[1]));
    }
}

/* dq (+)= dS^T K for one block of queries and `keys` keys from `key` on */
INLINE void add_to_queries(const mixed *g, const mixed_head *x, ptrdiff_t query, ptrdiff_t key, ptrdiff_t keys) {
    tile_arguments t = {
        .K = keys / 2,
        .a = x->s.ds + query,
        .ld_a = g->ld_t,
        .transposed = 1,
        .ld_b = 3 * g->A,
        .mode = key ? ADD : STORE,
        .ld_c = g->D,
    };
    for (ptrdiff_t d = 0; d < g->D; d += PANEL) {
        t.b = pairs_at(x->y.qkv_pairs, (x->row + key) / 2, 0) + g->A + x->h * g->D + d;
        t.c = x->s.dq + query * g->D + d;
        multiply_strip(t, min_of(QUERIES, x->n - query), min_of(PANEL, g->D - d));
    }
}

/* Rows of dk or dv for `keys` keys from `key` on, `first` being that of their block: the sum over queries, none of which is
 * before them, of the rows of dS or P with the pairs `b` of q or d_o, rows of which are ld_b apart. */
INLINE void sum_over_queries(const mixed *g, const mixed_head *x, const bfloat16 *rows, ptrdiff_t first, ptrdiff_t key,
                             ptrdiff_t keys, const pair *b, ptrdiff_t ld_b, ptrdiff_t column) {
    tile_arguments t = {
        .K = (x->n - key) / 2,
        .a = (const pair *)(rows + (key - first) * g->ld_t + key),
        .ld_a = g->ld_t / 2,
        .ld_b = ld_b,
        .mode = BOTH,
        .ld_rows = g->ld_3a,
        .pairs = g->dqkv,
        .row_pair = (x->row + key) / 2,
    };
    for (ptrdiff_t d = 0; d < g->D; d += PANEL) {
        t.b = b + key / 2 * ld_b + d, t.column = column + d;
        t.rows = g->dqkv_rows + (x->row + key) * g->ld_3a + column + d;
        multiply_strip(t, keys, min_of(PANEL, g->D - d));
    }
}

/* One block of keys with all queries that see it. Of P and dS, only keys of the block's query blocks, and those before
 * them, are made: so the sums over queries take as many keys at a time as there are queries in a block. */
static void attend_keys_backward(const mixed *g, const mixed_head *x, ptrdiff_t first) {
    const ptrdiff_t keys = min_of(KEYS, x->n - first), D = g->D, q_pairs = x->row / 2;
    for (ptrdiff_t q = first; q < x->n; q += QUERIES) {
        const ptrdiff_t visible = min_of(keys, q + QUERIES - first);
        score_keys(g, x->s.scores, x->k + first * x->ld, x->ld, visible, x->s.queries, q);
        score_keys(g, x->s.dscores, x->v + first * x->ld, x->ld, visible, x->s.outputs, q);
        for (ptrdiff_t lane = 0; lane < QUERIES; lane += VL)
            differentiate_lanes(g, x, x->s.scores + lane, x->s.dscores + lane, q + lane, first, visible);
        add_to_queries(g, x, q, first, visible);
    }
    for (ptrdiff_t k = first; k < first + keys; k += QUERIES) {
        const ptrdiff_t n = min_of(QUERIES, first + keys - k), column = x->h * D;
        sum_over_queries(g, x, x->s.p_rows, first, k, n, pairs_at(g->d_o, q_pairs, 0) + column, g->A, 2 * g->A + column);
        sum_over_queries(g, x, x->s.ds_rows, first, k, n, pairs_at(x->y.qkv_pairs, q_pairs, 0) + column, 3 * g->A,
                         g->A + column);
    }
}

static void attend_backward(const mixed *g, const bfloat16 *d_o_rows, mixed_head x) {
    const ptrdiff_t whole = whole_queries(x.n), D = g->D;
    transpose_pairs(x.s.queries, g->ld_t, x.q, x.ld, whole, D / 2);
    transpose_pairs(x.s.outputs, g->ld_t, (const pair *)(d_o_rows + x.row * g->ld_a + x.h * D), g->ld_a / 2, whole, D / 2);
    sum_outputs(g, &x);
    for (ptrdiff_t k = 0; k < x.n; k += KEYS) attend_keys_backward(g, &x, k);
    for (ptrdiff_t i = 0; i < x.n; i += 2) {
        both_forms to = forms_at(g->dqkv_rows, g->ld_3a, g->dqkv, x.row + i);
        const float *dq = x.s.dq + i * D;
        for (ptrdiff_t d = 0; d < D; d += VL) store_forms(to, x.h * D + d, load(dq + d), load(dq + D + d));
    }
}

#endif
