/* Streams of tokens: the forward pass one token at a time, against a cache of keys and values, and sampling from it.
 *
 * A batch is one row for each stream that takes a token; streams share nothing but the weights, and a row's arithmetic
 * does not depend on the others: a stream's bits are the same in every batch.
 */
#ifndef MGF_DECODE_H
#define MGF_DECODE_H

#include "gpt.h"

typedef struct {
    gpt g;                /* sizes, parameters and their packed transposes; a row of activations for each stream */
    ptrdiff_t ld_t;       /* keys that a cache has room for: block_size, in whole vectors */
    real *keys, *values;  /* [B, L, H, ld_t, D] */
    real *scores;         /* [B, ld_scores] */
    ptrdiff_t ld_scores;
    double *weights;      /* [V] of the next token */
    const int32_t *slots; /* [N] whose row it is; NULL: row i is stream i's */
} decoder;

/* Memory for B streams; all layers use the same activations. */
static size_t decoder_lay_out(decoder *d, const mgf_config *c, ptrdiff_t B, void *memory) {
    gpt *g = &d->g;
    gpt_lay_out(g, c, B, B, NULL);
    arena a = {memory ? (char *)(((uintptr_t)memory + 63) & ~(uintptr_t)63) : NULL, 0};
    g->packed = TAKE_REALS(&a, packed_total(g));
    g->tokens = take(&a, B, sizeof(int32_t)), g->positions = take(&a, B, sizeof(int32_t));
    g->x = TAKE_REALS(&a, B * g->ld_c), g->h0 = TAKE_REALS(&a, B * g->ld_c), g->rstd0 = TAKE_REALS(&a, B);
    g->layers = TAKE_REALS(&a, g->layer_size), g->layer_size = 0;
    g->logits = TAKE_REALS(&a, B * g->ld_v);
    d->ld_t = row_stride(g->T);
    d->keys = TAKE_REALS(&a, B * g->L * g->C * d->ld_t), d->values = TAKE_REALS(&a, B * g->L * g->C * d->ld_t);
    d->ld_scores = d->ld_t * max_of(1, VL / g->D);
    d->scores = TAKE_REALS(&a, B * d->ld_scores);
    d->weights = take(&a, g->V, sizeof(double));
    d->slots = NULL;
    return a.used + 64;
}

static void pack_weights(decoder *d, const real *params) {
    d->g.params = params;
    phase p = {.g = &d->g};
    mgf_pool_run(NULL, weight_blocks(&d->g, 0, weight_count(&d->g)), pack_block, &p);
}

/* x = exp(scale (x - max x)); returns 1 / sum x */
static real softmax_row(real *x, ptrdiff_t n, real scale) {
    vec largest = splat(-(real)INFINITY), total = {0};
    for (ptrdiff_t i = 0; i < n; i += VL) {
        int left = lanes_left(i, n);
        largest = vmax(blend(lane_numbers() < isplat(left), load_n(x + i, left), largest), largest);
    }
    largest = max_lanes(largest);
    for (ptrdiff_t i = 0; i < n; i += VL) {
        int left = lanes_left(i, n);
        vec p = vexp(splat(scale) * (load_n(x + i, left) - largest));
        p = blend(lane_numbers() < isplat(left), p, (vec){0});
        store_n(x + i, p, left);
        total += p;
    }
    return 1 / sum_lanes(total)[0];
}

/* scores[t] = q . k_t for n keys of D elements, and something for those that fill the last vector. Meanwhile as much is
 * fetched of the values, and of the next head's keys: the caches of many streams lie in no cache of the processor. */
static void score_keys(real *scores, const real *q, const real *keys, const real *values, const real *next_keys,
                       ptrdiff_t n, ptrdiff_t D) {
    for (ptrdiff_t t = 0; t < n; t += VL, keys += VL * D, values += VL * D, next_keys += VL * D) {
        for (ptrdiff_t i = 0; i < VL * D; i += 64 / (ptrdiff_t)sizeof(real)) {
            __builtin_prefetch(values + i);
            __builtin_prefetch(next_keys + i);
        }
        vec rows[VL];
        UNROLL for (int i = 0; i < VL; i++) rows[i] = (vec){0};
        ptrdiff_t d = 0;
        for (; d + VL <= D; d += VL) {
            vec x = load(q + d);
            UNROLL for (int i = 0; i < VL; i++) rows[i] += x * load(keys + i * D + d);
        }
        if (d < D) {
            int left = lanes_left(d, D);
            vec x = load_n(q + d, left);
            UNROLL for (int i = 0; i < VL; i++) rows[i] += x * load_n(keys + i * D + d, left);
        }
        store(scores + t, sum_groups(rows, VL));
    }
}

/* row i attends to the keys of its stream, its own the last of them */
static void attend_row(const phase *p, ptrdiff_t i) {
    const decoder *d = (const decoder *)p->g;
    const gpt *g = p->g;
    layer_activations y = activations(g, p->layer);
    const ptrdiff_t D = g->D, position = g->positions[i], size = g->C * d->ld_t;
    const ptrdiff_t cache = ((d->slots ? d->slots[i] : i) * g->L + p->layer) * size;
    const real *q = y.qkv + i * g->ld_3c, *k = q + g->C, *v = k + g->C;
    real *o = y.o + i * g->ld_c, *scores = d->scores + i * d->ld_scores;
    real *keys = d->keys + cache, *values = d->values + cache;

    for (ptrdiff_t at = 0; at < g->C; at += D, keys += d->ld_t * D, values += d->ld_t * D) {
        memcpy(keys + position * D, k + at, (size_t)D * sizeof(real));
        memcpy(values + position * D, v + at, (size_t)D * sizeof(real));
        score_keys(scores, q + at, keys, values, keys + d->ld_t * D, position + 1, D);
        real inverse = softmax_row(scores, position + 1, (real)(1 / sqrt((double)D)));
        gemm(0, STORE, 1, D, position + 1, scores, d->ld_t, plain(values, D), o + at, D);
        for (ptrdiff_t c = 0; c < D; c++) o[at + c] *= inverse;
    }
}

/* a block of rows, from the embedding to the logits: streams need nothing of one another, so no thread waits for another */
static void decode_rows(void *context, ptrdiff_t item) {
    phase p = *(const phase *)context;
    row_range r = rows_of(p.g, item);
    for (p.layer = 0; p.layer <= p.g->L; p.layer++) {
        forward_rows(&p, item);
        for (ptrdiff_t i = r.first; p.layer < p.g->L && i < r.first + r.rows; i++) attend_row(&p, i);
    }
}

/* g->logits [n, V] that follow the n streams' tokens */
static void decode(decoder *d, const int32_t *tokens, const int32_t *positions, ptrdiff_t n, mgf_pool *pool) {
    gpt *g = &d->g;
    memcpy(g->tokens, tokens, (size_t)n * sizeof *tokens);
    memcpy(g->positions, positions, (size_t)n * sizeof *positions);
    g->N = n;
    g->threads = mgf_pool_threads(pool), g->blocks_a_thread = 1; /* every block reads all weights */
    phase p = {.g = g};
    mgf_pool_run(pool, row_blocks(g), decode_rows, &p);
}

#endif
