/* Shapes and memory of exact.c: where the parameters lie in their flat buffer, the pieces of a workspace. */
#ifndef MGF_EXACT_LAYOUT_H
#define MGF_EXACT_LAYOUT_H

#include "exact/math.h"
#include "microgpt_fast.h"

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
    ptrdiff_t L, C, H, D, F, V, block; /* layers, n_embd, heads, head_dim, 4 n_embd, vocabulary, block_size */
    ptrdiff_t n, T;                    /* positions at hand; distance between rows of activations */
    ptrdiff_t keys;                    /* rows of e for each head */
    int relu2;
    double mean_scale, head_scale; /* C^-1, (D^0.5)^-1 */
    unsigned ask;                  /* lanes for which the library is always asked: none or all */
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

/* Offsets of a layer's matrices in the flat buffer; wq, wk and wv are neighbours and count as one [3C, C]. */
typedef struct {
    ptrdiff_t qkv, wo, fc1, fc2;
} layer_offsets;

INLINE ptrdiff_t wpe_at(const model *g) { return g->V * g->C; }
INLINE ptrdiff_t lm_head_at(const model *g) { return (g->V + g->block) * g->C; }
INLINE ptrdiff_t layer_at(const model *g, ptrdiff_t layer) {
    return (2 * g->V + g->block) * g->C + layer * 12 * g->C * g->C;
}
INLINE layer_offsets offsets_of(const model *g, ptrdiff_t layer) {
    ptrdiff_t at = layer_at(g, layer), square = g->C * g->C;
    return (layer_offsets){at, at + 3 * square, at + 4 * square, at + 8 * square};
}
INLINE ptrdiff_t num_params(const model *g) { return layer_at(g, g->L); }

/* Whole cache lines; but no multiple of 4 lines, or else a column would fall into few sets of the cache. */
INLINE ptrdiff_t row_stride(ptrdiff_t n) {
    ptrdiff_t lines = (n + 7) / 8;
    return (lines + (lines % 4 == 0)) * 8;
}

/* Cuts consecutive pieces of whole cache lines from a buffer; with no buffer it only counts. */
typedef struct {
    char *base;
    size_t used;
} arena;
INLINE double *take(arena *from, ptrdiff_t count) {
    double *piece = from->base ? (double *)(void *)(from->base + from->used) : NULL;
    from->used += (size_t)(count + 7) / 8 * 64;
    return piece;
}

INLINE layer_values take_layer(const model *g, arena *from) {
    ptrdiff_t C = g->C, T = g->T;
    layer_values v;
    v.x = take(from, C * T);
    v.ms_a = take(from, T), v.scale_a = take(from, T), v.a = take(from, C * T);
    v.qkv = take(from, 3 * C * T);
    v.e = take(from, g->H * g->keys * T), v.total = take(from, g->H * T), v.inverse = take(from, g->H * T);
    v.o = take(from, C * T), v.y = take(from, C * T);
    v.ms_b = take(from, T), v.scale_b = take(from, T), v.b = take(from, C * T);
    v.r = take(from, g->F * T), v.f = g->relu2 ? take(from, g->F * T) : v.r;
    return v;
}

INLINE layer_values values_of(const model *g, ptrdiff_t layer) {
    arena from = {(char *)(g->layers + layer * g->layer_size), 0};
    return take_layer(g, &from);
}

/* What forward needs for n positions that see up to `keys` keys. */
static void lay_out_forward(model *g, arena *from, const mgf_config *config, ptrdiff_t layers, ptrdiff_t n,
                            ptrdiff_t keys) {
    const ptrdiff_t C = config->n_embd, H = config->n_head, T = row_stride(n);
    *g = (model){.L = config->n_layer,
                 .C = C,
                 .H = H,
                 .D = C / H,
                 .F = 4 * C,
                 .V = config->vocab_size,
                 .block = config->block_size,
                 .n = n,
                 .T = T,
                 .keys = (keys + 7) / 8 * 8,
                 .relu2 = config->activation == MGF_RELU2};
    g->x0 = take(from, C * T), g->ms_0 = take(from, T), g->scale_0 = take(from, T);
    g->x_out = take(from, C * T), g->z = take(from, g->V * T);
    g->total = take(from, T), g->inverse = take(from, T), g->p = take(from, T);
    g->weights = take(from, g->keys * T);
    g->left = (uint8_t *)take(from, (max_of(g->V, g->keys) + 7) / 8);
    arena one_layer = {NULL, 0};
    take_layer(g, &one_layer);
    g->layer_size = (ptrdiff_t)(one_layer.used / sizeof(double));
    g->layers = take(from, layers * g->layer_size);
}

static void lay_out_backward(model *g, arena *from) {
    ptrdiff_t C = g->C, T = g->T;
    g->dx = take(from, C * T), g->dc = take(from, C * T), g->df = take(from, g->F * T);
    g->dqkv = take(from, 3 * C * T);
    g->scores = take(from, g->keys * T);
    g->rows = take(from, g->n * row_stride(max_of(g->F, g->n))), g->more_rows = take(from, g->n * g->T);
    g->order = (ptrdiff_t *)(void *)take(from, 3 * C);
    g->first_order = (ptrdiff_t *)(void *)take(from, 3 * C);
    g->grads = take(from, num_params(g));
}

INLINE arena arena_in(void *memory) {
    return (arena){memory ? (char *)(((uintptr_t)memory + 63) & ~(uintptr_t)63) : NULL, 0};
}

/* Lays a workspace out for one document of n positions; returns how many bytes it takes (workspace may be
 * NULL). A shorter document takes no more. */
static size_t lay_out(model *g, const mgf_config *config, ptrdiff_t n, void *workspace) {
    arena from = arena_in(workspace);
    lay_out_forward(g, &from, config, config->n_layer, n, n);
    lay_out_backward(g, &from);
    return from.used + 64;
}

#endif
