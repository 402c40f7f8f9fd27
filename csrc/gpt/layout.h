/* Where things lie: the parameters in their flat buffer, and the workspace of a training step. */
#ifndef MGF_GPT_LAYOUT_H
#define MGF_GPT_LAYOUT_H

#include <math.h>
#include <string.h>

#include "base/arena.h"
#include "base/gemm.h"
#include "parameters.h"

/* One weight matrix [O, C] as products take it: where it begins in the flat buffer, and its packed transpose in the
 * workspace. */
typedef struct {
    ptrdiff_t at, O, C, packed_at;
} weight;

/* the weights of a layer; wq, wk and wv are neighbours in the table and count as one [3C, C], fc1 and fc3 as one [2F, C] */
typedef enum { QKV, WO, FC1, FC2, WEIGHTS } layer_weight_id;

typedef struct {
    real *h1, *rstd1; /* [N, C], [N]    what the attention reads: rmsnorm of the residual stream */
    real *n1, *n2;    /* [N, C]         h1 and h2 before their gains; without gains the same arrays */
    real *qkv;        /* [N, 3C] */
    real *o, *lse;    /* [N, C], [N, H] the attention's output and softmax statistics */
    real *h2, *rstd2; /* [N, C], [N]    what the feed-forward block reads */
    real *h, *a;      /* [N, F]         h2 fc1^T, and f of it; one and the same where f' can do with a; gated: h [N, 2F] */
    real *qk_rstd;    /* [2H, N]        with qk_norm */
    real *before;     /* [N, C]         the stream before residual_scalars */
} layer_activations;

/* gradients that are sums over rows; see options.h */
enum {
    OF_ATTN_NORM,
    OF_MLP_NORM,
    OF_OUTER_NORM,
    OF_RESIDUAL_SCALE,
    OF_EMBEDDING_SCALE,
    OF_ATTN_MIX,
    OF_MLP_MIX,
    OF_OUT_MIX,
    PARTS
};

typedef struct {
    mgf_config config;
    parameter_table table;
    ptrdiff_t L, C, H, D, F, V, T;     /* F: width of the feed-forward layers */
    ptrdiff_t N, B;                    /* rows and documents of the batch at hand */
    ptrdiff_t ld_c, ld_3c, ld_f, ld_v; /* row strides of [N, C], [N, 3C], [N, F], [N, V] */
    ptrdiff_t ld_h;                    /* of h and df: ld_f, or that of [N, 2F] */
    real scale;                        /* of the attention's scores */

    int32_t *tokens, *targets, *positions, *cu_seqlens; /* the packed batch */
    real *row_weight, *row_loss;                        /* [N] 1 / (B n), cross-entropy */

    real *packed;         /* transposes of all weights, for the forward pass */
    real *h0, *rstd0, *x; /* [N, C] normalised embedding; [N, C] residual stream, in the end the head's input */
    real *logits;         /* [N, V] logits, then their gradient */
    real *layers;         /* layer_activations of every layer */
    ptrdiff_t layer_size;

    /* of options; without them `top` is x, and the others are nothing */
    real *turns;               /* [T, D] of rope */
    real *top, *n_top;         /* [N, C] what lm_head reads: the final norm, after and before its gain */
    real *rstd_top;            /* [N] */
    real *x0, *dx0;            /* [N, C] what residual_scalars add, and its gradient */
    real *capped;              /* [N, V] logits */
    real *parts[PARTS];        /* [N, C] */
    ptrdiff_t span, ld_k;      /* of mixture.h: sublayers that are added up, and the row stride of [N, K] */
    real *states, *state_rstd; /* [2L + 1, N, C], [2L + 1, N] */
    real *alpha, *dalpha;      /* [2L + 1, N, K], [N, K] */
    real *dvalues, *dmix;      /* [K, N, C], [N, C] */

    /* gradients, shared by the layers */
    real *dx, *dx1;  /* [N, C] of the residual stream after the layer, and between its two blocks */
    real *dh, *d_o;  /* [N, C] of a block's normalised input; of the attention's output */
    real *df, *dqkv; /* [N, F], [N, 3C] */
    real *delta;     /* [N, H] */
    real *grads;     /* [P] of a training step */

    const activation_functions *f;
    weight lm_head, of_layer[WEIGHTS]; /* those of layers: of layer 0 */
    ptrdiff_t packed_layer;            /* from a layer's packed weights to the next one's */
    ptrdiff_t packed_size;             /* elements of all packed weights */

    const real *params;
    int accumulate;      /* grads += rather than = */
    ptrdiff_t row_block; /* rows that pass through a layer's matrices together */
} gpt;

/* the weight that begins with parameter p and takes O rows; its packed transpose goes to *packed */
INLINE weight place_weight(const mgf_parameter *p, ptrdiff_t O, ptrdiff_t *packed) {
    weight w = {p->at, O, p->columns, *packed};
    *packed += packed_size(O, p->columns);
    return w;
}

/* where every weight lies */
INLINE void place_weights(gpt *g) {
    const mgf_parameter *p = g->table.layer;
    ptrdiff_t packed = 0;
    g->lm_head = place_weight(&g->table.outside[LM_HEAD], g->V, &packed);
    const ptrdiff_t first_layer = packed;
    g->of_layer[QKV] = place_weight(&p[ATTN_WQ], p[ATTN_WQ].rows + p[ATTN_WK].rows + p[ATTN_WV].rows, &packed);
    g->of_layer[WO] = place_weight(&p[ATTN_WO], p[ATTN_WO].rows, &packed);
    g->of_layer[FC1] = place_weight(&p[MLP_FC1], p[MLP_FC1].rows + p[MLP_FC3].rows, &packed);
    g->of_layer[FC2] = place_weight(&p[MLP_FC2], p[MLP_FC2].rows, &packed);
    g->packed_layer = packed - first_layer;
    g->packed_size = first_layer + g->L * g->packed_layer;
}

INLINE weight layer_weight(const gpt *g, ptrdiff_t layer, layer_weight_id id) {
    weight w = g->of_layer[id];
    w.at += layer * g->table.layer_size, w.packed_at += layer * g->packed_layer;
    return w;
}

/* Row stride of [N, n]: whole cache lines, an odd number of them, so that a column does not fall into few cache sets. */
INLINE ptrdiff_t row_stride(ptrdiff_t n) {
    const ptrdiff_t line = 64 / (ptrdiff_t)sizeof(real);
    ptrdiff_t lines = (n + line - 1) / line;
    return (lines + (lines % 2 == 0)) * line;
}

INLINE real *take_if(int wanted, arena *a, ptrdiff_t count) { return wanted ? TAKE_REALS(a, count) : NULL; }

/* what options need beside the layers, forward; after x, h0 and logits, for N rows */
static void lay_out_options(gpt *g, arena *a, ptrdiff_t N) {
    const mgf_config *c = &g->config;
    g->top = c->final_norm ? TAKE_REALS(a, N * g->ld_c) : g->x;
    g->n_top = c->final_norm && c->norm_gain ? TAKE_REALS(a, N * g->ld_c) : g->top;
    g->rstd_top = take_if(c->final_norm, a, N);
    g->x0 = c->residual_scalars && c->norm_gain ? TAKE_REALS(a, N * g->ld_c) : g->h0;
    g->capped = take_if(c->logit_softcap != 0, a, N * g->ld_v);
    const int mixes = mixes_values(c);
    const ptrdiff_t states = 2 * g->L + 1;
    g->span = c->residual == MGF_ATTENTION_BLOCK ? 2 * c->layers_per_block : 1, g->ld_k = row_stride(states);
    g->states = take_if(mixes, a, states * N * g->ld_c), g->state_rstd = take_if(mixes, a, states * N);
    g->alpha = take_if(mixes, a, states * N * g->ld_k);
}
/* backward */
static void lay_out_option_gradients(gpt *g, arena *a, ptrdiff_t N) {
    g->dx0 = take_if(g->config.residual_scalars, a, N * g->ld_c);
    const int mixes = mixes_values(&g->config);
    g->dvalues = take_if(mixes, a, (2 * g->L + 1) * N * g->ld_c), g->dmix = take_if(mixes, a, N * g->ld_c);
    g->dalpha = take_if(mixes, a, N * g->ld_k);
    for (int i = OF_ATTN_MIX; i <= OF_OUT_MIX; i++) g->parts[i] = take_if(mixes, a, N * g->ld_c);
    for (int i = OF_ATTN_NORM; i <= OF_OUTER_NORM; i++) g->parts[i] = take_if(g->config.norm_gain, a, N * g->ld_c);
    for (int i = OF_RESIDUAL_SCALE; i <= OF_EMBEDDING_SCALE; i++)
        g->parts[i] = take_if(g->config.residual_scalars, a, N * g->ld_c);
}

/* the pieces of one layer's activations, from its part of the workspace */
INLINE layer_activations layer_pieces(const gpt *g, arena *a, ptrdiff_t N) {
    layer_activations y = {
        .h1 = TAKE_REALS(a, N * g->ld_c),
        .rstd1 = TAKE_REALS(a, N),
        .qkv = TAKE_REALS(a, N * g->ld_3c),
        .o = TAKE_REALS(a, N * g->ld_c),
        .lse = TAKE_REALS(a, N * g->H),
        .h2 = TAKE_REALS(a, N * g->ld_c),
        .rstd2 = TAKE_REALS(a, N),
        .h = TAKE_REALS(a, N * g->ld_h),
    };
    y.a = g->f->needs_input || g->config.gated ? TAKE_REALS(a, N * g->ld_f) : y.h;
    y.n1 = g->config.norm_gain ? TAKE_REALS(a, N * g->ld_c) : y.h1;
    y.n2 = g->config.norm_gain ? TAKE_REALS(a, N * g->ld_c) : y.h2;
    y.qk_rstd = take_if(g->config.qk_norm, a, N * 2 * g->H);
    y.before = take_if(g->config.residual_scalars, a, N * g->ld_c);
    return y;
}
INLINE layer_activations activations_of(const gpt *g, ptrdiff_t layer) {
    arena a = {(char *)(g->layers + layer * g->layer_size), 0};
    return layer_pieces(g, &a, g->N);
}

/* sizes, parameters and weights of a model */
SHARED void gpt_describe(gpt *g, const mgf_config *c) {
    *g = (gpt){
        .config = *c,
        .table = parameters_of(c),
        .L = c->n_layer,
        .C = c->n_embd,
        .H = c->n_head,
        .D = c->n_embd / c->n_head,
        .V = c->vocab_size,
        .T = c->block_size,
        .f = &activations[c->activation],
    };
    g->F = g->table.layer[MLP_FC1].rows;
    g->scale = (real)((c->qk_norm ? c->qk_norm_scale : 1) / sqrt((double)g->D));
    place_weights(g);
    g->ld_c = row_stride(g->C), g->ld_3c = row_stride(3 * g->C), g->ld_f = row_stride(g->F), g->ld_v = row_stride(g->V);
    g->ld_h = row_stride(g->of_layer[FC1].O);
}

/* Places the workspace for up to N rows and B documents; returns how many bytes it takes (workspace may be NULL). */
SHARED size_t gpt_place(gpt *g, ptrdiff_t N, ptrdiff_t B, void *workspace) {
    g->N = N, g->B = B;
    arena a = arena_in(workspace);
    g->turns = take_if(g->config.position == MGF_ROPE, &a, g->T * g->D); /* first: in the same place for all N */
    g->tokens = take(&a, N, sizeof(int32_t)), g->targets = take(&a, N, sizeof(int32_t));
    g->positions = take(&a, N, sizeof(int32_t)), g->cu_seqlens = take(&a, B + 1, sizeof(int32_t));
    g->row_weight = TAKE_REALS(&a, N), g->row_loss = TAKE_REALS(&a, N);
    g->packed = TAKE_REALS(&a, g->packed_size);
    g->h0 = TAKE_REALS(&a, N * g->ld_c), g->rstd0 = TAKE_REALS(&a, N), g->x = TAKE_REALS(&a, N * g->ld_c);
    g->logits = TAKE_REALS(&a, N * g->ld_v);
    lay_out_options(g, &a, N);
    arena one_layer = {NULL, 0};
    layer_pieces(g, &one_layer, N);
    g->layer_size = (ptrdiff_t)(one_layer.used / sizeof(real));
    g->layers = TAKE_REALS(&a, g->L * g->layer_size);
    g->dx = TAKE_REALS(&a, N * g->ld_c), g->dx1 = TAKE_REALS(&a, N * g->ld_c);
    g->dh = TAKE_REALS(&a, N * g->ld_c), g->d_o = TAKE_REALS(&a, N * g->ld_c);
    g->df = TAKE_REALS(&a, N * g->ld_h), g->dqkv = TAKE_REALS(&a, N * g->ld_3c);
    g->delta = TAKE_REALS(&a, N * g->H);
    lay_out_option_gradients(g, &a, N);
    g->grads = TAKE_REALS(&a, g->table.count);
    return arena_size(&a);
}

SHARED size_t gpt_lay_out(gpt *g, const mgf_config *c, ptrdiff_t N, ptrdiff_t B, void *workspace) {
    gpt_describe(g, c);
    return gpt_place(g, N, B, workspace);
}

/* rows of a batch of B documents */
INLINE ptrdiff_t rows_in(const int32_t *lengths, ptrdiff_t B) {
    ptrdiff_t rows = 0;
    for (ptrdiff_t b = 0; b < B; b++) rows += lengths[b];
    return rows;
}

#endif
