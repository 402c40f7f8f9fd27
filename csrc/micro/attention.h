/* Attention of a narrow model's documents, with nothing summed across lanes: a vector holds one number for each of Q
 * queries and each of VL / Q heads, lane = head * Q + query, with Q = D, or VL where a head is wider than a vector.
 *
 *     s[key] = sum over d of q[d] * spread(k[key], d)
 *
 * where vector q[d] holds element d of all these queries and heads, and spread puts element d of each head into all lanes
 * of its group. q[d] come from Q rows of q by transposing D x D blocks within the vectors.
 *
 * Stored for the backward pass, for each group of heads and block of queries: e [n + 1] vectors, exp(s - shift) of every
 * key, and in the end the inverse of their sum: the probability is e[key] * e[n].
 */
#ifndef MGF_MICRO_ATTENTION_H
#define MGF_MICRO_ATTENTION_H

#include "kernels/attention.h"
#include "micro/layout.h"

INLINE int queries_of(const int D) { return D < VL ? D : VL; }
INLINE int segments_of(const int D) { return D < VL ? 1 : D / VL; } /* vectors of a row that a group of heads takes */

/* element d of every group of D lanes of a row, in all lanes of the group; a row of more than VL is one group */
INLINE vec spread(const int D, const real *row, const int d) {
    if (D >= VL) return splat(row[d]);
    return group_lane(load(row), D, d);
}

/* columns [D][lanes] of the block's rows, ld apart; those from n on count as 0 */
INLINE void load_columns(const int D, vec columns[], const real *rows, ptrdiff_t ld, ptrdiff_t n) {
    const int Q = queries_of(D);
    EACH(segment, segments_of(D)) {
        EACH(i, Q) columns[segment * Q + i] = i < n ? load(rows + i * ld + segment * VL) : (vec){0};
        transpose_groups(columns + segment * Q, Q);
    }
}
/* its inverse; rows from n on are not written */
INLINE void store_columns(const int D, vec columns[], real *rows, ptrdiff_t ld, ptrdiff_t n) {
    const int Q = queries_of(D);
    EACH(segment, segments_of(D)) {
        transpose_groups(columns + segment * Q, Q);
        EACH(i, Q)
            if (i < n) store(rows + i * ld + segment * VL, columns[segment * Q + i]);
    }
}

/* sum over d of columns[d] * spread(row, d) */
INLINE vec dot_columns(const int D, const vec columns[], const real *row) {
    vec even = columns[0] * spread(D, row, 0), odd = columns[1] * spread(D, row, 1);
    UNROLL for (int d = 2; d < D; d += 2) {
        even = columns[d] * spread(D, row, d) + even;
        odd = columns[d + 1] * spread(D, row, d + 1) + odd;
    }
    return even + odd;
}

INLINE ivec query_number(const int D) { return lane_numbers() & isplat(queries_of(D) - 1); }

/* the largest score of each query and head among the keys that it sees */
INLINE vec largest_score(const int D, const vec query[], const real *k, ptrdiff_t ld, ptrdiff_t first, ptrdiff_t keys) {
    vec largest = splat(MASKED);
    for (ptrdiff_t i = 0; i < keys; i++) {
        vec s = dot_columns(D, query, k + i * ld);
        largest = vmax(blend(query_number(D) < isplat((integer)(i - first)), splat(MASKED), s), largest);
    }
    return largest;
}

/* One group of heads of a document of n rows: q, k, v with row stride ld, o with ld_o; e as above. */
INLINE void micro_heads(const int D, real *o, const ptrdiff_t ld_o, real *e, const real *q, const real *k, const real *v,
                        const ptrdiff_t ld, ptrdiff_t n, real scale) {
    const int Q = queries_of(D);
    for (ptrdiff_t first = 0; first < n; first += Q, e += (n + 1) * VL) {
        ptrdiff_t keys = min_of(first + Q, n);
        vec query[16], output[16], total, shift = {0}, largest = {0};
        load_columns(D, query, q + first * ld, ld, n - first);
        EACH(d, D) query[d] *= splat(scale);

        /* Nothing is taken off the scores before exp, unless one is large: then once more, without the largest. */
        for (int turn = 0; turn < 2; turn++) {
            total = (vec){0};
            EACH(d, D) output[d] = (vec){0};
            for (ptrdiff_t i = 0; i < keys; i++) {
                vec s = dot_columns(D, query, k + i * ld);
                largest = vmax_abs(s, largest);
                vec x = vexp(s - shift);
                if (i > first) x = blend(query_number(D) < isplat((integer)(i - first)), (vec){0}, x); /* not seen */
                store(e + i * VL, x);
                total += x;
                EACH(d, D) output[d] = x * spread(D, v + i * ld, d) + output[d];
            }
            if (!any(largest > splat(SAFE_SCORE))) break;
            shift = largest_score(D, query, k, ld, first, keys);
        }
        vec inverse = splat(1) / total;
        store(e + n * VL, inverse);
        EACH(d, D) output[d] *= inverse;
        store_columns(D, output, o + first * ld_o, ld_o, n - first);
    }
}

/* dp = do v^T,  ds = scale p (dp - sum over keys of p dp),  dq = ds k,  dk = ds^T q,  dv = p^T do */
INLINE void micro_heads_backward(const int D, real *dq, real *dk, real *dv, const real *d_o, const ptrdiff_t ld_o,
                                 const real *e, const real *q, const real *k, const real *v, const ptrdiff_t ld,
                                 ptrdiff_t n, real scale) {
    const int Q = queries_of(D), segments = segments_of(D);
    real dp[MICRO_KEYS * VL] __attribute__((aligned(VECTOR_BYTES)));
    real ds[VL] __attribute__((aligned(VECTOR_BYTES))), p[VL] __attribute__((aligned(VECTOR_BYTES)));
    const ptrdiff_t last = (n - 1) / Q * Q;
    for (ptrdiff_t first = last; first >= 0; first -= Q) { /* the last block sees all keys: it stores, the others add */
        ptrdiff_t keys = min_of(first + Q, n), rows = n - first;
        const real *block = e + first / Q * (n + 1) * VL;
        vec column[16], query[16], output[16], delta = {0};
        load_columns(D, column, d_o + first * ld_o, ld_o, rows);
        for (ptrdiff_t i = 0; i < keys; i++) {
            vec x = dot_columns(D, column, v + i * ld);
            store(dp + i * VL, x);
            delta += x * load(block + i * VL);
        }
        vec inverse = load(block + n * VL), scaled = inverse * splat(scale);
        delta *= inverse;

        EACH(i, Q) EACH(j, segments) {
            query[i * segments + j] = i < rows ? load(q + (first + i) * ld + j * VL) : (vec){0};
            output[i * segments + j] = i < rows ? load(d_o + (first + i) * ld_o + j * VL) : (vec){0};
        }
        EACH(d, D) column[d] = (vec){0};
        for (ptrdiff_t i = 0; i < keys; i++) {
            vec x = load(block + i * VL);
            store(p, x * inverse);
            store(ds, x * scaled * (load(dp + i * VL) - delta));
            EACH(d, D) column[d] = load(ds) * spread(D, k + i * ld, d) + column[d];
            EACH(j, segments) {
                real *key = dk + i * ld + j * VL, *value = dv + i * ld + j * VL;
                vec k_sum = first == last ? (vec){0} : load(key), v_sum = first == last ? (vec){0} : load(value);
                EACH(a, Q) {
                    k_sum = spread(Q, ds, a) * query[a * segments + j] + k_sum;
                    v_sum = spread(Q, p, a) * output[a * segments + j] + v_sum;
                }
                store(key, k_sum);
                store(value, v_sum);
            }
        }
        store_columns(D, column, dq + first * ld, ld, rows);
    }
}

/* all heads of a document; `rows` is its first row */
INLINE void micro_attention(const int D, const micro *g, const micro_layer *y, ptrdiff_t document) {
    const ptrdiff_t C = g->C, ld = 3 * C, row = g->cu_seqlens[document], n = g->cu_seqlens[document + 1] - row;
    const int width = segments_of(D) * VL, Q = queries_of(D);
    const real *q = y->qkv + row * ld;
    real *e = y->p + g->p_at[document];
    for (ptrdiff_t c = 0; c < C; c += width, e += (n + Q - 1) / Q * (n + 1) * VL)
        micro_heads(D, y->o + row * C + c, C, e, q + c, q + C + c, q + 2 * C + c, ld, n, (real)(1 / sqrt((double)D)));
}
INLINE void micro_attention_backward(const int D, const micro *g, const micro_layer *y, ptrdiff_t document) {
    const ptrdiff_t C = g->C, ld = 3 * C, row = g->cu_seqlens[document], n = g->cu_seqlens[document + 1] - row;
    const int width = segments_of(D) * VL, Q = queries_of(D);
    const real *q = y->qkv + row * ld, *e = y->p + g->p_at[document];
    real *dq = y->dqkv + row * ld;
    for (ptrdiff_t c = 0; c < C; c += width, e += (n + Q - 1) / Q * (n + 1) * VL)
        micro_heads_backward(D, dq + c, dq + C + c, dq + 2 * C + c, y->d_o + row * C + c, C, e, q + c, q + C + c,
                             q + 2 * C + c, ld, n, (real)(1 / sqrt((double)D)));
}

typedef void micro_attention_function(const micro *, const micro_layer *, ptrdiff_t document);
#define MICRO_ATTENTION(D)                                                                                           \
    NOINLINE void micro_attention_##D(const micro *g, const micro_layer *y, ptrdiff_t document) {                    \
        micro_attention(D, g, y, document);                                                                          \
    }                                                                                                                \
    NOINLINE void micro_attention_backward_##D(const micro *g, const micro_layer *y, ptrdiff_t document) {           \
        micro_attention_backward(D, g, y, document);                                                                 \
    }
MICRO_ATTENTION(4)
MICRO_ATTENTION(8)
MICRO_ATTENTION(16)

/* blocks longer than MICRO_KEYS: no scores are kept */
INLINE head micro_head(const micro *g, const micro_layer *y, ptrdiff_t document, ptrdiff_t h) {
    return head_at(y->qkv, y->qkv + g->C, y->qkv + 2 * g->C, 3 * g->C, g->cu_seqlens, document, h, g->D,
                   1 / sqrt((double)g->D), NULL);
}
static void micro_attention_streaming(const micro *g, const micro_layer *y, ptrdiff_t document) {
    for (ptrdiff_t h = 0, row = g->cu_seqlens[document]; h < g->H; h++)
        attention_head(y->o + row * g->C + h * g->D, g->C, y->lse + row * g->H + h, g->H, micro_head(g, y, document, h));
}
static void micro_attention_backward_streaming(const micro *g, const micro_layer *y, ptrdiff_t document) {
    for (ptrdiff_t h = 0, row = g->cu_seqlens[document]; h < g->H; h++) {
        ptrdiff_t out = row * g->C + h * g->D, statistic = row * g->H + h;
        real *dq = y->dqkv + row * 3 * g->C + h * g->D;
        attention_head_backward(dq, dq + g->C, dq + 2 * g->C, y->delta + statistic, y->d_o + out, y->o + out, g->C,
                                y->lse + statistic, g->H, micro_head(g, y, document, h));
    }
}

#endif
