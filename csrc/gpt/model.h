/* The model from the kernels: forward, backward, training steps.
 *
 *     x = rms(wte[token] + wpe[position])
 *     each layer:  x = x + attention(rms(x) wqkv^T) wo^T,  x = x + f(rms(x) fc1^T) fc2^T
 *     logits = x lm_head^T
 *
 * A step is a sequence of phases; within a phase the items (blocks of rows, heads of documents, blocks of a weight's
 * rows) are independent and may run on any thread. An item's arithmetic does not depend on where the cuts lie, sums over
 * rows run over all of them in one fixed order, so the bits do not depend on the number of threads.
 */
#ifndef MGF_GPT_H
#define MGF_GPT_H

#include "base/blocks.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "gpt/mixture.h"
#include "kernels/mlp.h"
#include "kernels/rmsnorm.h"
#include "threads.h"

enum {
    ROW_BLOCK = 96, /* rows of the batch that pass through a layer's matrices together */
    /* rows of a weight whose gradient is one item, a multiple of every VL: more where they share copies (base/gemm.h) */
    WEIGHT_BLOCK = VECTOR_REGISTERS == 16 ? COPY_ROWS : 96,
    HEAD_WORK = 64 * 64 /* scores that make an item of the attention worth handing out */
};

/* Rows of the batch are cut into nearly equal blocks: as many for each of several threads, two if there are rows enough, as
 * long as blocks are of a size that still fills tiles. */
INLINE ptrdiff_t row_block_size(ptrdiff_t N, ptrdiff_t threads) {
    if (threads == 1) return blocks_of(N, blocks_of(N, ROW_BLOCK));
    ptrdiff_t least = ROW_BLOCK / 4, wanted = min_of(2, N / (least * threads));
    ptrdiff_t each = max_of(wanted, blocks_of(N, ROW_BLOCK * threads));
    return max_of(least, blocks_of(N, each * threads));
}
INLINE ptrdiff_t row_blocks(const gpt *g) { return blocks_of(g->N, g->row_block); }
INLINE row_range rows_of(const gpt *g, ptrdiff_t item) { return block_at(item, g->N, g->row_block); }

/* y [rows, O] (mode)= x w^T, by the packed transpose; mode: STORE or ADD */
INLINE void times_transposed(const gpt *g, tile_mode mode, row_range r, weight w, const real *x, ptrdiff_t ld_x, real *y,
                             ptrdiff_t ld_y) {
    gemm(0, mode, r.rows, padded(w.O), w.C, x + r.first * ld_x, ld_x, packed(g->packed + w.packed_at, w.C),
         y + r.first * ld_y, ld_y);
}
/* dx [rows, C] = dy w */
INLINE void times_weight(const gpt *g, row_range r, weight w, const real *dy, ptrdiff_t ld_dy, real *dx, ptrdiff_t ld_dx) {
    gemm(0, STORE, r.rows, w.C, w.O, dy + r.first * ld_dy, ld_dy, plain(g->params + w.at, w.C), dx + r.first * ld_dx,
         ld_dx);
}
/* n = rmsnorm of x, y = n * gain; without a gain, which is NULL then, y is n */
INLINE void normalise(const gpt *g, row_range r, const real *x, real *n, real *y, real *rstd, const real *gain) {
    rmsnorm_rows(n + r.first * g->ld_c, g->ld_c, rstd + r.first, x + r.first * g->ld_c, g->ld_c, NULL, r.rows, g->C,
                 RMS_EPS);
    for (ptrdiff_t i = r.first; gain && i < r.first + r.rows; i++)
        multiply_row(y + i * g->ld_c, n + i * g->ld_c, gain, g->C);
}
/* dx = base + the gradient of rmsnorm at dy, n being its output before the gain; base may be NULL; parts: of the gain's
 * gradient */
INLINE void normalise_backward(const gpt *g, row_range r, real *dx, const real *base, const real *dy, const real *n,
                               const real *rstd, const real *gain, real *parts) {
    ptrdiff_t at = r.first * g->ld_c;
    for (ptrdiff_t i = r.first; gain && i < r.first + r.rows; i++)
        multiply_row(parts + i * g->ld_c, dy + i * g->ld_c, n + i * g->ld_c, g->C);
    rmsnorm_rows_backward(dx + at, g->ld_c, base ? base + at : NULL, g->ld_c, dy + at, g->ld_c, n + at, g->ld_c, 1, gain,
                          rstd + r.first, r.rows, g->C);
}
INLINE const real *gain_of(const gpt *g, ptrdiff_t layer, int of_a_layer) {
    return parameter_of(g, &g->table.layer[of_a_layer], layer);
}

/* ---- forward */

static void embed(gpt *g, row_range r) {
    const mgf_parameter *table = g->table.outside;
    const real *wte = g->params + table[WTE].at, *wpe = parameter_of(g, &table[WPE], 0);
    const real *gain = parameter_of(g, &table[EMBD_NORM], 0);
    const int mixes = mixes_values(&g->config);
    real *x = mixes ? state(g, 0) : g->x;
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++)
        if (wpe) add_rows(x + i * g->ld_c, wte + g->tokens[i] * g->C, wpe + g->positions[i] * g->C, g->C);
        else copy_row(x + i * g->ld_c, wte + g->tokens[i] * g->C, g->C);
    if (mixes) {
        end_state(g, 0, r);
        return;
    }
    normalise(g, r, g->x, g->h0, g->x, g->rstd0, gain);
    const real *from = gain ? g->x : g->h0;
    real *to = gain ? g->x0 : g->x; /* of x0 there is another copy where there is a gain */
    if (!gain || g->config.residual_scalars)
        memcpy(to + r.first * g->ld_c, from + r.first * g->ld_c, (size_t)(r.rows * g->ld_c) * sizeof(real));
}

static void qkv_forward(gpt *g, ptrdiff_t layer, row_range r) {
    layer_activations y = activations_of(g, layer);
    if (g->config.residual_scalars) scale_stream(g, layer, r, y);
    if (mixes_values(&g->config)) mix(g, 2 * layer, r);
    normalise(g, r, g->x, y.n1, y.h1, y.rstd1, gain_of(g, layer, ATTN_NORM));
    times_transposed(g, STORE, r, layer_weight(g, layer, QKV), y.h1, g->ld_c, y.qkv, g->ld_3c);
    if (has_qkv_options(&g->config)) qkv_options(g, layer, r, y);
}

static void block_forward(gpt *g, ptrdiff_t layer, row_range r) {
    layer_activations y = activations_of(g, layer);
    const int mixes = mixes_values(&g->config);
    tile_mode mode = ADD;
    real *out = mixes ? begin_state(g, 2 * layer, r, &mode) : g->x;
    times_transposed(g, mode, r, layer_weight(g, layer, WO), y.o, g->ld_c, out, g->ld_c);
    if (mixes) {
        end_state(g, 2 * layer + 1, r);
        mix(g, 2 * layer + 1, r);
        out = begin_state(g, 2 * layer + 1, r, &mode);
    }
    normalise(g, r, g->x, y.n2, y.h2, y.rstd2, gain_of(g, layer, MLP_NORM));
    weight fc1 = layer_weight(g, layer, FC1);
    if (g->config.gated) {
        times_transposed(g, STORE, r, fc1, y.h2, g->ld_c, y.h, g->ld_h);
        gate(g, r, y);
    } else
        gemm_activated(g->f, r.rows, padded(fc1.O), fc1.C, y.h2 + r.first * g->ld_c, g->ld_c,
                       packed(g->packed + fc1.packed_at, fc1.C), y.h + r.first * g->ld_f, g->ld_f, y.a + r.first * g->ld_f,
                       g->ld_f);
    times_transposed(g, mode, r, layer_weight(g, layer, FC2), y.a, g->ld_f, out, g->ld_c);
    if (mixes) end_state(g, 2 * layer + 2, r);
}

static void lm_head_forward(gpt *g, row_range r) {
    if (mixes_values(&g->config)) mix(g, 2 * g->L, r);
    if (g->config.final_norm)
        normalise(g, r, g->x, g->n_top, g->top, g->rstd_top, parameter_of(g, &g->table.outside[FINAL_NORM], 0));
    times_transposed(g, STORE, r, g->lm_head, g->top, g->ld_c, g->logits, g->ld_v);
    if (g->config.logit_softcap != 0) cap_logits(g, r);
}

/* logits become their gradient, row_loss the loss */
static void loss_rows(gpt *g, row_range r) {
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++) {
        g->row_loss[i] = cross_entropy_row(g->logits + i * g->ld_v, g->targets[i], g->row_weight[i], g->V);
        if (g->config.logit_softcap != 0) cap_row_backward(g, i);
    }
}

/* What the items of a phase share. In forward, phase `layer` takes rows out of layer - 1 (or the embedding) and into the
 * layer (or lm_head); in backward, their gradient out of layer + 1 (or lm_head) and into the layer (or the embedding). */
typedef struct {
    gpt *g;
    ptrdiff_t layer;
    ptrdiff_t chunk; /* pairs of (document, head) that make an item of the attention */
    ptrdiff_t items; /* of layer_gradients */
} phase;

static void forward_block(gpt *g, ptrdiff_t layer, row_range r) {
    if (layer == 0) embed(g, r);
    else block_forward(g, layer - 1, r);
    if (layer < g->L) qkv_forward(g, layer, r);
    else lm_head_forward(g, r);
}
static void forward_rows(void *context, ptrdiff_t item) {
    const phase *p = context;
    forward_block(p->g, p->layer, rows_of(p->g, item));
}

/* the pair's head of its document, in qkv; *row becomes the document's first */
static head head_of(const gpt *g, const real *qkv, ptrdiff_t pair, ptrdiff_t *row) {
    ptrdiff_t document = pair / g->H, h = pair % g->H;
    *row = g->cu_seqlens[document];
    const real *q = qkv + *row * g->ld_3c + h * g->D;
    return (head){q, q + g->C, q + 2 * g->C, g->ld_3c, g->cu_seqlens[document + 1] - *row, g->D, g->scale, slope_of(g, h)};
}
static ptrdiff_t heads_per_item(const gpt *g) {
    ptrdiff_t mean = g->N / g->B + 1;
    return max_of(1, HEAD_WORK / (mean * mean));
}

static void forward_heads(void *context, ptrdiff_t item) {
    phase *p = context;
    gpt *g = p->g;
    layer_activations y = activations_of(g, p->layer);
    row_range pairs = block_at(item, g->B * g->H, p->chunk);
    for (ptrdiff_t pair = pairs.first; pair < pairs.first + pairs.rows; pair++) {
        ptrdiff_t row, h = pair % g->H;
        head x = head_of(g, y.qkv, pair, &row);
        attention_head(y.o + row * g->ld_c + h * g->D, g->ld_c, y.lse + row * g->H + h, g->H, x);
    }
}

/* Items that are blocks of a weight's rows: of lm_head, and of each weight of a layer. */
typedef struct {
    weight w;
    layer_weight_id id; /* of a layer's weight */
    row_range rows;
} weight_block;

/* block `item` of a layer's weights, from the first to the last */
static weight_block layer_weight_block(const gpt *g, ptrdiff_t layer, ptrdiff_t item) {
    layer_weight_id id = QKV;
    for (ptrdiff_t blocks; item >= (blocks = blocks_of(g->of_layer[id].O, WEIGHT_BLOCK)); id++) item -= blocks;
    return (weight_block){layer_weight(g, layer, id), id, block_at(item, g->of_layer[id].O, WEIGHT_BLOCK)};
}
static ptrdiff_t lm_head_blocks(const gpt *g) { return blocks_of(g->lm_head.O, WEIGHT_BLOCK); }
static ptrdiff_t layer_blocks(const gpt *g) {
    ptrdiff_t items = 0;
    for (int id = QKV; id < WEIGHTS; id++) items += blocks_of(g->of_layer[id].O, WEIGHT_BLOCK);
    return items;
}

/* the packed transpose of a block, of lm_head first, then of layer after layer */
static void pack_block(void *context, ptrdiff_t item) {
    const gpt *g = context;
    const ptrdiff_t of_head = lm_head_blocks(g), in_layers = item - of_head;
    weight_block b = {g->lm_head, 0, block_at(item, g->lm_head.O, WEIGHT_BLOCK)};
    if (in_layers >= 0) b = layer_weight_block(g, in_layers / layer_blocks(g), in_layers % layer_blocks(g));
    const weight w = b.w;
    pack_transposed(g->packed + w.packed_at, g->params + w.at, w.C, w.O, w.C, b.rows.first, b.rows.first + b.rows.rows);
}
static void pack_weights(gpt *g, mgf_pool *pool) {
    mgf_pool_run(pool, lm_head_blocks(g) + g->L * layer_blocks(g), pack_block, g);
}

static void forward(gpt *g, mgf_pool *pool) {
    g->row_block = row_block_size(g->N, mgf_pool_threads(pool));
    phase p = {.g = g, .chunk = heads_per_item(g)};
    pack_weights(g, pool);
    for (p.layer = 0; p.layer <= g->L; p.layer++) {
        mgf_pool_run(pool, row_blocks(g), forward_rows, &p);
        if (p.layer < g->L) mgf_pool_run(pool, blocks_of(g->B * g->H, p.chunk), forward_heads, &p);
    }
}

/* ---- backward */

/* inverts block_forward down to the attention's output */
static void block_backward(gpt *g, ptrdiff_t layer, row_range r) {
    layer_activations y = activations_of(g, layer);
    const int mixes = mixes_values(&g->config);
    if (mixes) take_value_gradient(g, 2 * layer + 1, r, g->dx);
    weight fc2 = layer_weight(g, layer, FC2);
    if (g->config.gated) {
        times_weight(g, r, fc2, g->dx, g->ld_c, g->df, g->ld_h);
        gate_backward(g, r, y);
    } else
        gemm_activation_gradient(g->f, r.rows, g->F, g->C, g->dx + r.first * g->ld_c, g->ld_c,
                                 plain(g->params + fc2.at, g->F), g->df + r.first * g->ld_h, g->ld_h,
                                 y.h + r.first * g->ld_h, g->ld_h);
    times_weight(g, r, layer_weight(g, layer, FC1), g->df, g->ld_h, g->dh, g->ld_c);
    normalise_backward(g, r, mixes ? g->dmix : g->dx1, mixes ? NULL : g->dx, g->dh, y.n2, y.rstd2,
                       gain_of(g, layer, MLP_NORM), g->parts[OF_MLP_NORM]);
    if (mixes) {
        mix_backward(g, 2 * layer + 1, r, g->dmix, g->parts[OF_MLP_MIX]);
        take_value_gradient(g, 2 * layer, r, g->dx1);
    }
    times_weight(g, r, layer_weight(g, layer, WO), g->dx1, g->ld_c, g->d_o, g->ld_c);
}

/* inverts qkv_forward */
static void qkv_backward(gpt *g, ptrdiff_t layer, row_range r) {
    layer_activations y = activations_of(g, layer);
    times_weight(g, r, layer_weight(g, layer, QKV), g->dqkv, g->ld_3c, g->dh, g->ld_c);
    const int mixes = mixes_values(&g->config);
    normalise_backward(g, r, mixes ? g->dmix : g->dx, mixes ? NULL : g->dx1, g->dh, y.n1, y.rstd1,
                       gain_of(g, layer, ATTN_NORM), g->parts[OF_ATTN_NORM]);
    if (mixes) mix_backward(g, 2 * layer, r, g->dmix, g->parts[OF_ATTN_MIX]);
    if (g->config.residual_scalars) scale_stream_backward(g, layer, r, y);
}

/* inverts lm_head_forward down to the residual stream */
static void lm_head_backward(gpt *g, row_range r) {
    times_weight(g, r, g->lm_head, g->logits, g->ld_v, g->dx, g->ld_c);
    if (g->config.final_norm)
        normalise_backward(g, r, g->dx, NULL, g->dx, g->n_top, g->rstd_top,
                           parameter_of(g, &g->table.outside[FINAL_NORM], 0), g->parts[OF_OUTER_NORM]);
    if (mixes_values(&g->config)) {
        begin_value_gradients(g, r);
        mix_backward(g, 2 * g->L, r, g->dx, g->parts[OF_OUT_MIX]);
    }
}

/* inverts embed up to the rows of the tables */
static void embed_backward(gpt *g, row_range r) {
    if (mixes_values(&g->config)) {
        take_value_gradient(g, -1, r, g->dx);
        return;
    }
    for (ptrdiff_t i = r.first; g->config.residual_scalars && i < r.first + r.rows; i++)
        add_rows(g->dx + i * g->ld_c, g->dx + i * g->ld_c, g->dx0 + i * g->ld_c, g->C);
    normalise_backward(g, r, g->dx, NULL, g->dx, g->h0, g->rstd0, parameter_of(g, &g->table.outside[EMBD_NORM], 0),
                       g->parts[OF_OUTER_NORM]);
}

static void backward_rows(void *context, ptrdiff_t item) {
    phase *p = context;
    gpt *g = p->g;
    row_range r = rows_of(g, item);
    if (p->layer == g->L - 1) {
        loss_rows(g, r);
        lm_head_backward(g, r);
    } else {
        qkv_backward(g, p->layer + 1, r);
    }
    if (p->layer >= 0) block_backward(g, p->layer, r);
    else embed_backward(g, r);
}

static void backward_heads(void *context, ptrdiff_t item) {
    phase *p = context;
    gpt *g = p->g;
    layer_activations y = activations_of(g, p->layer);
    row_range pairs = block_at(item, g->B * g->H, p->chunk);
    for (ptrdiff_t pair = pairs.first; pair < pairs.first + pairs.rows; pair++) {
        ptrdiff_t row, h = pair % g->H;
        head x = head_of(g, y.qkv, pair, &row);
        ptrdiff_t at = row * g->ld_3c + h * g->D, out = row * g->ld_c + h * g->D, statistic = row * g->H + h;
        attention_head_backward(g->dqkv + at, g->dqkv + at + g->C, g->dqkv + at + 2 * g->C, g->delta + statistic,
                                g->d_o + out, y.o + out, g->ld_c, y.lse + statistic, g->H, x);
        if (has_qkv_options(&g->config)) qkv_options_backward(g, y, h, row, x.n);
    }
}

/* dw [rows of O, C] (+)= dy^T x over all N rows */
static void weight_gradient(gpt *g, weight w, row_range r, const real *dy, ptrdiff_t ld_dy, const real *x, ptrdiff_t ld_x) {
    gemm(1, g->accumulate ? ADD : STORE, r.rows, w.C, g->N, dy + r.first, ld_dy, plain(x, ld_x),
         g->grads + w.at + r.first * w.C, w.C);
}
static void lm_head_gradient(void *context, ptrdiff_t item) {
    gpt *g = ((phase *)context)->g;
    weight w = g->lm_head;
    weight_gradient(g, w, block_at(item, w.O, WEIGHT_BLOCK), g->logits, g->ld_v, g->top, g->ld_c);
}
/* from the layer's last weight to its first: fc2's rows are the longest, and a long item at the end keeps threads waiting */
static void layer_gradients(void *context, ptrdiff_t item) {
    phase *p = context;
    gpt *g = p->g;
    layer_activations y = activations_of(g, p->layer);
    const weight_block b = layer_weight_block(g, p->layer, p->items - 1 - item);
    switch (b.id) {
    case QKV: weight_gradient(g, b.w, b.rows, g->dqkv, g->ld_3c, y.h1, g->ld_c); break;
    case WO: weight_gradient(g, b.w, b.rows, g->dx1, g->ld_c, y.o, g->ld_c); break;
    case FC1: weight_gradient(g, b.w, b.rows, g->df, g->ld_h, y.h2, g->ld_c); break;
    default: weight_gradient(g, b.w, b.rows, g->dx, g->ld_c, y.a, g->ld_f);
    }
}

/* dwte, dwpe (+)= scattered rows of dx, in ascending order of rows */
static void embedding_gradients(gpt *g) {
    const mgf_parameter *table = g->table.outside;
    const int has_wpe = table[WPE].rows > 0;
    real *dwte = g->grads + table[WTE].at, *dwpe = g->grads + table[WPE].at;
    if (!g->accumulate) {
        if (!table[LM_HEAD].tied_to) memset(dwte, 0, (size_t)(g->V * g->C) * sizeof(real));
        if (has_wpe) memset(dwpe, 0, (size_t)(g->T * g->C) * sizeof(real));
    }
    for (ptrdiff_t i = 0; i < g->N; i++) {
        real *token = dwte + g->tokens[i] * g->C, *position = dwpe + g->positions[i] * g->C;
        add_rows(token, token, g->dx + i * g->ld_c, g->C);
        if (has_wpe) add_rows(position, position, g->dx + i * g->ld_c, g->C);
    }
}

/* the sums over rows of what backward_rows left of this phase: out of layer + 1, and into the layer */
static void option_gradients(gpt *g, ptrdiff_t layer) {
    const mgf_parameter *outside = g->table.outside, *of_layer = g->table.layer;
    if (layer == g->L - 1) {
        add_up_rows(g, &outside[FINAL_NORM], 0, g->parts[OF_OUTER_NORM]);
        add_up_rows(g, &outside[OUT_RES_PROJ], 0, g->parts[OF_OUT_MIX]);
    } else {
        add_up_rows(g, &of_layer[ATTN_NORM], layer + 1, g->parts[OF_ATTN_NORM]);
        add_up_rows(g, &of_layer[ATTN_RES_PROJ], layer + 1, g->parts[OF_ATTN_MIX]);
        add_up_all(g, &of_layer[RESIDUAL_SCALE], layer + 1, g->parts[OF_RESIDUAL_SCALE]);
        add_up_all(g, &of_layer[EMBEDDING_SCALE], layer + 1, g->parts[OF_EMBEDDING_SCALE]);
    }
    if (layer >= 0) {
        add_up_rows(g, &of_layer[MLP_NORM], layer, g->parts[OF_MLP_NORM]);
        add_up_rows(g, &of_layer[MLP_RES_PROJ], layer, g->parts[OF_MLP_MIX]);
    } else {
        add_up_rows(g, &outside[EMBD_NORM], 0, g->parts[OF_OUTER_NORM]);
    }
}

static void backward(gpt *g, mgf_pool *pool) {
    phase p = {.g = g, .chunk = heads_per_item(g)};
    for (p.layer = g->L - 1; p.layer >= -1; p.layer--) {
        mgf_pool_run(pool, row_blocks(g), backward_rows, &p);
        if (p.layer == g->L - 1) mgf_pool_run(pool, lm_head_blocks(g), lm_head_gradient, &p);
        option_gradients(g, p.layer);
        if (p.layer < 0) break;
        mgf_pool_run(pool, blocks_of(g->B * g->H, p.chunk), backward_heads, &p);
        value_embedding_gradient(g, p.layer);
        p.items = layer_blocks(g);
        mgf_pool_run(pool, p.items, layer_gradients, &p);
    }
    embedding_gradients(g);
}

#endif
