/* Where things lie in the workspace of a step in mixed precision.
 *
 * Documents have an even number of rows, so that pairs of rows belong to one document: one of odd length is followed by a
 * copy of its last row that weighs nothing in the loss. Widths are padded to whole LANES by zeros.
 */
#ifndef MGF_MIXED_LAYOUT_H
#define MGF_MIXED_LAYOUT_H

#include "base/activation.h"
#include "base/arena.h"
#include "base/blocks.h"
#include "mixed/weights.h"
#include "parameters.h"
#include "threads.h"

typedef enum { QKV, WO, FC1, FC2, WEIGHTS } layer_weight_id;

/* of the rows that threads read beyond a document's end there must be something, whatever it is */
enum { SLACK_ROWS = 32 };

typedef struct {
    row_pairs h1, o, h2, a; /* what a layer's matrices multiply: [C], [A], [C], [F] */
    row_pairs h;            /* [F] before the activation; a, where its gradient can do with that */
    bfloat16 *qkv;          /* [N, 3 A] */
    row_pairs qkv_pairs;    /* in one panel */
    float *rstd1, *rstd2;   /* [N] */
    float *largest, *share; /* [H, N] of a query's scores, in base 2; and 1 / the sum of their exponentials */
} mixed_layer;

/* what the attention of one head keeps, for T tokens in whole pairs of vectors */
typedef struct {
    pair *queries, *outputs;    /* [D / 2][T] transposed q and d_o, in pairs along D */
    float *scores, *dscores;    /* [T][QUERIES] */
    pair *p, *ds;               /* [T / 2][QUERIES], [KEYS / 2][T] pairs of keys */
    bfloat16 *p_rows, *ds_rows; /* [KEYS][T] */
    float *dq;                  /* [T][D] */
    float *delta;               /* [T] */
} head_scratch;

typedef struct {
    mgf_config config;
    parameter_table table;
    ptrdiff_t L, H, T;
    ptrdiff_t C, D, A, F, V;     /* padded: n_embd, a head, all heads, feed-forward, vocabulary */
    ptrdiff_t N, B;              /* rows and documents at hand */
    ptrdiff_t ld_c, ld_a, ld_3a; /* row strides of bfloat16 rows [N, C], [N, A], [N, 3 A], [N, F] */
    ptrdiff_t ld_f, ld_t;        /* ld_t: T in whole pairs of vectors */

    int32_t *tokens, *targets, *positions, *first_row; /* first_row [B + 1] */
    float *row_weight, *row_loss;

    pair *forward, *backward;                            /* all weights' copies */
    float *x, *h0, *rstd0;                               /* [N, C] residual stream, normalised embedding; [N] */
    float *logits, *dx, *dh, *wide;                      /* [N, V], [N, C], [N, C], [N, F] where an activation takes it */
    bfloat16 *x_rows, *o_rows, *f_rows, *dqkv_rows;      /* what the next product reads: [N, C], [N, A], [N, F], [N, 3 A] */
    row_pairs x_pairs, dlogits, dx1, dx2, df, dqkv, d_o; /* d_o in one panel */
    char *layers, *scratch;
    size_t layer_size, scratch_size;
    float *grads; /* [P] */

    const activation_functions *f;
    weight lm_head, of_layer[WEIGHTS];
    ptrdiff_t copies_of_layer, copies; /* pairs in the copies of a layer's weights, and of all */

    const float *params;
    int accumulate;              /* grads += rather than = */
    const struct update *update; /* not NULL: weights are moved as soon as their gradient is there, which is not kept */
    ptrdiff_t row_block;
} mixed;

/* an odd number of cache lines, so that a column does not fall into few cache sets */
INLINE ptrdiff_t row_stride(ptrdiff_t n) {
    const ptrdiff_t lines = (n * (ptrdiff_t)sizeof(bfloat16) + CACHE_LINE - 1) / CACHE_LINE;
    return (lines + (lines % 2 == 0)) * CACHE_LINE / (ptrdiff_t)sizeof(bfloat16);
}

INLINE bfloat16 *take_rows(arena *a, ptrdiff_t N, ptrdiff_t ld) { return take(a, (N + SLACK_ROWS) * ld, sizeof(bfloat16)); }
INLINE float *take_floats(arena *a, ptrdiff_t n) { return take(a, n + LANES, sizeof(float)); }

/* pairs of rows in panels, which are not a power of two apart */
INLINE row_pairs take_pairs(arena *a, ptrdiff_t N, ptrdiff_t width) {
    const ptrdiff_t panel = N / 2 * PANEL + LANES;
    return (row_pairs){take(a, (width + PANEL - 1) / PANEL * panel, sizeof(pair)), panel, PANEL};
}
/* in one panel, rows end to end */
INLINE row_pairs take_one_panel(arena *a, ptrdiff_t N, ptrdiff_t width) {
    return (row_pairs){take(a, (N / 2 + SLACK_ROWS) * width, sizeof(pair)), PANEL, width};
}

INLINE mixed_layer layer_pieces(const mixed *g, arena *a, ptrdiff_t N) {
    mixed_layer y = {
        .h1 = take_pairs(a, N, g->C),
        .o = take_pairs(a, N, g->A),
        .h2 = take_pairs(a, N, g->C),
        .a = take_pairs(a, N, g->F),
        .qkv = take_rows(a, N, g->ld_3a),
        .qkv_pairs = take_one_panel(a, N, 3 * g->A),
        .rstd1 = take_floats(a, N),
        .rstd2 = take_floats(a, N),
        .largest = take_floats(a, g->H * N + SLACK_ROWS),
        .share = take_floats(a, g->H * N + SLACK_ROWS),
    };
    y.h = g->f->needs_input ? take_pairs(a, N, g->F) : y.a;
    return y;
}
INLINE mixed_layer layer_of(const mixed *g, ptrdiff_t layer) {
    arena a = {g->layers + (size_t)layer * g->layer_size, 0};
    return layer_pieces(g, &a, g->N);
}

enum { QUERIES = 32, KEYS = 64 }; /* of the attention's blocks */

INLINE head_scratch scratch_pieces(const mixed *g, arena *a) {
    return (head_scratch){
        .queries = take(a, g->D / 2 * g->ld_t, sizeof(pair)),
        .outputs = take(a, g->D / 2 * g->ld_t, sizeof(pair)),
        .scores = take_floats(a, g->ld_t * QUERIES),
        .dscores = take_floats(a, KEYS * QUERIES),
        .p = take(a, g->ld_t / 2 * QUERIES, sizeof(pair)),
        .ds = take(a, KEYS / 2 * g->ld_t, sizeof(pair)),
        .p_rows = take_rows(a, KEYS, g->ld_t),
        .ds_rows = take_rows(a, KEYS, g->ld_t),
        .dq = take_floats(a, g->ld_t * g->D),
        .delta = take_floats(a, g->ld_t),
    };
}
INLINE head_scratch scratch_of(const mixed *g, ptrdiff_t worker) {
    arena a = {g->scratch + (size_t)worker * g->scratch_size, 0};
    return scratch_pieces(g, &a);
}

INLINE weight place_weight(ptrdiff_t at, dimension rows, dimension columns, ptrdiff_t *copies) {
    const weight w = {at, rows, columns, *copies, *copies};
    *copies += rows_of_weight(w) * columns_of_weight(w) / 2;
    return w;
}
INLINE void place_weights(mixed *g) {
    const mgf_parameter *p = g->table.layer;
    const ptrdiff_t D = g->config.n_embd / g->H, F = p[MLP_FC1].rows;
    const dimension C = plain_dimension(g->config.n_embd), A = heads_dimension(g->H, D);
    ptrdiff_t copies = 0;
    g->lm_head = place_weight(g->table.outside[LM_HEAD].at, plain_dimension(g->config.vocab_size), C, &copies);
    const ptrdiff_t first = copies;
    g->of_layer[QKV] = place_weight(p[ATTN_WQ].at, heads_dimension(3 * g->H, D), C, &copies);
    g->of_layer[WO] = place_weight(p[ATTN_WO].at, C, A, &copies);
    g->of_layer[FC1] = place_weight(p[MLP_FC1].at, plain_dimension(F), C, &copies);
    g->of_layer[FC2] = place_weight(p[MLP_FC2].at, C, plain_dimension(F), &copies);
    g->copies_of_layer = copies - first;
    g->copies = first + g->L * g->copies_of_layer;
}
INLINE weight layer_weight(const mixed *g, ptrdiff_t layer, layer_weight_id id) {
    weight w = g->of_layer[id];
    w.at += layer * g->table.layer_size;
    w.forward += layer * g->copies_of_layer, w.backward += layer * g->copies_of_layer;
    return w;
}

/* the sizes of a model */
INLINE mixed mixed_of(const mgf_config *c) {
    mixed g = {
        .config = *c,
        .table = parameters_of(c),
        .L = c->n_layer,
        .H = c->n_head,
        .T = c->block_size,
        .C = in_lanes(c->n_embd),
        .D = in_lanes(c->n_embd / c->n_head),
        .V = in_lanes(c->vocab_size),
        .f = &activations[c->activation],
    };
    g.A = g.H * g.D, g.F = in_lanes(g.table.layer[MLP_FC1].rows);
    place_weights(&g);
    g.ld_c = row_stride(g.C), g.ld_a = row_stride(g.A), g.ld_3a = row_stride(3 * g.A), g.ld_f = row_stride(g.F);
    return g;
}

/* what a batch takes: N rows in B documents of even lengths, none of them longer than `longest`; gradients of so many
 * parameters; memory for so many threads */
typedef struct {
    ptrdiff_t N, B, longest, gradients, workers;
} batch_size;

/* Lays the workspace out; returns how many bytes it takes (workspace may be NULL). Weights' copies and gradients come
 * first: they stay where they are when batches of other sizes follow. */
static size_t mixed_lay_out(mixed *g, const mgf_config *c, batch_size size, void *workspace) {
    const ptrdiff_t N = size.N, B = size.B;
    *g = mixed_of(c);
    g->N = N, g->B = B, g->ld_t = (size.longest + QUERIES - 1) / QUERIES * QUERIES;
    arena a = arena_in(workspace);
    g->forward = take(&a, g->copies, sizeof(pair)), g->backward = take(&a, g->copies, sizeof(pair));
    g->grads = take_floats(&a, size.gradients);
    g->tokens = take(&a, N, sizeof(int32_t)), g->targets = take(&a, N, sizeof(int32_t));
    g->positions = take(&a, N, sizeof(int32_t)), g->first_row = take(&a, B + 1, sizeof(int32_t));
    g->row_weight = take_floats(&a, N), g->row_loss = take_floats(&a, N);
    g->x = take_floats(&a, N * g->C), g->h0 = take_floats(&a, N * g->C), g->rstd0 = take_floats(&a, N);
    g->logits = take_floats(&a, N * g->V);
    g->dx = take_floats(&a, N * g->C), g->dh = take_floats(&a, N * g->C);
    g->wide = g->f->in_tiles ? NULL : take_floats(&a, N * g->F);
    g->x_rows = take_rows(&a, N, g->ld_c), g->o_rows = take_rows(&a, N, g->ld_a);
    g->f_rows = take_rows(&a, N, g->ld_f), g->dqkv_rows = take_rows(&a, N, g->ld_3a);
    g->x_pairs = take_pairs(&a, N, g->C), g->dlogits = take_pairs(&a, N, g->V);
    g->dx1 = take_pairs(&a, N, g->C), g->dx2 = take_pairs(&a, N, g->C);
    g->df = take_pairs(&a, N, g->F), g->dqkv = take_pairs(&a, N, 3 * g->A);
    g->d_o = take_one_panel(&a, N, g->A);
    arena one = {NULL, 0};
    layer_pieces(g, &one, N);
    g->layer_size = one.used;
    g->layers = take(&a, g->L, g->layer_size);
    one.used = 0;
    scratch_pieces(g, &one);
    g->scratch_size = one.used;
    g->scratch = take(&a, size.workers, g->scratch_size);
    return arena_size(&a);
}

#endif
