/* The decoders of the table of kernels, for one stream and for many. */
#ifndef MGF_STREAMS_H
#define MGF_STREAMS_H

#include "gpt/decode.h"
#include "narrow.h"
#include "serves.h"

static size_t gpt_decoder_size(const mgf_config *config) {
    decoder d;
    return decoder_lay_out(&d, config, 1, NULL);
}

static void gpt_decoder_init(void *memory, const real *params, const mgf_config *config) {
    decoder d;
    decoder_lay_out(&d, config, 1, memory);
    decoder_begin(&d, params);
}

static void decode_token(decoder *d, int32_t token, ptrdiff_t position) {
    if (micro_serves(&d->g.config)) {
        NARROW.decode(d, token, position);
        return;
    }
    int32_t at = (int32_t)position;
    decode(d, &token, &at, 1, NULL);
}

static void gpt_decode(real *logits, int32_t token, ptrdiff_t position, const real *params, const mgf_config *config,
                       void *memory) {
    decoder d;
    decoder_lay_out(&d, config, 1, memory);
    d.g.params = params;
    decode_token(&d, token, position);
    memcpy(logits, d.g.logits, (size_t)d.g.V * sizeof(real));
}

static ptrdiff_t gpt_generate(int32_t *sample, mgf_random *random, const real *params, int32_t bos, double temperature,
                              const mgf_config *config, void *memory) {
    decoder d;
    decoder_lay_out(&d, config, 1, memory);
    d.g.params = params;
    int32_t token = bos;
    for (ptrdiff_t position = 0; position < d.g.T; position++) {
        decode_token(&d, token, position);
        token = draw_token(random, d.g.logits, d.weights, d.g.V, temperature);
        if (token == bos) return position;
        sample[position] = token;
    }
    return d.g.T;
}

/* ---- many streams */

static size_t gpt_streams_size(const mgf_config *config, ptrdiff_t B) {
    decoder d;
    return decoder_lay_out(&d, config, B, NULL);
}

static void gpt_streams_init(void *memory, const real *params, ptrdiff_t B, const mgf_config *config) {
    decoder d;
    decoder_lay_out(&d, config, B, memory);
    decoder_begin(&d, params);
}

static void gpt_streams_decode(real *logits, const int32_t *slots, const int32_t *tokens, const int32_t *positions,
                               ptrdiff_t n, const real *params, ptrdiff_t B, const mgf_config *config, void *memory,
                               mgf_pool *pool) {
    decoder d;
    decoder_lay_out(&d, config, B, memory);
    d.g.params = params, d.slots = slots;
    decode(&d, tokens, positions, n, pool);
    for (ptrdiff_t i = 0; i < n; i++) memcpy(logits + i * d.g.V, d.g.logits + i * d.g.ld_v, (size_t)d.g.V * sizeof(real));
}

static void gpt_streams_draw(int32_t *drawn, mgf_random **randoms, double temperature, const int32_t *slots,
                             const int32_t *tokens, const int32_t *positions, ptrdiff_t n, const real *params, ptrdiff_t B,
                             const mgf_config *config, void *memory, mgf_pool *pool) {
    decoder d;
    decoder_lay_out(&d, config, B, memory);
    d.g.params = params, d.slots = slots, d.drawn = drawn, d.randoms = randoms, d.temperature = temperature;
    decode(&d, tokens, positions, n, pool);
}

#endif
