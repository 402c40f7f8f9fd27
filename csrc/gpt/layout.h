/* Where things lie: the parameters in their flat buffer, and the workspace of a training step. */
#ifndef MGF_GPT_LAYOUT_H
#define MGF_GPT_LAYOUT_H

#include <string.h>

#include "base/gemm.h"
#include "microgpt_fast.h"

/* One weight matrix [O, C]: where it begins in the flat buffer, and its packed transpose in the workspace. */
typedef struct {
    ptrdiff_t at, O, C, packed_at;
} weight;

/* the matrices of a layer; wq, wk and wv are neighbours and count as one [3C, C] */
enum { QKV, WO, FC1, FC2, MATRICES };

typedef struct {
    real *h1, *rstd1; /* [N, C], [N]    what the attention reads: rmsnorm of the residual stream */
    real *qkv;        /* [N, 3C] */
    real *o, *lse;    /* [N, C], [N, H] the attention's output and softmax statistics */
    real *h2, *rstd2; /* [N, C], [N]    what the feed-forward block reads */
    real *r, *a;      /* [N, 4C]        max(h2 fc1^T, 0), and its square (RELU2) or r itself */
} layer_activations;

typedef struct {
    mgf_config config;
    ptrdiff_t L, C, H, D, F, V, T;     /* F = 4C */
    ptrdiff_t N, B;                    /* rows and documents of the batch at hand */
    ptrdiff_t ld_c, ld_3c, ld_f, ld_v; /* row strides of [N, C], [N, 3C], [N, F], [N, V] */

    int32_t *tokens, *targets, *positions, *cu_seqlens; /* the packed batch */
    real *row_weight, *row_loss;                        /* [N] 1 / (B n), cross-entropy */

    real *packed;         /* transposes of all weights, for the forward pass */
    real *h0, *rstd0, *x; /* [N, C] normalised embedding; [N, C] residual stream, in the end the head's input */
    real *logits;         /* [N, V] logits, then their gradient */
    real *layers;         /* layer_activations of every layer */
    ptrdiff_t layer_size;

    /* gradients, shared by the layers */
    real *dx, *dx1;  /* [N, C] of the residual stream after the layer, and between its two blocks */
    real *dh, *d_o;  /* [N, C] of a block's normalised input; of the attention's output */
    real *df, *dqkv; /* [N, F], [N, 3C] */
    real *delta;     /* [N, H] */
    real *grads;     /* [P] of a training step */

    const real *params;
    int accumulate;      /* grads += rather than = */
    ptrdiff_t row_block; /* rows that pass through a layer's matrices together */
} gpt;

INLINE ptrdiff_t num_params(const mgf_config *c) {
    return (2 * c->vocab_size + c->block_size) * c->n_embd + c->n_layer * 12 * c->n_embd * c->n_embd;
}

/* Matrix 0 is lm_head, 1 + l * MATRICES + m is matrix m of layer l. */
INLINE ptrdiff_t weight_count(const gpt *g) { return 1 + g->L * MATRICES; }
INLINE weight weight_at(const gpt *g, ptrdiff_t index) {
    const ptrdiff_t C = g->C, square = C * C, head = padded(g->V) * C;
    if (index == 0) return (weight){(g->V + g->T) * C, g->V, C, 0};
    ptrdiff_t layer = (index - 1) / MATRICES;
    ptrdiff_t at = (2 * g->V + g->T) * C + layer * 12 * square;
    ptrdiff_t packed_layer = packed_size(3 * C, C) + packed_size(C, C) + packed_size(g->F, C) + packed_size(C, g->F);
    ptrdiff_t packed_at = head + layer * packed_layer;
    switch ((index - 1) % MATRICES) {
    case QKV: return (weight){at, 3 * C, C, packed_at};
    case WO: return (weight){at + 3 * square, C, C, packed_at + packed_size(3 * C, C)};
    case FC1: return (weight){at + 4 * square, g->F, C, packed_at + packed_size(3 * C, C) + packed_size(C, C)};
    default:
        return (weight){at + 8 * square, C, g->F,
                        packed_at + packed_size(3 * C, C) + packed_size(C, C) + packed_size(g->F, C)};
    }
}
INLINE weight layer_weight(const gpt *g, ptrdiff_t layer, int matrix) {
    return weight_at(g, 1 + layer * MATRICES + matrix);
}
INLINE ptrdiff_t packed_total(const gpt *g) {
    weight last = weight_at(g, weight_count(g) - 1);
    return last.packed_at + packed_size(last.O, last.C);
}

/* Row stride of [N, n]: whole cache lines, an odd number of them, so that a column does not fall into few cache sets. */
INLINE ptrdiff_t row_stride(ptrdiff_t n) {
    const ptrdiff_t line = 64 / (ptrdiff_t)sizeof(real);
    ptrdiff_t lines = (n + line - 1) / line;
    return (lines + (lines % 2 == 0)) * line;
}

/* Cuts consecutive pieces of whole cache lines from a buffer; with no buffer it only counts. */
typedef struct {
    char *base;
    size_t used;
} arena;
INLINE void *take(arena *a, ptrdiff_t count, size_t size) {
    void *piece = a->base ? a->base + a->used : NULL;
    a->used += ((size_t)count * size + 63) / 64 * 64;
    return piece;
}
#define TAKE_REALS(a, count) ((real *)take(a, count, sizeof(real)))

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
        .r = TAKE_REALS(a, N * g->ld_f),
    };
    y.a = g->config.activation == MGF_RELU2 ? TAKE_REALS(a, N * g->ld_f) : y.r;
    return y;
}
INLINE layer_activations activations(const gpt *g, ptrdiff_t layer) {
    arena a = {(char *)(g->layers + layer * g->layer_size), 0};
    return layer_pieces(g, &a, g->N);
}

/* Lays the workspace out for up to N rows and B documents; returns how many bytes it takes (workspace may be NULL). */
static size_t gpt_lay_out(gpt *g, const mgf_config *c, ptrdiff_t N, ptrdiff_t B, void *workspace) {
    *g = (gpt){.config = *c,
               .L = c->n_layer,
               .C = c->n_embd,
               .H = c->n_head,
               .D = c->n_embd / c->n_head,
               .F = 4 * c->n_embd,
               .V = c->vocab_size,
               .T = c->block_size,
               .N = N,
               .B = B};
    g->ld_c = row_stride(g->C), g->ld_3c = row_stride(3 * g->C), g->ld_f = row_stride(g->F), g->ld_v = row_stride(g->V);
    arena a = {workspace ? (char *)(((uintptr_t)workspace + 63) & ~(uintptr_t)63) : NULL, 0};
    g->tokens = take(&a, N, sizeof(int32_t)), g->targets = take(&a, N, sizeof(int32_t));
    g->positions = take(&a, N, sizeof(int32_t)), g->cu_seqlens = take(&a, B + 1, sizeof(int32_t));
    g->row_weight = TAKE_REALS(&a, N), g->row_loss = TAKE_REALS(&a, N);
    g->packed = TAKE_REALS(&a, packed_total(g));
    g->h0 = TAKE_REALS(&a, N * g->ld_c), g->rstd0 = TAKE_REALS(&a, N), g->x = TAKE_REALS(&a, N * g->ld_c);
    g->logits = TAKE_REALS(&a, N * g->ld_v);
    arena one_layer = {NULL, 0};
    layer_pieces(g, &one_layer, N);
    g->layer_size = (ptrdiff_t)(one_layer.used / sizeof(real));
    g->layers = TAKE_REALS(&a, g->L * g->layer_size);
    g->dx = TAKE_REALS(&a, N * g->ld_c), g->dx1 = TAKE_REALS(&a, N * g->ld_c);
    g->dh = TAKE_REALS(&a, N * g->ld_c), g->d_o = TAKE_REALS(&a, N * g->ld_c);
    g->df = TAKE_REALS(&a, N * g->ld_f), g->dqkv = TAKE_REALS(&a, N * g->ld_3c);
    g->delta = TAKE_REALS(&a, N * g->H);
    g->grads = TAKE_REALS(&a, num_params(c));
    return a.used + 64;
}

/* rows of a batch of B documents */
INLINE ptrdiff_t rows_in(const int32_t *lengths, ptrdiff_t B) {
    ptrdiff_t rows = 0;
    for (ptrdiff_t b = 0; b < B; b++) rows += lengths[b];
    return rows;
}

#endif
