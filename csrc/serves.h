/* Which path computes a model: each says, of the configuration alone, whether it serves. The first that does is taken, from
 * the fastest to the most general; exact numerics are a path of their own, taken where they are asked for.
 */
#ifndef MGF_SERVES_H
#define MGF_SERVES_H

#include "microgpt_fast.h"

/* max(., 0) and its square: the original's two revisions */
static inline int is_rectifier(int activation) { return activation == MGF_RELU || activation == MGF_RELU2; }

/* exact.c: the scalar original's own order of operations */
static inline int exact_serves(const mgf_config *c) { return is_rectifier(c->activation); }

/* micro/: widths whose rows stay in registers */
static inline int micro_serves(const mgf_config *c) {
    const ptrdiff_t C = c->n_embd, D = C / c->n_head;
    return (C == 16 || C == 32) && (D == 4 || D == 8 || D == 16) && is_rectifier(c->activation);
}

/* mixed/: every model too, where bfloat16 was asked for */
static inline int mixed_serves(const mgf_config *c) { return c->activation >= 0 && c->activation < MGF_ACTIVATIONS; }

/* gpt/: every model that a configuration can describe */
static inline int gpt_serves(const mgf_config *c) { return c->activation >= 0 && c->activation < MGF_ACTIVATIONS; }

#endif
