/* Streams of tokens: the forward pass one token at a time, against a cache of keys and values, and sampling from it.
 *
 * A batch is one row for each stream that takes a token; streams share nothing but the weights, and a row's arithmetic
 * does not depend on the others: a stream's bits are the same in every batch.
 */
#ifndef MGF_DECODE_H
#define MGF_DECODE_H

#include <float.h>

#include "gpt.h"
#include "random.h"

enum {
    DECODE_WORK = 400 * 1000, /* multiply-adds of a step with many streams that are worth waking a thread for */
    STREAMS_AHEAD = 4,        /* of the one at hand: whose keys and values are fetched meanwhile */
};

typedef struct {
    gpt g;                /* sizes, parameters and their packed transposes; a row of activations for each stream */
    ptrdiff_t ld_t;       /* keys that a cache has room for: block_size, in whole vectors */
    real *keys, *values;  /* blocks of VL keys: [L, ld_t / VL, B, C, VL] and [L, ld_t / VL, B, VL, C] */
    real *scores;         /* [B, ld_scores] [H, ld_t], and a factor of each head, [H, VL] */
    ptrdiff_t ld_scores;
    double *weights;      /* [B, V] of the next token */
    const int32_t *slots; /* [N] whose row it is; NULL: row i is stream i's */
    int32_t *drawn;       /* [N] the next tokens, drawn at this temperature from `randoms`; NULL: nothing is drawn */
    mgf_random **randoms; /* [N] NULL: this row draws none, and gets -1 */
    double temperature;
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
    d->ld_scores = g->H * (d->ld_t + VL);
    d->scores = TAKE_REALS(&a, B * d->ld_scores);
    d->weights = take(&a, B * g->V, sizeof(double));
    d->slots = NULL, d->drawn = NULL;
    return a.used + 64;
}

static void pack_weights(decoder *d, const real *params) {
    d->g.params = params;
    phase p = {.g = &d->g};
    mgf_pool_run(NULL, weight_blocks(&d->g, 0, weight_count(&d->g)), pack_block, &p);
}

/* The caches lie in no near cache of the processor: `next`, if not NULL, has what is read soon, n elements from `at` on. */
INLINE void fetch(const real *next, ptrdiff_t at, ptrdiff_t n) {
    if (!next) return;
    for (ptrdiff_t i = at; i < at + n; i += 64 / (ptrdiff_t)sizeof(real)) __builtin_prefetch(next + i, 0, 2);
}

/* one element of VL keys; where `last`, that of the last of them, whose lane is set in is_own, is new */
INLINE vec key_elements(real *keys, const int last, ivec is_own, real own) {
    vec x = load(keys);
    if (last) store(keys, x = blend(is_own, splat(own), x));
    return x;
}

/* scores[h] = q[h] . k[t, h] for the n keys t of a block and H heads, and something for those that fill it; factors[h] = the
 * largest so far in each lane. The last block's last key comes as `own` and is put in. */
INLINE void score_keys(const decoder *d, real *scores, real *factors, const real *q, const real *own, real *keys, ptrdiff_t n,
                       const int last, const real *next) {
    const ptrdiff_t H = d->g.H, D = d->g.D;
    const ivec is_own = lane_numbers() == isplat((integer)(n - 1)), counts = lane_numbers() < isplat((integer)n);
    for (ptrdiff_t h = 0; h < H; h++, scores += d->ld_t, factors += VL) {
        vec sum[4] = {{0}};
        ptrdiff_t e = h * D, end = e + D;
        for (; e + 4 <= end; e += 4) {
            fetch(next, e * VL, 4 * VL);
            UNROLL for (int i = 0; i < 4; i++)
                sum[i] += splat(q[e + i]) * key_elements(keys + (e + i) * VL, last, is_own, own[e + i]);
        }
        for (; e < end; e++) sum[0] += splat(q[e]) * key_elements(keys + e * VL, last, is_own, own[e]);
        vec s = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        store(scores, s);
        store(factors, vmax(blend(counts, s, load(factors)), load(factors)));
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

/* o += factor * sum over t of p[t] v_t for n keys and `vectors` vectors of columns; of the last of them, `last` lanes */
INLINE void sum_values(const int vectors, real *o, const real *p, const real *values, ptrdiff_t n, ptrdiff_t ld, int last,
                       vec factor) {
    vec sum[2][2] = {{{0}}};
    ptrdiff_t t = 0;
#define ADD_VALUE(i)                                                                       \
    UNROLL for (int j = 0; j < vectors; j++)                                               \
        sum[i][j] += splat(p[t + i]) * tile_load(values + (t + i) * ld + j * VL, j == vectors - 1, last)
    for (; t + 2 <= n; t += 2) {
        ADD_VALUE(0);
        ADD_VALUE(1);
    }
    if (t < n) ADD_VALUE(0);
#undef ADD_VALUE
    UNROLL for (int j = 0; j < vectors; j++) {
        const int edge = j == vectors - 1;
        vec so_far = tile_load(o + j * VL, edge, last);
        tile_store(o + j * VL, (sum[0][j] + sum[1][j]) * factor + so_far, edge, last);
    }
}

/* o [C] += the probabilities p [H, ld_t] of a block's n keys times its values, times each head's factor */
INLINE void add_values(const decoder *d, real *o, const real *p, const real *factors, const real *values, ptrdiff_t n,
                       const real *next) {
    const ptrdiff_t C = d->g.C, H = d->g.H, D = d->g.D;
    for (ptrdiff_t h = 0; h < H; h++, p += d->ld_t) {
        fetch(next, h * n * D, n * D);
        vec factor = load(factors + h * VL);
        ptrdiff_t c = h * D, end = c + D;
        for (; c + VL < end; c += 2 * VL) sum_values(2, o + c, p, values + c, n, C, lanes_left(c + VL, end), factor);
        if (c < end) sum_values(1, o + c, p, values + c, n, C, lanes_left(c, end), factor);
    }
}

/* where the block with key t of row i's stream begins, among a layer's keys or values */
INLINE ptrdiff_t cache_block(const decoder *d, ptrdiff_t layer, ptrdiff_t t, ptrdiff_t i) {
    const ptrdiff_t stream = d->slots ? d->slots[i] : i;
    return ((layer * (d->ld_t / VL) + t / VL) * d->g.B + stream) * d->g.C * VL;
}

/* the rows' own values join their streams', before anything is summed */
static void begin_rows(const decoder *d, ptrdiff_t layer, const layer_activations *y, row_range r) {
    const gpt *g = &d->g;
    const size_t size = (size_t)g->C * sizeof(real);
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++) {
        const ptrdiff_t t = g->positions[i];
        real *factors = d->scores + i * d->ld_scores + g->H * d->ld_t;
        memcpy(d->values + cache_block(d, layer, t, i) + t % VL * g->C, y->qkv + i * g->ld_3c + 2 * g->C, size);
        memset(y->o + i * g->ld_c, 0, size);
        for (ptrdiff_t h = 0; h < g->H; h++) store(factors + h * VL, splat(-(real)INFINITY));
    }
}

/* Rows attend to the keys of their streams, their own the last of them: first all scores, block by block, then the
 * probabilities, then the outputs. So the caches of many streams are read in the order in which they lie, and that of a
 * stream to come is fetched meanwhile; one stream's values are fetched while its keys are scored. */
static void attend_rows(const decoder *d, ptrdiff_t layer, row_range r) {
    const gpt *g = &d->g;
    const layer_activations y = activations(g, layer);
    const ptrdiff_t H = g->H, end = r.first + r.rows;
    const real scale = (real)(1 / sqrt((double)g->D));
    const int many = g->B > 1;
    const ptrdiff_t ahead = STREAMS_AHEAD * g->C * VL;
    ptrdiff_t most = 0; /* keys of a row */
    for (ptrdiff_t i = r.first; i < end; i++) most = max_of(most, g->positions[i] + 1);
    begin_rows(d, layer, &y, r);
    for (ptrdiff_t t = 0; t < most; t += VL)
        for (ptrdiff_t i = r.first; i < end; i++) {
            const ptrdiff_t n = g->positions[i] + 1 - t;
            const real *q = y.qkv + i * g->ld_3c;
            real *scores = d->scores + i * d->ld_scores, *factors = scores + H * d->ld_t;
            const ptrdiff_t block = cache_block(d, layer, t, i);
            real *keys = d->keys + block;
            const real *next = many ? keys + ahead : d->values + block;
            if (n > VL) score_keys(d, scores + t, factors, q, q, keys, VL, 0, next);
            else if (n > 0) score_keys(d, scores + t, factors, q, q + g->C, keys, n, 1, next);
        }
    for (ptrdiff_t i = r.first; i < end; i++) {
        real *scores = d->scores + i * d->ld_scores, *factors = scores + H * d->ld_t;
        for (ptrdiff_t h = 0; h < H; h++, scores += d->ld_t, factors += VL)
            store(factors, softmax_row(scores, g->positions[i] + 1, load(factors), scale));
    }
    for (ptrdiff_t t = 0; t < most; t += VL)
        for (ptrdiff_t i = r.first; i < end; i++) {
            const ptrdiff_t n = g->positions[i] + 1 - t;
            const real *scores = d->scores + i * d->ld_scores, *factors = scores + H * d->ld_t;
            const real *values = d->values + cache_block(d, layer, t, i);
            if (n > 0) add_values(d, y.o + i * g->ld_c, scores + t, factors, values, min_of(n, VL),
                                  many ? values + ahead : NULL);
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
    phase p = *(const phase *)context;
    const gpt *g = p.g;
    const decoder *d = (const decoder *)g;
    row_range r = rows_of(g, item);
    for (p.layer = 0; p.layer <= g->L; p.layer++) {
        forward_rows(&p, item);
        if (p.layer < g->L) attend_rows(d, p.layer, r);
    }
    for (ptrdiff_t i = r.first; d->drawn && i < r.first + r.rows; i++)
        d->drawn[i] = !d->randoms[i] ? -1 : draw_token(d->randoms[i], g->logits + i * g->ld_v, d->weights + i * g->V, g->V,
                                                       d->temperature);
}

/* g->logits [n, V] that follow the n streams' tokens */
static void decode(decoder *d, const int32_t *tokens, const int32_t *positions, ptrdiff_t n, mgf_pool *pool) {
    gpt *g = &d->g;
    memcpy(g->tokens, tokens, (size_t)n * sizeof *tokens);
    memcpy(g->positions, positions, (size_t)n * sizeof *positions);
    g->N = n;
    /* every block reads all weights: one for each thread, if that is work enough to wake it for */
    ptrdiff_t work = n * (12 * g->L * g->C * g->C + g->V * g->C);
    g->row_block = work < DECODE_WORK ? n : blocks_of(n, mgf_pool_threads(pool));
    phase p = {.g = g};
    mgf_pool_run(pool, row_blocks(g), decode_rows, &p);
}

#endif
