/* Streams of tokens: the forward pass one token at a time, against a cache of keys and values, and sampling from it.
 *
 * A batch is one row for each stream that takes a token; streams share nothing but the weights, and a row's arithmetic
 * does not depend on the others: a stream's bits are the same in every batch.
 */
#ifndef MGF_DECODE_H
#define MGF_DECODE_H

#include <float.h>

#include "gpt/decoder.h"
#include "gpt/model.h"
#include "random.h"

enum { DECODE_WORK = 400 * 1000 }; /* multiply-adds of a step with many streams that are worth waking a thread for */

/* Memory for B streams; all layers use the same activations. */
static size_t decoder_lay_out(decoder *d, const mgf_config *c, ptrdiff_t B, void *memory) {
    gpt *g = &d->g;
    gpt_lay_out(g, c, B, B, NULL);
    arena a = arena_in(memory);
    g->turns = take_if(c->position == MGF_ROPE, &a, g->T * g->D);
    g->packed = TAKE_REALS(&a, g->packed_size);
    g->tokens = take(&a, B, sizeof(int32_t)), g->positions = take(&a, B, sizeof(int32_t));
    g->x = TAKE_REALS(&a, B * g->ld_c), g->h0 = TAKE_REALS(&a, B * g->ld_c), g->rstd0 = TAKE_REALS(&a, B);
    g->layers = TAKE_REALS(&a, g->layer_size), g->layer_size = 0;
    g->logits = TAKE_REALS(&a, B * g->ld_v);
    lay_out_options(g, &a, B);
    d->ld_t = row_stride(g->T);
    d->keys = TAKE_REALS(&a, B * g->L * g->C * d->ld_t), d->values = TAKE_REALS(&a, B * g->L * g->C * d->ld_t);
    d->ld_scores = g->H * (d->ld_t + VL);
    d->scores = TAKE_REALS(&a, B * d->ld_scores);
    d->weights = take(&a, B * g->V, sizeof(double));
    d->slots = NULL, d->drawn = NULL;
    return arena_size(&a);
}

static void decoder_begin(decoder *d, const real *params) {
    d->g.params = params;
    begin_options(&d->g);
    pack_weights(&d->g, NULL);
}

/* scores[h, t] = q[h] . k[t, h] for n keys of H heads, and something for those that fill the last vector; factors[h] = the
 * largest in each lane. Keys come in blocks of VL, which hold all first elements, all second ones, and so on: they are read
 * from end to end. Meanwhile the values are fetched: the caches of many streams lie in no near cache of the processor. */
static void score_keys(real *scores, real *factors, const real *q, const real *keys, const real *values, ptrdiff_t n,
                       ptrdiff_t H, ptrdiff_t D, ptrdiff_t ld_t) {
    for (ptrdiff_t t = 0; t < n; t += VL, values += VL * H * D) {
        const int left = lanes_left(t, n);
        const ivec counts = lane_numbers() < isplat(left);
        for (ptrdiff_t h = 0; h < H; h++) {
            for (ptrdiff_t i = 0; i < left * D; i += 64 / (ptrdiff_t)sizeof(real))
                __builtin_prefetch(values + h * left * D + i);
            vec even = {0}, odd = {0};
            ptrdiff_t d = 0;
            for (; d + 2 <= D; d += 2, keys += 2 * VL) {
                even += splat(q[h * D + d]) * load(keys);
                odd += splat(q[h * D + d + 1]) * load(keys + VL);
            }
            if (d < D) even += splat(q[h * D + d]) * load(keys), keys += VL;
            vec s = even + odd, largest = t ? load(factors + h * VL) : splat(-(real)INFINITY);
            store(scores + h * ld_t + t, s);
            store(factors + h * VL, vmax(blend(counts, s, largest), largest));
        }
    }
}

/* x = exp(scale (x - largest)) for n elements, and 0 for those that fill the last vector; returns 1 / sum x in every lane */
INLINE vec softmax_row(real *x, ptrdiff_t n, vec largest, real scale) {
    vec total = {0};
    largest = max_lanes(largest);
    for (ptrdiff_t i = 0; i < n; i += VL) {
        vec p = vexp(splat(scale) * (load(x + i) - largest));
        p = blend(lane_numbers() < isplat(lanes_left(i, n)), p, (vec){0});
        store(x + i, p);
        total += p;
    }
    return splat(1) / sum_lanes(total);
}

/* o = factor * sum over t of p[t] v_t, for `vectors` vectors of columns; of the last of them, `last` lanes */
INLINE void sum_values(const int vectors, real *o, const real *p, const real *values, ptrdiff_t n, ptrdiff_t ld, int last,
                       vec factor) {
    vec sum[2][2] = {{{0}}};
    ptrdiff_t t = 0;
#define ADD_VALUE(i)                                                                                                       \
    EACH(j, vectors) sum[i][j] += splat(p[t + i]) * tile_load(values + (t + i) * ld + j * VL, j == vectors - 1, last)
    for (; t + 2 <= n; t += 2) {
        ADD_VALUE(0);
        ADD_VALUE(1);
    }
    if (t < n) ADD_VALUE(0);
#undef ADD_VALUE
    EACH(j, vectors) tile_store(o + j * VL, (sum[0][j] + sum[1][j]) * factor, j == vectors - 1, last);
}

/* ALiBi: scores of later keys rise, which after the softmax is the same as that those of earlier ones fall; factors anew */
static void add_slopes(const decoder *d, real *scores, real *factors, ptrdiff_t n) {
    for (ptrdiff_t h = 0; h < d->g.H; h++, scores += d->ld_t, factors += VL) {
        const vec slope = splat(slope_of(&d->g, h) / d->g.scale);
        vec largest = splat(-(real)INFINITY);
        for (ptrdiff_t t = 0; t < n; t += VL) {
            const ivec place = lane_numbers() + isplat((integer)(t - n + 1));
            const vec s = load(scores + t) + slope * __builtin_convertvector(place, vec);
            store(scores + t, s);
            largest = vmax(blend(lane_numbers() < isplat(lanes_left(t, n)), s, largest), largest);
        }
        store(factors, largest);
    }
}

/* where the layer's keys, or values, of row i's stream begin */
INLINE ptrdiff_t cache_at(const decoder *d, ptrdiff_t layer, ptrdiff_t i) {
    return ((d->slots ? d->slots[i] : i) * d->g.L + layer) * d->g.C * d->ld_t;
}

/* row i attends to the keys of its stream, its own the last of them */
static void attend_row(const decoder *d, ptrdiff_t layer, ptrdiff_t i) {
    const gpt *g = &d->g;
    layer_activations y = activations_of(g, layer);
    const ptrdiff_t C = g->C, H = g->H, D = g->D, position = g->positions[i], n = position + 1;
    const real *q = y.qkv + i * g->ld_3c, *k = q + C, *v = k + C;
    real *o = y.o + i * g->ld_c, *scores = d->scores + i * d->ld_scores, *factors = scores + H * d->ld_t;
    real *keys = d->keys + cache_at(d, layer, i), *values = d->values + cache_at(d, layer, i);

    /* all heads' scores, then their probabilities, then the outputs: each a chain of its own, so that none is waited for */
    for (ptrdiff_t c = 0; c < C; c++) keys[position / VL * VL * C + c * VL + position % VL] = k[c];
    memcpy(values + position * C, v, (size_t)C * sizeof(real));
    score_keys(scores, factors, q, keys, values, n, H, D, d->ld_t);
    if (g->config.position == MGF_ALIBI) add_slopes(d, scores, factors, n);
    for (ptrdiff_t h = 0; h < H; h++)
        store(factors + h * VL, softmax_row(scores + h * d->ld_t, n, load(factors + h * VL), g->scale));
    for (ptrdiff_t h = 0; h < H; h++) {
        const real *p = scores + h * d->ld_t;
        vec factor = load(factors + h * VL);
        ptrdiff_t c = h * D, end = c + D;
        for (; c + VL < end; c += 2 * VL) sum_values(2, o + c, p, values + c, n, C, lanes_left(c + VL, end), factor);
        if (c < end) sum_values(1, o + c, p, values + c, n, C, lanes_left(c, end), factor);
    }
}

/* weights = exp((logits - max) / temperature): in proportion to the probabilities. In float64 by the C library's exp, as
 * in the original. */
static void sampling_weights(double *weights, real *logits, ptrdiff_t V, double temperature) {
#if REAL_BITS == 32
    vec largest = splat(-(real)INFINITY);
    for (ptrdiff_t j = 0; j < V; j += VL)
        largest = vmax(blend(lane_numbers() < isplat(lanes_left(j, V)), load(logits + j), largest), largest);
    softmax_row(logits, V, largest, (real)fmin(1 / temperature, FLT_MAX));
    for (ptrdiff_t j = 0; j < V; j++) weights[j] = logits[j];
#else
    double largest = -INFINITY;
    for (ptrdiff_t j = 0; j < V; j++) largest = logits[j] > largest ? logits[j] : largest;
    for (ptrdiff_t j = 0; j < V; j++) weights[j] = exp((logits[j] - largest) / temperature);
#endif
}

/* the next token, of logits [V], which are overwritten, as `weights` [V] is */
static int32_t draw_token(mgf_random *random, real *logits, double *weights, ptrdiff_t V, double temperature) {
    sampling_weights(weights, logits, V, temperature);
    return (int32_t)mgf_random_choice(random, weights, V);
}

/* a block of rows, from the embedding to the logits, or to the next tokens: streams need nothing of one another, so no
 * thread waits for another */
static void decode_rows(void *context, ptrdiff_t item) {
    decoder *d = context;
    gpt *g = &d->g;
    row_range r = rows_of(g, item);
    for (ptrdiff_t layer = 0; layer <= g->L; layer++) {
        forward_block(g, layer, r);
        for (ptrdiff_t i = r.first; layer < g->L && i < r.first + r.rows; i++) attend_row(d, layer, i);
    }
    for (ptrdiff_t i = r.first; d->drawn && i < r.first + r.rows; i++)
        d->drawn[i] = !d->randoms[i]
                          ? -1
                          : draw_token(d->randoms[i], g->logits + i * g->ld_v, d->weights + i * g->V, g->V, d->temperature);
}

/* g->logits [n, V] that follow the n streams' tokens */
static void decode(decoder *d, const int32_t *tokens, const int32_t *positions, ptrdiff_t n, mgf_pool *pool) {
    gpt *g = &d->g;
    memcpy(g->tokens, tokens, (size_t)n * sizeof *tokens);
    memcpy(g->positions, positions, (size_t)n * sizeof *positions);
    g->N = n;
    /* every block reads all weights: one for each thread, if that is work enough to wake it for */
    const ptrdiff_t work = n * product_weights(&g->config);
    g->row_block = work < DECODE_WORK ? n : blocks_of(n, mgf_pool_threads(pool));
    mgf_pool_run(pool, row_blocks(g), decode_rows, d);
}

#endif
