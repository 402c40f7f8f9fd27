/* Shapes and memory of exact.c: where the parameters lie in their flat buffer, the pieces of a workspace. */
#ifndef MGF_EXACT_LAYOUT_H
#define MGF_EXACT_LAYOUT_H

#include "base/arena.h"
#include "exact/math.h"
#include "parameters.h"

/* What forward keeps of a layer for backward. */
typedef struct {
    double *x;                   /* [C, T]  the layer's input */
    double *ms_a, *scale_a, *a;  /* [T], [T], [C, T]  rmsnorm of x */
    double *qkv;                 /* [3C, T] */
    double *e, *total, *inverse; /* [H, keys, T], [H, T], [H, T]  exps (0 where key > query), sum, sum^-1 */
    double *o, *y;               /* [C, T]  attention's output; after wo and the residual */
    double *ms_b, *scale_b, *b;  /* rmsnorm of y */
    double *r, *f;               /* [4C, T]  max(., 0) of fc1's output; r or r^2 */
} layer_values;

typedef struct {
    parameter_table table;
    ptrdiff_t lm_head;                 /* where it begins in the flat buffer */
    ptrdiff_t L, C, H, D, F, V, block; /* layers, n_embd, heads, head_dim, feed-forward width, vocabulary, block_size */
    ptrdiff_t n, T;                    /* positions at hand; distance between rows of activations */
    ptrdiff_t keys;                    /* rows of e for each head */
    int relu2;
    double mean_scale, head_scale; /* C^-1, (D^0.5)^-1 */
    unsigned ask;                  /* lanes for which the library is always asked: none or all */
    int careful;                   /* keys that a query does not see are left out, not multiplied with 0 */
    const double *params;

    double *x0, *ms_0, *scale_0; /* [C, T], [T], [T]  the embedding and its rmsnorm */
    double *x_out, *z;           /* [C, T], [V, T]  lm_head's input; logits, their exps, their gradient */
    double *total, *inverse, *p; /* [T]  sum of exps, its power -1, the target's probability */
    uint8_t *left;               /* [max(V, keys)]  lanes that are left to the library */
    double *layers;
    ptrdiff_t layer_size;

    double *dx, *dc, *df, *dqkv;    /* [C, T], [C, T], [4C, T], [3C, T] */
    double *weights, *scores;       /* [keys, T]  a head's weights; their gradient, then that of its logits */
    double *rows, *more_rows;       /* [n, max(4C, n)], [n, n], padded: matrices with positions as rows */
    ptrdiff_t *order, *first_order; /* [3C]  see qkv_order */
    double *grads;                  /* [P] */
} model;

/* Where a layer's matrices begin in the flat buffer; wq, wk and wv are neighbours and count as one [3C, C]. */
typedef struct {
    ptrdiff_t qkv, wo, fc1, fc2;
} layer_offsets;

INLINE layer_offsets offsets_of(const model *g, ptrdiff_t layer) {
    const mgf_parameter *p = g->table.layer;
    const ptrdiff_t base = layer * g->table.layer_size;
    return (layer_offsets){base + p[ATTN_WQ].at, base + p[ATTN_WO].at, base + p[MLP_FC1].at, base + p[MLP_FC2].at};
}

/* Whole cache lines; but no multiple of 4 lines, or else a column would fall into few sets of the cache. */
INLINE ptrdiff_t position_stride(ptrdiff_t n) {
    ptrdiff_t lines = (n + 7) / 8;
    return (lines + (lines % 4 == 0)) * 8;
}

INLINE layer_values take_layer(const model *g, arena *from) {
    ptrdiff_t C = g->C, T = g->T;
    layer_values v;
    v.x = TAKE_REALS(from, C * T);
    v.ms_a = TAKE_REALS(from, T), v.scale_a = TAKE_REALS(from, T), v.a = TAKE_REALS(from, C * T);
    v.qkv = TAKE_REALS(from, 3 * C * T);
    v.e = TAKE_REALS(from, g->H * g->keys * T), v.total = TAKE_REALS(from, g->H * T),
    v.inverse = TAKE_REALS(from, g->H * T);
    v.o = TAKE_REALS(from, C * T), v.y = TAKE_REALS(from, C * T);
    v.ms_b = TAKE_REALS(from, T), v.scale_b = TAKE_REALS(from, T), v.b = TAKE_REALS(from, C * T);
    v.r = TAKE_REALS(from, g->F * T), v.f = g->relu2 ? TAKE_REALS(from, g->F * T) : v.r;
    return v;
}

INLINE layer_values values_of(const model *g, ptrdiff_t layer) {
    arena from = {(char *)(g->layers + layer * g->layer_size), 0};
    return take_layer(g, &from);
}

/* What forward needs for n positions that see up to `keys` keys. */
static void lay_out_forward(model *g, arena *from, const mgf_config *config, ptrdiff_t layers, ptrdiff_t n,
                            ptrdiff_t keys) {
    const ptrdiff_t C = config->n_embd, H = config->n_head, T = position_stride(n);
    *g = (model){.L = config->n_layer,
                 .C = C,
                 .H = H,
                 .D = C / H,
                 .table = parameters_of(config),
                 .V = config->vocab_size,
                 .block = config->block_size,
                 .n = n,
                 .T = T,
                 .keys = (keys + 7) / 8 * 8,
                 .relu2 = config->activation == MGF_RELU2};
    g->F = g->table.layer[MLP_FC1].rows, g->lm_head = g->table.outside[LM_HEAD].at;
    g->x0 = TAKE_REALS(from, C * T), g->ms_0 = TAKE_REALS(from, T), g->scale_0 = TAKE_REALS(from, T);
    g->x_out = TAKE_REALS(from, C * T), g->z = TAKE_REALS(from, g->V * T);
    g->total = TAKE_REALS(from, T), g->inverse = TAKE_REALS(from, T), g->p = TAKE_REALS(from, T);
    g->weights = TAKE_REALS(from, g->keys * T);
    g->left = take(from, max_of(g->V, g->keys), 1);
    arena one_layer = {NULL, 0};
    take_layer(g, &one_layer);
    g->layer_size = (ptrdiff_t)(one_layer.used / sizeof(double));
    g->layers = TAKE_REALS(from, layers * g->layer_size);
}

static void lay_out_backward(model *g, arena *from) {
    ptrdiff_t C = g->C, T = g->T;
    g->dx = TAKE_REALS(from, C * T), g->dc = TAKE_REALS(from, C * T), g->df = TAKE_REALS(from, g->F * T);
    g->dqkv = TAKE_REALS(from, 3 * C * T);
    g->scores = TAKE_REALS(from, g->keys * T);
    g->rows = TAKE_REALS(from, g->n * position_stride(max_of(g->F, g->n))), g->more_rows = TAKE_REALS(from, g->n * g->T);
    g->order = take(from, 3 * C, sizeof(ptrdiff_t));
    g->first_order = take(from, 3 * C, sizeof(ptrdiff_t));
    g->grads = TAKE_REALS(from, g->table.count);
}

/* Lays a workspace out for one document of n positions; returns how many bytes it takes (workspace may be
 * NULL). A shorter document takes no more. */
static size_t lay_out(model *g, const mgf_config *config, ptrdiff_t n, void *workspace) {
    arena from = arena_in(workspace);
    lay_out_forward(g, &from, config, config->n_layer, n, n);
    lay_out_backward(g, &from);
    return arena_size(&from);
}

#endif
