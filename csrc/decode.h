/* One token at a time: the forward pass against a cache of keys and values, and sampling from it. */
#ifndef MGF_DECODE_H
#define MGF_DECODE_H

#include "gpt.h"
#include "random.h"

typedef struct {
    gpt g;              /* sizes, parameters and their packed transposes; a batch of one row */
    real *keys, *values; /* [L, T, C] */
    real *x, *h, *qkv, *o, *a;
    real *logits;
    double *weights; /* [V] of the next token */
} decoder;

static size_t decoder_lay_out(decoder *d, const mgf_config *c, void *memory) {
    gpt_lay_out(&d->g, c, 1, 1, NULL);
    const gpt *g = &d->g;
    arena a = {memory ? (char *)(((uintptr_t)memory + 63) & ~(uintptr_t)63) : NULL, 0};
    d->g.packed = TAKE_REALS(&a, packed_total(g));
    d->keys = TAKE_REALS(&a, g->L * g->T * g->C), d->values = TAKE_REALS(&a, g->L * g->T * g->C);
    d->x = TAKE_REALS(&a, g->ld_c), d->h = TAKE_REALS(&a, g->ld_c), d->o = TAKE_REALS(&a, g->ld_c);
    d->qkv = TAKE_REALS(&a, g->ld_3c), d->a = TAKE_REALS(&a, g->ld_f), d->logits = TAKE_REALS(&a, g->ld_v);
    d->weights = take(&a, g->V, sizeof(double));
    return a.used + 64;
}

static size_t gpt_decoder_size(const mgf_config *config) {
    decoder d;
    return decoder_lay_out(&d, config, NULL);
}

static void gpt_decoder_init(void *memory, const real *params, const mgf_config *config) {
    decoder d;
    decoder_lay_out(&d, config, memory);
    d.g.params = params;
    phase p = {.g = &d.g};
    mgf_pool_run(NULL, weight_blocks(&d.g, 0, weight_count(&d.g)), pack_block, &p);
}

static void decode_attention(decoder *d, ptrdiff_t layer, ptrdiff_t position) {
    const gpt *g = &d->g;
    real *keys = d->keys + layer * g->T * g->C, *values = d->values + layer * g->T * g->C;
    memcpy(keys + position * g->C, d->qkv + g->C, (size_t)g->C * sizeof(real));
    memcpy(values + position * g->C, d->qkv + 2 * g->C, (size_t)g->C * sizeof(real));
    for (ptrdiff_t h = 0; h < g->H; h++)
        attention_head_decode(d->o + h * g->D, (head){d->qkv + h * g->D, keys + h * g->D, values + h * g->D, g->C,
                                                      position + 1, g->D, (real)(1 / sqrt((double)g->D)), 0});
}

static void decode_token(decoder *d, int32_t token, ptrdiff_t position) {
    const gpt *g = &d->g;
    const row_range one = {0, 1};
    const real *wte = g->params, *wpe = wte + g->V * g->C;
    real rstd[1];
    add_rows(d->x, wte + token * g->C, wpe + position * g->C, g->C);
    normalise(g, one, d->x, d->x, rstd);
    for (ptrdiff_t layer = 0; layer < g->L; layer++) {
        normalise(g, one, d->x, d->h, rstd);
        times_transposed(g, STORE, one, layer_weight(g, layer, QKV), d->h, g->ld_c, d->qkv, g->ld_3c);
        decode_attention(d, layer, position);
        times_transposed(g, ADD, one, layer_weight(g, layer, WO), d->o, g->ld_c, d->x, g->ld_c);
        normalise(g, one, d->x, d->h, rstd);
        times_transposed(g, RELU, one, layer_weight(g, layer, FC1), d->h, g->ld_c, d->a, g->ld_f);
        if (g->config.activation == MGF_RELU2) activate(d->a, g->ld_f, d->a, g->ld_f, 1, g->F, MGF_RELU2);
        times_transposed(g, ADD, one, layer_weight(g, layer, FC2), d->a, g->ld_f, d->x, g->ld_c);
    }
    times_transposed(g, STORE, one, weight_at(g, 0), d->x, g->ld_c, d->logits, g->ld_v);
}

static void gpt_decode(real *logits, int32_t token, ptrdiff_t position, const real *params, const mgf_config *config,
                       void *memory) {
    decoder d;
    decoder_lay_out(&d, config, memory);
    d.g.params = params;
    decode_token(&d, token, position);
    memcpy(logits, d.logits, (size_t)d.g.V * sizeof(real));
}

/* weights = exp((logits - max) / temperature): in proportion to the probabilities */
static void sampling_weights(decoder *d, double temperature) {
    double largest = -INFINITY;
    for (ptrdiff_t j = 0; j < d->g.V; j++) largest = d->logits[j] > largest ? d->logits[j] : largest;
    for (ptrdiff_t j = 0; j < d->g.V; j++) d->weights[j] = exp((d->logits[j] - largest) / temperature);
}

static ptrdiff_t gpt_generate(int32_t *sample, mgf_random *random, const real *params, int32_t bos, double temperature,
                              const mgf_config *config, void *memory) {
    decoder d;
    decoder_lay_out(&d, config, memory);
    d.g.params = params;
    int32_t token = bos;
    for (ptrdiff_t position = 0; position < d.g.T; position++) {
        decode_token(&d, token, position);
        sampling_weights(&d, temperature);
        token = (int32_t)mgf_random_choice(random, d.weights, d.g.V);
        if (token == bos) return position;
        sample[position] = token;
    }
    return d.g.T;
}

#endif
