/* Which path computes a model: each says, of the configuration alone, whether it serves. The first that does is taken, from
 * the fastest to the most general; exact numerics are a path of their own, taken where they are asked for.
 */
#ifndef MGF_SERVES_H
#define MGF_SERVES_H

#include "microgpt_fast.h"

/* max(., 0) and its square: the original's two revisions */
static inline int is_rectifier(int activation) { return activation == MGF_RELU || activation == MGF_RELU2; }

/* the original's model, its activation apart */
static inline int is_plain(const mgf_config *c) {
    return !(c->tie_embeddings || c->position || c->qk_norm || c->norm_gain || c->final_norm || c->gated ||
             c->value_embedding || c->residual || c->residual_scalars || c->mlp_hidden || c->logit_softcap != 0);
}

/* exact.c: the scalar original's own order of operations */
static inline int exact_serves(const mgf_config *c) { return is_rectifier(c->activation) && is_plain(c); }

/* micro/: widths whose rows stay in registers */
static inline int micro_serves(const mgf_config *c) {
    const ptrdiff_t C = c->n_embd, D = C / c->n_head;
    return (C == 16 || C == 32) && (D == 4 || D == 8 || D == 16) && is_rectifier(c->activation) && is_plain(c);
}

/* mixed/: the plain models, where bfloat16 was asked for */
static inline int mixed_serves(const mgf_config *c) {
    return c->activation >= 0 && c->activation < MGF_ACTIVATIONS && is_plain(c);
}

/* gpt/: every model but those of several residual streams */
static inline int gpt_serves(const mgf_config *c) {
    return c->activation >= 0 && c->activation < MGF_ACTIVATIONS && c->residual < MGF_HYPER;
}

#endif
