/* What options of the model do to rows on their way, forward beside backward; the original's model enters none of this.
 * docs/models.md has the formulas.
 */
#ifndef MGF_OPTIONS_H
#define MGF_OPTIONS_H

#include <math.h>

#include "base/blocks.h"
#include "base/rows.h"
#include "gpt/layout.h"
#include "kernels/rmsnorm.h"

#define ROPE_BASE 10000.0

/* ---- rows */

/* to = x * y over n elements; y or to may be x */
INLINE void multiply_row(real *to, const real *x, const real *y, ptrdiff_t n) {
    for (ptrdiff_t c = 0; c < n; c += VL) {
        const int lanes = lanes_left(c, n);
        store_n(to + c, load_n(x + c, lanes) * load_n(y + c, lanes), lanes);
    }
}
/* to = a x + b y */
INLINE void combine_rows(real *to, real a, const real *x, real b, const real *y, ptrdiff_t n) {
    for (ptrdiff_t c = 0; c < n; c += VL) {
        const int lanes = lanes_left(c, n);
        store_n(to + c, splat(a) * load_n(x + c, lanes) + splat(b) * load_n(y + c, lanes), lanes);
    }
}
INLINE void copy_row(real *to, const real *x, ptrdiff_t n) { memcpy(to, x, (size_t)n * sizeof(real)); }

/* a layer's parameter, or one outside the layers (layer 0); NULL where the model has none */
INLINE const real *parameter_of(const gpt *g, const mgf_parameter *p, ptrdiff_t layer) {
    return p->rows ? g->params + p->at + layer * g->table.layer_size : NULL;
}

/* Gradients that are sums over rows: a phase leaves a row's part in its row, and they are added up when all rows are done,
 * in their order, so that the bits do not depend on the threads. */
INLINE real *gradient_at(gpt *g, const mgf_parameter *p, ptrdiff_t layer) {
    real *to = g->grads + p->at + layer * g->table.layer_size;
    if (!g->accumulate) memset(to, 0, (size_t)(p->rows * p->columns) * sizeof(real));
    return to;
}
static void add_up_rows(gpt *g, const mgf_parameter *p, ptrdiff_t layer, const real *parts) {
    if (!p->rows) return;
    real *to = gradient_at(g, p, layer);
    for (ptrdiff_t i = 0; i < g->N; i++) add_rows(to, to, parts + i * g->ld_c, g->C);
}
/* of a single number, all elements */
static void add_up_all(gpt *g, const mgf_parameter *p, ptrdiff_t layer, const real *parts) {
    if (!p->rows) return;
    vec sum = {0};
    for (ptrdiff_t i = 0; i < g->N; i++)
        for (ptrdiff_t c = 0; c < g->C; c += VL) sum += load_n(parts + i * g->ld_c + c, lanes_left(c, g->C));
    *gradient_at(g, p, layer) += sum_lanes(sum)[0];
}

/* ---- position: RoPE and ALiBi */

/* g->turns [T, D]: of each position the cosines of its D / 2 angles, then their sines */
static void begin_options(gpt *g) {
    if (g->config.position != MGF_ROPE) return;
    const ptrdiff_t half = g->D / 2;
    for (ptrdiff_t i = 0; i < half; i++) {
        const double angle = pow(ROPE_BASE, -(double)i / (double)half);
        for (ptrdiff_t t = 0; t < g->T; t++) {
            g->turns[t * g->D + i] = (real)cos((double)t * angle);
            g->turns[t * g->D + half + i] = (real)sin((double)t * angle);
        }
    }
}

/* a head's row turned by its position's angles; sign -1 turns it back, as the gradient is */
INLINE void turn_row(real *x, const real *turns, ptrdiff_t half, real sign) {
    for (ptrdiff_t i = 0; i < half; i += VL) {
        const int n = lanes_left(i, half);
        const vec a = load_n(x + i, n), b = load_n(x + half + i, n);
        const vec cosine = load_n(turns + i, n), sine = splat(sign) * load_n(turns + half + i, n);
        store_n(x + i, a * cosine - b * sine, n);
        store_n(x + half + i, b * cosine + a * sine, n);
    }
}

/* ALiBi's slope of a head, 0 where scores do not depend on distances */
static real slope_of(const gpt *g, ptrdiff_t h) {
    if (g->config.position != MGF_ALIBI) return 0;
    ptrdiff_t n = 1; /* the largest power of two that is at most H */
    while (2 * n <= g->H) n *= 2;
    return (real)exp2(-8.0 * (h < n ? (double)(h + 1) / (double)n : (double)(2 * (h - n) + 1) / (double)(2 * n)));
}

/* ---- queries, keys and values, after their product with the weights */

INLINE int has_qkv_options(const mgf_config *c) { return c->qk_norm || c->value_embedding || c->position == MGF_ROPE; }

/* Turning keeps a row's length, so it and the norm may change places: turned first, the cached key is its rmsnorm, and the
 * norm's backward needs no more than that. qk_rstd [2 H, N]: of each head's queries, then of its keys. */
static void qkv_options(gpt *g, ptrdiff_t layer, row_range r, layer_activations y) {
    const ptrdiff_t D = g->D, C = g->C;
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++) {
        real *row = y.qkv + i * g->ld_3c;
        if (g->config.position == MGF_ROPE)
            for (ptrdiff_t h = 0; h < 2 * g->H; h++) turn_row(row + h * D, g->turns + g->positions[i] * D, D / 2, 1);
        const real *added = parameter_of(g, &g->table.layer[ATTN_VE], layer);
        if (added) add_rows(row + 2 * C, row + 2 * C, added + g->tokens[i] * C, C);
    }
    if (!g->config.qk_norm) return;
    for (ptrdiff_t h = 0; h < 2 * g->H; h++) {
        real *first = y.qkv + r.first * g->ld_3c + h * D;
        rmsnorm_rows(first, g->ld_3c, y.qk_rstd + h * g->N + r.first, first, g->ld_3c, NULL, r.rows, D, RMS_EPS);
    }
}

/* the gradients of head h's queries and keys in a document of n rows from `row` on */
static void qkv_options_backward(gpt *g, layer_activations y, ptrdiff_t h, ptrdiff_t row, ptrdiff_t n) {
    for (ptrdiff_t part = h; part < 2 * g->H; part += g->H) {
        const ptrdiff_t at = row * g->ld_3c + part * g->D;
        real *d = g->dqkv + at;
        if (g->config.qk_norm)
            rmsnorm_rows_backward(d, g->ld_3c, NULL, 0, d, g->ld_3c, y.qkv + at, g->ld_3c, 1, NULL,
                                  y.qk_rstd + part * g->N + row, n, g->D);
        if (g->config.position == MGF_ROPE)
            for (ptrdiff_t i = 0; i < n; i++)
                turn_row(d + i * g->ld_3c, g->turns + g->positions[row + i] * g->D, g->D / 2, -1);
    }
}

static void value_embedding_gradient(gpt *g, ptrdiff_t layer) {
    const mgf_parameter *p = &g->table.layer[ATTN_VE];
    if (!p->rows) return;
    real *table = gradient_at(g, p, layer);
    for (ptrdiff_t i = 0; i < g->N; i++) {
        real *to = table + g->tokens[i] * g->C;
        add_rows(to, to, g->dqkv + i * g->ld_3c + 2 * g->C, g->C);
    }
}

/* ---- gated feed-forward: h [N, 2F] holds x fc1^T and u = x fc3^T */

/* a = f(h) u */
static void gate(const gpt *g, row_range r, layer_activations y) {
    real *h = y.h + r.first * g->ld_h, *a = y.a + r.first * g->ld_f;
    g->f->value(a, g->ld_f, h, g->ld_h, r.rows, g->F);
    for (ptrdiff_t i = 0; i < r.rows; i++) multiply_row(a + i * g->ld_f, a + i * g->ld_f, h + i * g->ld_h + g->F, g->F);
}
/* df [N, 2F] holds da, and becomes da u f'(h) and da f(h) */
static void gate_backward(const gpt *g, row_range r, layer_activations y) {
    real *h = y.h + r.first * g->ld_h, *d = g->df + r.first * g->ld_h;
    const ptrdiff_t F = g->F, ld = g->ld_h;
    g->f->value(d + F, ld, h, ld, r.rows, F);
    for (ptrdiff_t i = 0; i < r.rows; i++) {
        multiply_row(d + i * ld + F, d + i * ld + F, d + i * ld, F);
        multiply_row(d + i * ld, d + i * ld, h + i * ld + F, F);
    }
    g->f->gradient(d, ld, h, ld, r.rows, F);
}

/* ---- logits that stay below a cap */

/* y = cap tanh(x / cap), and a copy of y for the backward */
static void cap_logits(const gpt *g, row_range r) {
    const real cap = (real)g->config.logit_softcap;
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++) {
        real *logits = g->logits + i * g->ld_v;
        for (ptrdiff_t j = 0; j < g->V; j += VL) {
            const int n = lanes_left(j, g->V);
            const vec s = sigmoid(load_n(logits + j, n) * splat(2 / cap));
            store_n(logits + j, splat(cap) * (s + s - splat(1)), n);
        }
        copy_row(g->capped + i * g->ld_v, logits, g->V);
    }
}
/* dx = dy (1 - (y / cap)^2) */
static void cap_row_backward(const gpt *g, ptrdiff_t i) {
    const real cap = (real)g->config.logit_softcap;
    real *d = g->logits + i * g->ld_v;
    for (ptrdiff_t j = 0; j < g->V; j += VL) {
        const int n = lanes_left(j, g->V);
        const vec y = load_n(g->capped + i * g->ld_v + j, n) * splat(1 / cap);
        store_n(d + j, load_n(d + j, n) * (splat(1) - y * y), n);
    }
}

/* ---- scalars of the residual stream: x = a x + b x0 */

static void scale_stream(gpt *g, ptrdiff_t layer, row_range r, layer_activations y) {
    const real a = *parameter_of(g, &g->table.layer[RESIDUAL_SCALE], layer);
    const real b = *parameter_of(g, &g->table.layer[EMBEDDING_SCALE], layer);
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++) {
        real *x = g->x + i * g->ld_c;
        copy_row(y.before + i * g->ld_c, x, g->C);
        combine_rows(x, a, x, b, g->x0 + i * g->ld_c, g->C);
    }
}
static void scale_stream_backward(gpt *g, ptrdiff_t layer, row_range r, layer_activations y) {
    const real a = *parameter_of(g, &g->table.layer[RESIDUAL_SCALE], layer);
    const real b = *parameter_of(g, &g->table.layer[EMBEDDING_SCALE], layer);
    const int last = layer == g->L - 1; /* the first that comes here */
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++) {
        const ptrdiff_t at = i * g->ld_c;
        multiply_row(g->parts[OF_RESIDUAL_SCALE] + at, g->dx + at, y.before + at, g->C);
        multiply_row(g->parts[OF_EMBEDDING_SCALE] + at, g->dx + at, g->x0 + at, g->C);
        combine_rows(g->dx0 + at, b, g->dx + at, last ? 0 : 1, last ? g->dx + at : g->dx0 + at, g->C);
        combine_rows(g->dx + at, a, g->dx + at, 0, g->dx + at, g->C);
    }
}

#endif
