/* Causal multi-head attention over packed documents, in blocks of QUERIES x KEYS scores that live on the stack: memory
 * does not grow with the length (streaming softmax: Dao et al. 2022, arXiv:2205.14135).
 *
 * Score blocks are kept transposed, S^T[key][query], so that a query is a lane: the softmax over keys runs down the rows
 * of a block and needs no sums across lanes. Blocks lie at fixed places of their document: a row's bits depend on its
 * own document alone.
 *
 * In the block of a query's own key the products run over later keys too, whose factor is 0. That is no sum over the keys
 * a query sees where they hold NaN or infinity: such blocks are multiplied query by query, or key by key.
 */
#ifndef MGF_ATTENTION_H
#define MGF_ATTENTION_H

#include "base/gemm.h"
#include "base/rows.h"

enum {
    QUERIES = VL,
    KEYS = 64,
    DEPTH = 128, /* of head_dim that is transposed at a time */
};

typedef struct {
    const real *q, *k, *v; /* one head of one document: rows of D, ld apart */
    ptrdiff_t ld, n, D;
    real scale, slope;
} head;

/* one vector of queries: its first row, and how many there are */
typedef struct {
    ptrdiff_t first;
    int rows;
} query_block;

/* to [depth][QUERIES] = scale * transpose of the block's rows, columns d .. d + depth */
INLINE void transpose_queries(real *to, const real *from, ptrdiff_t ld, query_block b, ptrdiff_t depth, real scale) {
    for (ptrdiff_t d = 0; d < depth; d += VL)
        transpose_block(to + d * QUERIES, QUERIES, from + b.first * ld + d, ld, b.rows, lanes_left(d, depth), scale);
}

/* block [keys][QUERIES] = rows [first, first + keys) of `keys_of` times the scaled queries, both D deep. `transposed`
 * [DEPTH][QUERIES] is kept between the key blocks of one query block: it is filled when the first one comes, or, where D
 * does not fit it, every time. */
static void score_block(real *block, real *transposed, const real *queries, ptrdiff_t ld_queries, query_block b,
                        const real *keys_of, ptrdiff_t ld_keys, ptrdiff_t first, ptrdiff_t keys, ptrdiff_t D, real scale) {
    for (ptrdiff_t d = 0; d < D; d += DEPTH) {
        ptrdiff_t depth = min_of(DEPTH, D - d);
        if (first == 0 || D > DEPTH) transpose_queries(transposed, queries + d, ld_queries, b, depth, scale);
        gemm(0, d ? ADD : STORE, keys, QUERIES, depth, keys_of + first * ld_keys + d, ld_keys, plain(transposed, QUERIES),
             block, QUERIES);
    }
}

/* s [keys][QUERIES]: keys after the query become `hidden` */
INLINE void mask(real *s, query_block b, ptrdiff_t first, ptrdiff_t keys, real hidden) {
    for (ptrdiff_t i = max_of(0, b.first - first); i < keys; i++) {
        ivec after = lane_numbers() < isplat((integer)(first + i - b.first));
        store(s + i * QUERIES, blend(after, splat(hidden), load(s + i * QUERIES)));
    }
}

/* s -= slope * (query - key) */
INLINE void add_distances(real *s, query_block b, ptrdiff_t first, ptrdiff_t keys, real slope) {
    for (ptrdiff_t i = 0; slope != 0 && i < keys; i++) {
        ivec distance = lane_numbers() + isplat((integer)(b.first - first - i));
        store(s + i * QUERIES, load(s + i * QUERIES) - splat(slope) * __builtin_convertvector(distance, vec));
    }
}

/* One step of the streaming softmax. With m' = max(m, max over the block's keys of s):
 * p = exp(s - m'), total = total exp(m - m') + sum p, and what was summed before is to be scaled by exp(m - m').
 * With the last block everything is divided by the total. Where all is -infinity so far, p is 0; where it is so in the
 * end, NaN. */
INLINE void softmax_block(real *s, ptrdiff_t keys, vec *largest, vec *total, real *rescale, int last) {
    vec before = *largest, m = before, sum = {0};
    for (ptrdiff_t i = 0; i < keys; i++) m = vmax(load(s + i * QUERIES), m);
    const vec shift = last ? m : blend(m == splat(-(real)INFINITY), (vec){0}, m);
    for (ptrdiff_t i = 0; i < keys; i++) {
        vec p = vexp(load(s + i * QUERIES) - shift);
        store(s + i * QUERIES, p);
        sum += p;
    }
    vec factor = vexp(before - shift);
    *largest = m;
    *total = *total * factor + sum;
    if (last) {
        vec inverse = splat(1) / *total;
        for (ptrdiff_t i = 0; i < keys; i++) store(s + i * QUERIES, load(s + i * QUERIES) * inverse);
        factor *= inverse;
    }
    store(rescale, factor);
}

/* o [b.rows, D] (mode)= p x, where p [keys][QUERIES] is 0 for keys after the query, and x has the rows of all keys, ld
 * apart; rescale is for ROW_SCALE_ADD */
static void sum_over_keys(tile_mode mode, real *o, ptrdiff_t ld_o, const real *p, query_block b, const real *x,
                          ptrdiff_t ld, ptrdiff_t first, ptrdiff_t keys, ptrdiff_t D, const real *rescale) {
    const ptrdiff_t own = b.first - first; /* the first query's own key; the others' follow */
    const int rows = own >= keys || all_finite(x + b.first * ld, ld, b.rows, D) ? b.rows : 1;
    for (int i = 0; i < b.rows; i += rows) {
        tile_arguments t = {.K = min_of(own + i + rows, keys), .a = p + i, .ld_a = QUERIES, .transposed = 1};
        t.c = o + i * ld_o, t.ld_c = ld_o, t.mode = mode, t.scale = rescale ? rescale + i : NULL;
        run_product(t, rows, D, plain(x + first * ld, ld));
    }
}

/* o [n, D]; lse [n] */
static void attention_head(real *o, ptrdiff_t ld_o, real *lse, ptrdiff_t ld_lse, head h) {
    real scores[KEYS * QUERIES] __attribute__((aligned(VECTOR_BYTES)));
    real transposed[DEPTH * QUERIES] __attribute__((aligned(VECTOR_BYTES)));
    real rescale[QUERIES] __attribute__((aligned(VECTOR_BYTES)));
    for (ptrdiff_t q = 0; q < h.n; q += QUERIES) {
        query_block b = {q, lanes_left(q, h.n)};
        ptrdiff_t visible = q + b.rows;
        vec largest = splat(-(real)INFINITY), total = {0};
        for (ptrdiff_t k = 0; k < visible; k += KEYS) {
            ptrdiff_t keys = min_of(KEYS, visible - k);
            score_block(scores, transposed, h.q, h.ld, b, h.k, h.ld, k, keys, h.D, h.scale);
            add_distances(scores, b, k, keys, h.slope);
            mask(scores, b, k, keys, -(real)INFINITY);
            softmax_block(scores, keys, &largest, &total, rescale, k + keys == visible);
            sum_over_keys(k ? ROW_SCALE_ADD : STORE, o + q * ld_o, ld_o, scores, b, h.v, h.ld, k, keys, h.D, rescale);
        }
        vec log_sum = largest + vlog(total);
        for (int lane = 0; lane < b.rows; lane++) lse[(q + lane) * ld_lse] = log_sum[lane];
    }
}

/* P^T = exp(S^T - lse),  dS^T = scale P^T (dP^T - delta), in place */
INLINE void softmax_block_backward(real *p, real *ds, ptrdiff_t keys, vec lse, vec delta, real scale) {
    for (ptrdiff_t i = 0; i < keys; i++) {
        vec x = vexp(load(p + i * QUERIES) - lse);
        store(p + i * QUERIES, x);
        store(ds + i * QUERIES, splat(scale) * x * (load(ds + i * QUERIES) - delta));
    }
}

/* x [keys, D], rows ld apart, += p y: the sums over queries, where p [keys][QUERIES] is 0 for keys after the query, y has b's rows, ld_y apart */
static void add_to_keys(real *x, ptrdiff_t ld, const real *p, query_block b, const real *y, ptrdiff_t ld_y, ptrdiff_t first,
                        ptrdiff_t keys, ptrdiff_t D) {
    const ptrdiff_t own = b.first - first;
    y += b.first * ld_y;
    if (own >= keys || all_finite(y, ld_y, b.rows, D)) {
        gemm(0, ADD, keys, D, b.rows, p, QUERIES, plain(y, ld_y), x, ld);
        return;
    }
    gemm(0, ADD, own, D, b.rows, p, QUERIES, plain(y, ld_y), x, ld);
    for (ptrdiff_t i = 0; i < b.rows; i++) {
        const ptrdiff_t key = own + i;
        gemm(0, ADD, 1, D, b.rows - i, p + key * QUERIES + i, QUERIES, plain(y + i * ld_y, ld_y), x + key * ld, ld);
    }
}

/* delta [n] = row sums of d_o * o;  dq, dk, dv as q, k, v */
static void attention_head_backward(real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o,
                                    ptrdiff_t ld_o, const real *lse, ptrdiff_t ld_lse, head h) {
    real p[KEYS * QUERIES] __attribute__((aligned(VECTOR_BYTES))),
        ds[KEYS * QUERIES] __attribute__((aligned(VECTOR_BYTES)));
    real query_t[DEPTH * QUERIES] __attribute__((aligned(VECTOR_BYTES)));
    real output_t[DEPTH * QUERIES] __attribute__((aligned(VECTOR_BYTES)));
    real lse_of[QUERIES] __attribute__((aligned(VECTOR_BYTES))) = {0};
    real delta_of[QUERIES] __attribute__((aligned(VECTOR_BYTES))) = {0};

    for (ptrdiff_t i = 0; i < h.n; i++)
        for (ptrdiff_t d = 0; d < h.D; d += VL) {
            store_n(dk + i * h.ld + d, (vec){0}, lanes_left(d, h.D));
            store_n(dv + i * h.ld + d, (vec){0}, lanes_left(d, h.D));
        }
    for (ptrdiff_t q = 0; q < h.n; q += QUERIES) {
        query_block b = {q, lanes_left(q, h.n)};
        for (int i = 0; i < b.rows; i++) {
            delta_of[i] = dot_row(d_o + (q + i) * ld_o, o + (q + i) * ld_o, h.D)[0];
            delta[(q + i) * ld_lse] = delta_of[i];
            lse_of[i] = lse[(q + i) * ld_lse];
        }
        for (ptrdiff_t k = 0; k < q + b.rows; k += KEYS) {
            ptrdiff_t keys = min_of(KEYS, q + b.rows - k);
            score_block(p, query_t, h.q, h.ld, b, h.k, h.ld, k, keys, h.D, h.scale);
            score_block(ds, output_t, d_o, ld_o, b, h.v, h.ld, k, keys, h.D, 1);
            add_distances(p, b, k, keys, h.slope);
            mask(p, b, k, keys, -(real)INFINITY);
            softmax_block_backward(p, ds, keys, load(lse_of), load(delta_of), h.scale);
            mask(p, b, k, keys, 0), mask(ds, b, k, keys, 0); /* of queries whose lse or delta is NaN, too */
            add_to_keys(dv + k * h.ld, h.ld, p, b, d_o, ld_o, k, keys, h.D);
            add_to_keys(dk + k * h.ld, h.ld, ds, b, h.q, h.ld, k, keys, h.D);
            sum_over_keys(k ? ADD : STORE, dq + q * h.ld, h.ld, ds, b, h.k, h.ld, k, keys, h.D, NULL);
        }
    }
}

INLINE head head_at(const real *q, const real *k, const real *v, ptrdiff_t ld, const int32_t *cu_seqlens, ptrdiff_t b,
                    ptrdiff_t h, ptrdiff_t D, double scale, const real *slopes) {
    ptrdiff_t at = cu_seqlens[b] * ld + h * D;
    return (head){q + at, k + at, v + at, ld, cu_seqlens[b + 1] - cu_seqlens[b], D, (real)scale, slopes ? slopes[h] : 0};
}

SHARED void attention_forward(real *o, real *lse, const real *q, const real *k, const real *v, ptrdiff_t ld_o,
                              ptrdiff_t ld_qkv, const int32_t *cu_seqlens, ptrdiff_t B, ptrdiff_t H, ptrdiff_t D,
                              double scale, const real *slopes) {
    for (ptrdiff_t b = 0; b < B; b++)
        for (ptrdiff_t h = 0; h < H; h++)
            attention_head(o + cu_seqlens[b] * ld_o + h * D, ld_o, lse + cu_seqlens[b] * H + h, H,
                           head_at(q, k, v, ld_qkv, cu_seqlens, b, h, D, scale, slopes));
}

SHARED void attention_backward(real *dq, real *dk, real *dv, real *delta, const real *d_o, const real *o, const real *lse,
                               const real *q, const real *k, const real *v, ptrdiff_t ld_o, ptrdiff_t ld_qkv,
                               const int32_t *cu_seqlens, ptrdiff_t B, ptrdiff_t H, ptrdiff_t D, double scale,
                               const real *slopes) {
    for (ptrdiff_t b = 0; b < B; b++)
        for (ptrdiff_t h = 0; h < H; h++) {
            ptrdiff_t at = cu_seqlens[b] * ld_qkv + h * D, out = cu_seqlens[b] * ld_o + h * D;
            ptrdiff_t row = cu_seqlens[b] * H + h;
            attention_head_backward(dq + at, dk + at, dv + at, delta + row, d_o + out, o + out, ld_o, lse + row, H,
                                    head_at(q, k, v, ld_qkv, cu_seqlens, b, h, D, scale, slopes));
        }
}

/* One query against n cached keys and values, ld apart: o [D] = sum_j softmax(scale q . k_j - slope (n - 1 - j))_j v_j */
static void attention_head_decode(real *o, head h) {
    real s[KEYS];
    real largest = -(real)INFINITY, total = 0;
    for (ptrdiff_t d = 0; d < h.D; d++) o[d] = 0;
    for (ptrdiff_t k = 0; k < h.n; k += KEYS) {
        ptrdiff_t keys = min_of(KEYS, h.n - k);
        real m = largest;
        for (ptrdiff_t i = 0; i < keys; i++) {
            s[i] = h.scale * dot_row(h.q, h.k + (k + i) * h.ld, h.D)[0] - h.slope * (real)(h.n - 1 - k - i);
            if (s[i] > m) m = s[i];
        }
        const real shift = m == -(real)INFINITY && k + keys < h.n ? 0 : m; /* as in softmax_block */
        for (ptrdiff_t i = 0; i < keys; i += VL) {
            int n = lanes_left(i, keys);
            store_n(s + i, vexp(load_n(s + i, n) - splat(shift)), n);
        }
        real factor = vexp(splat(largest - shift))[0];
        total *= factor;
        for (ptrdiff_t i = 0; i < keys; i++) total += s[i];
        largest = m;
        for (ptrdiff_t d = 0; d < h.D; d += VL) {
            int n = lanes_left(d, h.D);
            vec x = load_n(o + d, n) * splat(factor);
            for (ptrdiff_t i = 0; i < keys; i++) x += splat(s[i]) * load_n(h.v + (k + i) * h.ld + d, n);
            store_n(o + d, x, n);
        }
    }
    for (ptrdiff_t d = 0; d < h.D; d++) o[d] /= total;
}

SHARED void attention_decode(real *o, const real *q, const real *k_cache, const real *v_cache, const int32_t *lengths,
                             ptrdiff_t B, ptrdiff_t T_max, ptrdiff_t H, ptrdiff_t D, double scale, const real *slopes) {
    for (ptrdiff_t b = 0; b < B; b++)
        for (ptrdiff_t h = 0; h < H; h++) {
            ptrdiff_t cache = b * T_max * H * D + h * D;
            attention_head_decode(o + (b * H + h) * D, (head){q + (b * H + h) * D, k_cache + cache, v_cache + cache, H * D,
                                                              lengths[b], D, (real)scale, slopes ? slopes[h] : 0});
        }
}

#endif
