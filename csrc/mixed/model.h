/* The model in mixed precision, forward and backward: that of gpt/model.h, with bfloat16 in all products.
 *
 *     x = rms(wte[token] + wpe[position])
 *     each layer:  x = x + attention(rms(x) wqkv^T) wo^T,  x = x + f(rms(x) fc1^T) fc2^T
 *     logits = x lm_head^T
 *
 * A product's input is rounded where it is made, in both forms that products read: rows for the next one, whose buffers
 * all layers share, and pairs of rows for the gradient of the weight, which are kept. Phases and their items are those of
 * gpt/model.h; the bits do not depend on the number of threads.
 */
#ifndef MGF_MIXED_MODEL_H
#define MGF_MIXED_MODEL_H

#include <stdatomic.h>
#include <string.h>

#include "mixed/attention_backward.h"
#include "mixed/gradients.h"

enum {
    ROW_BLOCK = 128,     /* rows of the batch that pass through a layer's matrices together */
    LEAST_ROWS = 24,     /* that still fill tiles, where there are threads to share them */
    HEAD_WORK = 64 * 64, /* scores that make an item of the attention worth handing out */
};

/* What the items of a phase share; see gpt/model.h. */
typedef struct {
    mixed *g;
    ptrdiff_t layer;
    ptrdiff_t items, chunk; /* pairs of (document, head) that make an item of the attention */
    atomic_ptrdiff_t next;
} mixed_phase;

/* One thread takes whole tiles; several nearly equal shares of an even number of rows, two each if there are enough. */
INLINE ptrdiff_t row_block_size(ptrdiff_t N, ptrdiff_t threads) {
    if (threads == 1) return TILE_ROWS * blocks_of(N, blocks_of(N, ROW_BLOCK) * TILE_ROWS);
    const ptrdiff_t wanted = max_of(1, min_of(2, N / (LEAST_ROWS * threads)));
    const ptrdiff_t each = max_of(wanted, blocks_of(N, ROW_BLOCK * threads));
    return max_of(LEAST_ROWS, 2 * blocks_of(N / 2, each * threads));
}
INLINE ptrdiff_t row_blocks(const mixed *g) { return blocks_of(g->N, g->row_block); }

/* the product of rows [r] of K numbers with a weight's copy; what becomes of it is the caller's to add */
INLINE tile_arguments product_of(const bfloat16 *rows, ptrdiff_t ld, row_range r, ptrdiff_t K, const pair *copy) {
    return (tile_arguments){.K = K / 2, .a = (const pair *)(rows + r.first * ld), .ld_a = ld / 2, .b = copy};
}
/* y [rows, columns] (mode)= it */
INLINE void to_floats(tile_arguments t, output_mode mode, row_range r, float *y, ptrdiff_t columns) {
    t.mode = mode, t.c = y + r.first * columns, t.ld_c = columns;
    multiply(t, r.rows, columns);
}
/* both forms = it */
INLINE void to_both(tile_arguments t, output_mode mode, row_range r, bfloat16 *rows, ptrdiff_t ld, row_pairs pairs,
                    ptrdiff_t columns) {
    t.mode = mode, t.rows = rows + r.first * ld, t.ld_rows = ld, t.pairs = pairs, t.row_pair = r.first / 2;
    multiply(t, r.rows, columns);
}

/* ---- forward */

static void normalise(const mixed *g, row_range r, row_pairs h, float *rstd) {
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i += 2)
        normalise_two(forms_at(g->x_rows, g->ld_c, h, i), rstd + i, g->x + i * g->C, g->C, g->config.n_embd);
}

static void embed(const mixed *g, row_range r) {
    const ptrdiff_t C = g->config.n_embd;
    const float *wte = g->params + g->table.outside[WTE].at, *wpe = g->params + g->table.outside[WPE].at;
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++) {
        float *h = g->h0 + i * g->C, *x = g->x + i * g->C;
        const float *token = wte + g->tokens[i] * C, *position = wpe + g->positions[i] * C;
        for (ptrdiff_t c = 0; c < g->C; c += VL) {
            const int n = (int)min_of(VL, C - c);
            store(x + c, n > 0 ? load_n(token + c, n) + load_n(position + c, n) : (vec){0});
        }
        const vec rstd = rstd_of(x, g->C, C);
        g->rstd0[i] = rstd[0];
        for (ptrdiff_t c = 0; c < g->C; c += VL) store(h + c, load(x + c) * rstd), store(x + c, load(x + c) * rstd);
    }
}

static void qkv_forward(const mixed *g, ptrdiff_t layer, row_range r) {
    const mixed_layer y = layer_of(g, layer);
    normalise(g, r, y.h1, y.rstd1);
    to_both(product_of(g->x_rows, g->ld_c, r, g->C, g->forward + layer_weight(g, layer, QKV).forward), BOTH, r, y.qkv,
            g->ld_3a, y.qkv_pairs, 3 * g->A);
}

static void fc1_forward(const mixed *g, const mixed_layer *y, ptrdiff_t layer, row_range r) {
    const pair *copy = g->forward + layer_weight(g, layer, FC1).forward;
    const tile_arguments t = product_of(g->x_rows, g->ld_c, r, g->C, copy);
    if (g->f->in_tiles) {
        to_both(t, RELU, r, g->f_rows, g->ld_f, y->a, g->F);
        return;
    }
    to_floats(t, STORE, r, g->wide, g->F);
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i += 2)
        activate_two(g->f, forms_at(g->f_rows, g->ld_f, y->a, i), y->h, g->wide + i * g->F, g->F);
}

static void block_forward(const mixed *g, ptrdiff_t layer, row_range r) {
    const mixed_layer y = layer_of(g, layer);
    to_floats(product_of(g->o_rows, g->ld_a, r, g->A, g->forward + layer_weight(g, layer, WO).forward), ADD, r, g->x, g->C);
    normalise(g, r, y.h2, y.rstd2);
    fc1_forward(g, &y, layer, r);
    to_floats(product_of(g->f_rows, g->ld_f, r, g->F, g->forward + layer_weight(g, layer, FC2).forward), ADD, r, g->x,
              g->C);
}

static void lm_head_forward(const mixed *g, row_range r) {
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i += 2)
        round_two(forms_at(g->x_rows, g->ld_c, g->x_pairs, i), g->x + i * g->C, g->C);
    to_floats(product_of(g->x_rows, g->ld_c, r, g->C, g->forward + g->lm_head.forward), STORE, r, g->logits, g->V);
}

/* logits become their gradient, row_loss the loss */
static void loss_rows(const mixed *g, row_range r) {
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++)
        g->row_loss[i] = loss_row(g->logits + i * g->V, g->targets[i], g->row_weight[i], g->V, g->config.vocab_size);
}

static void forward_rows(void *context, ptrdiff_t item) {
    const mixed_phase *p = context;
    const mixed *g = p->g;
    const row_range r = block_at(item, g->N, g->row_block);
    if (p->layer == 0) embed(g, r);
    else block_forward(g, p->layer - 1, r);
    if (p->layer < g->L) qkv_forward(g, p->layer, r);
    else lm_head_forward(g, r);
}

/* Attention takes memory for each thread: every worker asks for items until none is left. */
static void run_heads(mixed_phase *p, mgf_pool *pool, mgf_task *worker) {
    const mixed *g = p->g;
    const ptrdiff_t mean = g->N / g->B + 1;
    p->chunk = max_of(1, HEAD_WORK / (mean * mean)), p->items = blocks_of(g->B * g->H, p->chunk);
    atomic_store(&p->next, 0);
    mgf_pool_run(pool, min_of(mgf_pool_threads(pool), p->items), worker, p);
}
/* the pairs of (document, head) of the next item; none when all are taken */
INLINE row_range next_heads(mixed_phase *p) {
    const ptrdiff_t item = atomic_fetch_add(&p->next, 1);
    return item < p->items ? block_at(item, p->g->B * p->g->H, p->chunk) : (row_range){0, 0};
}

static void forward_heads(void *context, ptrdiff_t worker) {
    mixed_phase *p = context;
    const mixed *g = p->g;
    for (row_range heads; (heads = next_heads(p)).rows;)
        for (ptrdiff_t i = heads.first; i < heads.first + heads.rows; i++)
            attend(g, g->o_rows, head_at(g, p->layer, i / g->H, i % g->H, worker));
}

static void forward(mixed *g, mgf_pool *pool) {
    mixed_phase p = {.g = g};
    g->row_block = row_block_size(g->N, mgf_pool_threads(pool));
    for (p.layer = 0; p.layer <= g->L; p.layer++) {
        mgf_pool_run(pool, row_blocks(g), forward_rows, &p);
        if (p.layer < g->L) run_heads(&p, pool, forward_heads);
    }
}

/* ---- backward */

/* dx += the norm's gradient at dh; both forms of dx, if anything takes them */
static void normalise_backward(const mixed *g, row_range r, row_pairs h, const float *rstd, bfloat16 *rows,
                               row_pairs pairs) {
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i += 2) {
        const both_forms to = rows ? forms_at(rows, g->ld_c, pairs, i) : (both_forms){0};
        normalise_two_backward(to, g->dx + i * g->C, g->dh + i * g->C, h, rstd + i, i, g->C, g->config.n_embd);
    }
}

/* d f'(h) for d = dx fc2 */
static void fc2_backward(const mixed *g, const mixed_layer *y, ptrdiff_t layer, row_range r) {
    tile_arguments t = product_of(g->x_rows, g->ld_c, r, g->C, g->backward + layer_weight(g, layer, FC2).backward);
    if (g->f->in_tiles) {
        t.mask = y->h;
        to_both(t, MASKED, r, g->f_rows, g->ld_f, g->df, g->F);
        return;
    }
    to_floats(t, STORE, r, g->wide, g->F);
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i += 2)
        activate_two_backward(g->f, forms_at(g->f_rows, g->ld_f, g->df, i), y->h, g->wide + i * g->F, g->F);
}

/* inverts block_forward down to the attention's output */
static void block_backward(const mixed *g, ptrdiff_t layer, row_range r) {
    const mixed_layer y = layer_of(g, layer);
    fc2_backward(g, &y, layer, r);
    to_floats(product_of(g->f_rows, g->ld_f, r, g->F, g->backward + layer_weight(g, layer, FC1).backward), STORE, r, g->dh,
              g->C);
    normalise_backward(g, r, y.h2, y.rstd2, g->x_rows, g->dx1);
    to_both(product_of(g->x_rows, g->ld_c, r, g->C, g->backward + layer_weight(g, layer, WO).backward), BOTH, r, g->o_rows,
            g->ld_a, g->d_o, g->A);
}

/* inverts qkv_forward; nothing takes the gradient below the lowest layer as bfloat16 */
static void qkv_backward(const mixed *g, ptrdiff_t layer, row_range r) {
    const mixed_layer y = layer_of(g, layer);
    to_floats(product_of(g->dqkv_rows, g->ld_3a, r, 3 * g->A, g->backward + layer_weight(g, layer, QKV).backward), STORE, r,
              g->dh, g->C);
    normalise_backward(g, r, y.h1, y.rstd1, layer ? g->x_rows : NULL, g->dx2);
}

/* inverts lm_head_forward; the rows of the logits' gradient take the place of the logits */
static void lm_head_backward(const mixed *g, row_range r) {
    loss_rows(g, r);
    bfloat16 *rows = (bfloat16 *)g->logits;
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i += 2)
        round_two(forms_at(rows, 2 * g->V, g->dlogits, i), g->logits + i * g->V, g->V);
    tile_arguments t = product_of(rows, 2 * g->V, r, g->V, g->backward + g->lm_head.backward);
    t.c = g->dx + r.first * g->C, t.ld_c = g->C;
    to_both(t, ALL_THREE, r, g->x_rows, g->ld_c, g->dx2, g->C);
}

static void backward_rows(void *context, ptrdiff_t item) {
    const mixed_phase *p = context;
    const mixed *g = p->g;
    const row_range r = block_at(item, g->N, g->row_block);
    if (p->layer == g->L - 1) lm_head_backward(g, r);
    else qkv_backward(g, p->layer + 1, r);
    if (p->layer >= 0) {
        block_backward(g, p->layer, r);
        return;
    }
    for (ptrdiff_t i = r.first; i < r.first + r.rows; i++)
        normalise_row_backward(g->dx + i * g->C, g->h0 + i * g->C, g->rstd0[i], g->C, g->config.n_embd);
}

static void backward_heads(void *context, ptrdiff_t worker) {
    mixed_phase *p = context;
    const mixed *g = p->g;
    for (row_range heads; (heads = next_heads(p)).rows;)
        for (ptrdiff_t i = heads.first; i < heads.first + heads.rows; i++)
            attend_backward(g, g->o_rows, head_at(g, p->layer, i / g->H, i % g->H, worker));
}

static void lm_head_gradient(void *context, ptrdiff_t item) {
    const mixed *g = ((const mixed_phase *)context)->g;
    weight_gradient(g, g->lm_head, item, g->dlogits, g->x_pairs);
}
/* from the layer's last weight to its first: fc2's rows are the longest, and a long item at the end keeps threads waiting */
static void layer_gradients(void *context, ptrdiff_t item) {
    const mixed_phase *p = context;
    const mixed *g = p->g;
    const mixed_layer y = layer_of(g, p->layer);
    layer_weight_id id = FC2;
    for (ptrdiff_t blocks; item >= (blocks = weight_blocks(g->of_layer[id])); id--) item -= blocks;
    const weight w = layer_weight(g, p->layer, id);
    switch (id) {
    case QKV: weight_gradient(g, w, item, g->dqkv, y.h1); break;
    case WO: weight_gradient(g, w, item, g->dx1, y.o); break;
    case FC1: weight_gradient(g, w, item, g->df, y.h2); break;
    default: weight_gradient(g, w, item, g->dx2, y.a);
    }
}

static void backward(mixed *g, mgf_pool *pool) {
    mixed_phase p = {.g = g};
    ptrdiff_t items = 0;
    for (int id = QKV; id < WEIGHTS; id++) items += weight_blocks(g->of_layer[id]);
    for (p.layer = g->L - 1; p.layer >= -1; p.layer--) {
        mgf_pool_run(pool, row_blocks(g), backward_rows, &p);
        if (p.layer == g->L - 1) mgf_pool_run(pool, weight_blocks(g->lm_head), lm_head_gradient, &p);
        if (p.layer < 0) break;
        run_heads(&p, pool, backward_heads);
        mgf_pool_run(pool, items, layer_gradients, &p);
    }
    embedding_gradients(g);
}

#endif
