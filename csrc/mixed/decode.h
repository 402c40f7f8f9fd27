/* Streams of tokens in mixed precision: the forward pass one token at a time, against a cache of keys and values, and
 * sampling from it. Weights and caches are bfloat16, half the bytes of float32.
 *
 * A batch is one row for each stream that takes a token, and one more where their number is odd. A row's arithmetic does
 * not depend on the others.
 */
#ifndef MGF_MIXED_DECODE_H
#define MGF_MIXED_DECODE_H

#include <float.h>

#include "mixed/train.h"
#include "random.h"

enum { DECODE_WORK = 800 * 1000 }; /* multiply-adds of a step with many streams that are worth waking a thread for */

typedef struct {
    mixed g;              /* all layers share one layer's activations */
    ptrdiff_t ld_t;       /* keys that a cache has room for: block_size, in whole LANES */
    pair *keys, *values;  /* [B, L] blocks of LANES keys, [A / 2][LANES] of pairs along A; [ld_t / 2][A] pairs of tokens */
    float *scores;        /* [B, ld_t] */
    double *weights;      /* [B, V] of the next token */
    const int32_t *slots; /* [n] whose row it is; NULL: row i is stream i's */
    ptrdiff_t n;          /* rows that are streams' */
    int32_t *drawn;       /* [n] the next tokens, drawn at this temperature from `randoms`; NULL: nothing is drawn */
    mgf_random **randoms; /* [n] NULL: this row draws none, and gets -1 */
    double temperature;
} decoder;

/* Memory for B streams. */
static size_t decoder_lay_out(decoder *d, const mgf_config *c, ptrdiff_t B, void *memory) {
    mixed *g = &d->g;
    const ptrdiff_t N = even(B);
    *g = mixed_of(c), g->N = N, g->B = N;
    arena a = arena_in(memory);
    g->forward = take(&a, g->copies, sizeof(pair)), g->backward = NULL;
    g->tokens = take(&a, N, sizeof(int32_t)), g->positions = take(&a, N, sizeof(int32_t));
    g->x = take_floats(&a, N * g->C), g->h0 = take_floats(&a, N * g->C), g->rstd0 = take_floats(&a, N);
    g->logits = take_floats(&a, N * g->V);
    g->wide = g->f->in_tiles ? NULL : take_floats(&a, N * g->F);
    g->x_rows = take_rows(&a, N, g->ld_c), g->o_rows = take_rows(&a, N, g->ld_a), g->f_rows = take_rows(&a, N, g->ld_f);
    g->x_pairs = take_pairs(&a, N, g->C);
    arena one = {NULL, 0};
    layer_pieces(g, &one, N);
    g->layers = take(&a, 1, one.used), g->layer_size = 0;
    d->ld_t = in_lanes(g->T);
    d->keys = take(&a, N * g->L * g->A / 2 * d->ld_t, sizeof(pair));
    d->values = take(&a, N * g->L * g->A / 2 * d->ld_t, sizeof(pair));
    d->scores = take_floats(&a, N * d->ld_t);
    d->weights = take(&a, N * g->config.vocab_size, sizeof(double));
    d->slots = NULL, d->drawn = NULL;
    return arena_size(&a);
}

static void copy_forward_blocks(mixed *g, weight w) { copy_weight(g->forward, NULL, w, g->params, 0, rows_of_weight(w)); }

static void decoder_begin(decoder *d, const float *params) {
    mixed *g = &d->g;
    g->params = params;
    copy_forward_blocks(g, g->lm_head);
    for (ptrdiff_t layer = 0; layer < g->L; layer++)
        for (int id = QKV; id < WEIGHTS; id++) copy_forward_blocks(g, layer_weight(g, layer, (layer_weight_id)id));
}

/* the stream's keys get k [A], its values v [A], those of token `position`; the token to come counts as 0 until it is there */
static void remember(const mixed *g, pair *keys, pair *values, const bfloat16 *k, const bfloat16 *v, ptrdiff_t position) {
    pair *block = keys + position / LANES * LANES * (g->A / 2) + position % LANES;
    for (ptrdiff_t c = 0; c < g->A; c += 2) block[c / 2 * LANES] = (pair)k[c] | (pair)k[c + 1] << 16;
    pair *row = values + position / 2 * g->A;
    for (ptrdiff_t c = 0; c < g->A; c++) row[c] = position % 2 ? row[c] | (pair)v[c] << 16 : v[c];
}

/* scores [n, in whole LANES] = q . k; keys are those of the head, and blocks of them `ld` apart */
INLINE vec score_cached(float *scores, const pair *q, const pair *keys, ptrdiff_t n, ptrdiff_t D, ptrdiff_t ld) {
    vec largest = splat(-INFINITY);
    for (ptrdiff_t t = 0; t < n; t += LANES, keys += ld)
        EACH(k, PARTS) {
            vec s = {0};
            for (ptrdiff_t d = 0; d < D / 2; d++)
                s = add_products(s, splat_pair(q + d), load_pairs(keys + d * LANES + k * VL));
            store(scores + t + k * VL, s);
            const ivec counts = lane_numbers() < isplat((integer)max_of(0, n - t - k * VL));
            largest = vmax(blend(counts, s, splat(-INFINITY)), largest);
        }
    return max_lanes(largest);
}

/* scores become 2^(scale (score - largest)), those from n on 0; returns 1 / their sum */
INLINE vec soften(float *scores, ptrdiff_t n, vec scale, vec largest) {
    vec sum[PARTS] = {{0}};
    for (ptrdiff_t t = 0; t < n; t += LANES)
        EACH(k, PARTS) {
            const ivec counts = lane_numbers() < isplat((integer)max_of(0, n - t - k * VL));
            float *at = scores + t + k * VL;
            const vec p = blend(counts, vexp2(load(at) * scale - largest * scale), (vec){0});
            store(at, p);
            sum[k] += p;
        }
    return splat(1) / sum_parts(sum);
}

INLINE pair pair_of(float even, float odd) { return pair_up(splat(even), splat(odd))[0]; }

/* row i attends to the keys of its stream, its own the last of them */
static void attend_row(const decoder *d, ptrdiff_t layer, ptrdiff_t i) {
    const mixed *g = &d->g;
    const mixed_layer y = layer_of(g, layer);
    const ptrdiff_t A = g->A, D = g->D, position = g->positions[i], n = position + 1;
    const ptrdiff_t cache = ((d->slots && i < d->n ? d->slots[i] : i) * g->L + layer) * (A / 2) * d->ld_t;
    const bfloat16 *q = y.qkv + i * g->ld_3a;
    pair *keys = d->keys + cache, *values = d->values + cache;
    float *scores = d->scores + i * d->ld_t;
    const vec scale = splat((float)(1 / sqrt((double)(g->config.n_embd / g->H)) * LOG2_E));
    remember(g, keys, values, q + A, q + 2 * A, position);
    for (ptrdiff_t h = 0; h < g->H; h++) {
        const pair *head = (const pair *)(q + h * D);
        const vec largest = score_cached(scores, head, keys + h * D / 2 * LANES, n, D, A / 2 * LANES);
        const vec share = soften(scores, n, scale, largest);
        for (ptrdiff_t c = h * D; c < (h + 1) * D; c += VL) {
            vec sum = {0};
            for (ptrdiff_t t = 0; t < n; t += 2)
                sum = add_products(sum, (pairs){0} + pair_of(scores[t], scores[t + 1]), load_pairs(values + t / 2 * A + c));
            store_row(g->o_rows + i * g->ld_a + c, sum * share);
        }
    }
}

/* weights = exp((logits - max) / temperature), in proportion to the probabilities; the next token drawn from them */
static int32_t draw_token(mgf_random *random, float *logits, double *weights, ptrdiff_t V, double temperature) {
    const vec sharpness = splat((float)fmin(1 / temperature, FLT_MAX));
    vec largest = splat(-INFINITY);
    for (ptrdiff_t j = 0; j < V; j += VL)
        largest = vmax(blend(lane_numbers() < isplat(lanes_left(j, V)), load(logits + j), splat(-INFINITY)), largest);
    largest = max_lanes(largest);
    for (ptrdiff_t j = 0; j < V; j += VL) store(logits + j, vexp(sharpness * (load(logits + j) - largest)));
    for (ptrdiff_t j = 0; j < V; j++) weights[j] = logits[j];
    return (int32_t)mgf_random_choice(random, weights, V);
}

/* a block of rows, from the embedding to the logits, or to the next tokens: no thread waits for another */
static void decode_rows(void *context, ptrdiff_t item) {
    decoder *d = context;
    mixed *g = &d->g;
    const row_range r = block_at(item, g->N, g->row_block);
    const ptrdiff_t end = min_of(r.first + r.rows, d->n);
    embed(g, r);
    for (ptrdiff_t layer = 0; layer < g->L; layer++) {
        qkv_forward(g, layer, r);
        for (ptrdiff_t i = r.first; i < end; i++) attend_row(d, layer, i);
        block_forward(g, layer, r);
    }
    lm_head_forward(g, r);
    const ptrdiff_t V = g->config.vocab_size;
    for (ptrdiff_t i = r.first; d->drawn && i < end; i++)
        d->drawn[i] =
            !d->randoms[i] ? -1 : draw_token(d->randoms[i], g->logits + i * g->V, d->weights + i * V, V, d->temperature);
}

/* g->logits [n, V] that follow the n streams' tokens */
static void decode(decoder *d, const int32_t *tokens, const int32_t *positions, ptrdiff_t n, mgf_pool *pool) {
    mixed *g = &d->g;
    memcpy(g->tokens, tokens, (size_t)n * sizeof *tokens);
    memcpy(g->positions, positions, (size_t)n * sizeof *positions);
    g->N = even(n), d->n = n;
    if (n % 2) {
        g->tokens[n] = g->positions[n] = 0;
        memset(g->o_rows + n * g->ld_a, 0, (size_t)g->A * sizeof(bfloat16));
    }
    const ptrdiff_t work = n * product_weights(&g->config);
    g->row_block = work < DECODE_WORK ? g->N : even(blocks_of(n, mgf_pool_threads(pool)));
    const unsigned mode = denormals_flush();
    mgf_pool_run(pool, row_blocks(g), decode_rows, d);
    denormals_restore(mode);
}

/* ---- the decoders of the table, for one stream and for many */

static size_t gpt_decoder_size(const mgf_config *config) {
    decoder d;
    return decoder_lay_out(&d, config, 1, NULL);
}

static size_t gpt_streams_size(const mgf_config *config, ptrdiff_t B) {
    decoder d;
    return decoder_lay_out(&d, config, B, NULL);
}

static void gpt_streams_init(void *memory, const float *params, ptrdiff_t B, const mgf_config *config) {
    decoder d;
    decoder_lay_out(&d, config, B, memory);
    decoder_begin(&d, params);
}
static void gpt_decoder_init(void *memory, const float *params, const mgf_config *config) {
    gpt_streams_init(memory, params, 1, config);
}

static void gpt_decode(float *logits, int32_t token, ptrdiff_t position, const float *params, const mgf_config *config,
                       void *memory) {
    decoder d;
    decoder_lay_out(&d, config, 1, memory);
    d.g.params = params;
    const int32_t at = (int32_t)position;
    decode(&d, &token, &at, 1, NULL);
    memcpy(logits, d.g.logits, (size_t)config->vocab_size * sizeof(float));
}

static ptrdiff_t gpt_generate(int32_t *sample, mgf_random *random, const float *params, int32_t bos, double temperature,
                              const mgf_config *config, void *memory) {
    decoder d;
    decoder_lay_out(&d, config, 1, memory);
    d.g.params = params;
    int32_t token = bos;
    for (int32_t position = 0; position < config->block_size; position++) {
        decode(&d, &token, &position, 1, NULL);
        token = draw_token(random, d.g.logits, d.weights, config->vocab_size, temperature);
        if (token == bos) return position;
        sample[position] = token;
    }
    return config->block_size;
}

static void gpt_streams_decode(float *logits, const int32_t *slots, const int32_t *tokens, const int32_t *positions,
                               ptrdiff_t n, const float *params, ptrdiff_t B, const mgf_config *config, void *memory,
                               mgf_pool *pool) {
    decoder d;
    decoder_lay_out(&d, config, B, memory);
    d.g.params = params, d.slots = slots;
    decode(&d, tokens, positions, n, pool);
    const ptrdiff_t V = config->vocab_size;
    for (ptrdiff_t i = 0; i < n; i++) memcpy(logits + i * V, d.g.logits + i * d.g.V, (size_t)V * sizeof(float));
}

static void gpt_streams_draw(int32_t *drawn, mgf_random **randoms, double temperature, const int32_t *slots,
                             const int32_t *tokens, const int32_t *positions, ptrdiff_t n, const float *params, ptrdiff_t B,
                             const mgf_config *config, void *memory, mgf_pool *pool) {
    decoder d;
    decoder_lay_out(&d, config, B, memory);
    d.g.params = params, d.slots = slots, d.drawn = drawn, d.randoms = randoms, d.temperature = temperature;
    decode(&d, tokens, positions, n, pool);
}

#endif
