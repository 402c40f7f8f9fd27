/* The narrow model's working memory: parameters, their transposes, activations and gradients of a batch, and which
 * rows, documents and blocks of weights belong together.
 *
 * Rows of C elements are whole vectors, so nothing here has partial lanes: the vocabulary is padded to V_PAD, with
 * weights 0 and a bias that takes the padding out of the softmax.
 */
#ifndef MGF_MICRO_LAYOUT_H
#define MGF_MICRO_LAYOUT_H

#include "kernels/adam.h"
#include "gpt/layout.h"
#include "threads.h"

enum {
    MICRO_ROWS = VECTOR_REGISTERS == 32 ? 8 : 4, /* of a tile: what the registers hold */
    MICRO_KEYS = 64,                             /* longer blocks take the streaming attention */
    SAFE_SCORE = 60,                             /* exp(x), and sums of it, are far from 0 and infinity for |x| up to it */
    MICRO_GROUP = 64,                            /* rows that pass through the model together, about */
    MICRO_WORK = 500 * 1000, /* products of a batch's rows and weights that are worth waking a thread for */
    MICRO_ALONE = 128,       /* batches with fewer rows sum their gradients at once, not in shares */
    MICRO_SHARES = 8,        /* of a larger batch, at most: groups that one item of the first phase has */
    V_PAD = 16,
    /* a unit of the second phase: VL rows of a weight, UNIT_VECTORS vectors of its columns */
    UNIT_VECTORS = VL < 8 ? 8 / VL : 1,
    /* of a unit that are summed at a time, chains of multiply-adds: few, whose quotients the next block's sums overlap */
    BLOCK_ROWS = VECTOR_BYTES == 64 ? 8 : VL / 2,
    TALL_BLOCK_ROWS = VL, /* in batches of more than TALL_FROM rows, whose sums take longer than Adam */
    TALL_FROM = VECTOR_BYTES == 64 ? 64 : 16,
    ROOT_BY_STEPS = REAL_BITS == 32 ? 4 : 2, /* one row in as many has its root by multiplications */
    EMBEDDING_UNIT = 1024,                   /* rows of wte and wpe */
};

#define SAFE_TOTAL ((real)1e-26) /* exp(-SAFE_SCORE), about */
#define MASKED (-(real)1e30)     /* a score or logit whose exponential is to be 0 */

/* Everything about one layer that outlives its part of the forward or the backward pass. */
typedef struct {
    const real *qkv_w, *wo, *fc1, *fc2;  /* [3C, C], [C, C], [4C, C], [C, 4C] */
    real *qkv_wt, *wo_t, *fc1_t, *fc2_t; /* their transposes */
    real *h1, *rstd1;                    /* [N, C]   rmsnorm of the residual stream, what the attention reads */
    real *qkv, *p, *o;                   /* [N, 3C], probabilities (micro/attention.h), [N, C] */
    real *h2, *rstd2;                    /* [N, C]   what the feed-forward block reads */
    real *r, *a;                         /* [N, 4C]  max(h2 fc1^T, 0); its square, or r itself for RELU */
    real *dx, *dx1;        /* [N, C]   gradients of the residual stream after the layer, and between its two blocks */
    real *df, *d_o, *dqkv; /* [N, 4C], [N, C], [N, 3C] */
    real *lse, *delta;     /* [N, H]   of the streaming attention */
} micro_layer;

/* VL rows and UNIT_VECTORS * VL columns of a weight w: where they are, where their transpose is, and dw = dy^T x */
typedef struct {
    ptrdiff_t at, ld, rows; /* rows: those that are not padding */
    real *transposed;       /* its rows are ld_dy elements long */
    const real *dy, *x;
    ptrdiff_t ld_dy, ld_x;
} micro_unit;

/* documents [first, end) pass through the first phase together */
typedef struct {
    ptrdiff_t first, end;
} micro_group;

typedef struct {
    mgf_config config;
    ptrdiff_t L, C, H, D, V, T, P; /* V padded; P: parameters with this padding */
    ptrdiff_t first_layer;         /* where the layers' parameters begin */
    ptrdiff_t N, B;                /* rows and documents of the batch at hand */
    ptrdiff_t groups, units;
    ptrdiff_t shares; /* of the groups, whose gradients of weights are summed apart; 0 in small batches */

    int32_t *tokens, *targets, *positions; /* [N] */
    int32_t *cu_seqlens;                   /* [B + 1] */
    ptrdiff_t *p_at;                       /* [B] where a document's probabilities begin */
    micro_group *group;
    real *row_weight;      /* [N] adam_scale / (B n): gradients come as adam_moved wants them */
    double *document_loss; /* [B] */

    real *params, *m, *v, *transposed; /* [P] wte, wpe; lm_head; layers */
    real *embedding_grads;             /* [V + T, C], 0 between steps */
    real *share_grads;                 /* [shares, P], but for the embeddings */
    const real *wte, *wpe, *lm_head;
    real *lm_head_t;
    real *bias; /* [V] 0, and -1e30 for the padding */

    /* Statistics of rows: a tile writes whole vectors, past its own rows, so row t of group i is at t + i * VL. */
    real *rstd0, *largest, *total, *factor, *at_target;
    real *x, *h0, *dx0; /* [N, C] residual stream; normalised embedding; its gradient */
    real *logits;       /* [N, V], then their gradient */
    micro_layer *layer;
    micro_unit *unit;
} micro;

/* whether a batch of N rows is work enough for several threads */
INLINE int micro_is_shared(const mgf_config *c, ptrdiff_t N) {
    return N >= MICRO_ALONE || N * c->n_layer * parameters_of(c).layer_size >= MICRO_WORK;
}

/* parts that N rows are cut into, at the ends of documents: one, or an even number for two threads */
INLINE ptrdiff_t micro_groups(const mgf_config *c, ptrdiff_t N) {
    return micro_is_shared(c, N) ? 2 * ((N + 2 * MICRO_GROUP - 1) / (2 * MICRO_GROUP)) : 1;
}

/* queries that share a vector with the heads (micro/attention.h) */
INLINE ptrdiff_t micro_queries(ptrdiff_t D) { return min_of(D, VL); }

/* the units of a weight [O, I]; rows of its transpose, as those of dy, have ld_dy elements */
INLINE void micro_add_units(micro *g, ptrdiff_t O, ptrdiff_t I, const real *w, real *w_t, const real *dy, ptrdiff_t ld_dy,
                            const real *x, ptrdiff_t ld_x) {
    for (ptrdiff_t o = 0; o < O; o += VL)
        for (ptrdiff_t i = 0; i < I; i += UNIT_VECTORS * VL, g->units++)
            if (g->unit)
                g->unit[g->units] = (micro_unit){
                    .at = w - g->params + o * I + i,
                    .ld = I,
                    .rows = min_of(VL, O - o),
                    .transposed = w_t + i * ld_dy + o,
                    .dy = dy + o,
                    .ld_dy = ld_dy,
                    .x = x + i,
                    .ld_x = ld_x,
                };
}

/* Lays the workspace out for up to N rows and B documents; returns how many bytes it takes (workspace may be NULL). */
static size_t micro_lay_out(micro *g, const mgf_config *c, ptrdiff_t N, ptrdiff_t B, void *workspace) {
    N += MICRO_ROWS; /* rows without weight, which may fill the last tile */
    const parameter_table table = parameters_of(c);
    const ptrdiff_t C = c->n_embd, F = table.layer[MLP_FC1].rows, L = c->n_layer, H = c->n_head, T = c->block_size;
    const ptrdiff_t V = (c->vocab_size + V_PAD - 1) / V_PAD * V_PAD, block = ROOT_BY_STEPS * VL;
    const ptrdiff_t embeddings = (table.outside[LM_HEAD].at + block - 1) / block * block; /* wte and wpe, padded */
    const ptrdiff_t first_layer = embeddings + V * C;
    *g = (micro){.config = *c,
                 .L = L,
                 .C = C,
                 .H = H,
                 .D = C / H,
                 .V = V,
                 .T = T,
                 .P = first_layer + L * table.layer_size,
                 .first_layer = first_layer};
    arena a = arena_in(workspace);
    const ptrdiff_t groups = micro_groups(c, N), statistics = N + (groups + 1) * VL;
    g->tokens = take(&a, N, sizeof(int32_t)), g->targets = take(&a, N, sizeof(int32_t));
    g->positions = take(&a, N, sizeof(int32_t)), g->cu_seqlens = take(&a, B + 1, sizeof(int32_t));
    g->p_at = take(&a, B, sizeof(ptrdiff_t)), g->group = take(&a, groups, sizeof(micro_group));
    g->row_weight = TAKE_REALS(&a, statistics), g->document_loss = take(&a, B, sizeof(double));
    g->params = TAKE_REALS(&a, g->P), g->m = TAKE_REALS(&a, g->P), g->v = TAKE_REALS(&a, g->P);
    g->transposed = TAKE_REALS(&a, g->P), g->embedding_grads = TAKE_REALS(&a, embeddings);
    if (N >= MICRO_ALONE) g->share_grads = TAKE_REALS(&a, MICRO_SHARES * g->P);
    g->bias = TAKE_REALS(&a, V);
    g->rstd0 = TAKE_REALS(&a, statistics), g->largest = TAKE_REALS(&a, statistics);
    g->total = TAKE_REALS(&a, statistics), g->factor = TAKE_REALS(&a, statistics);
    g->at_target = TAKE_REALS(&a, statistics);
    g->x = TAKE_REALS(&a, N * C), g->h0 = TAKE_REALS(&a, N * C), g->dx0 = TAKE_REALS(&a, N * C);
    g->logits = TAKE_REALS(&a, N * V);
    g->layer = take(&a, L, sizeof(micro_layer));

    g->wte = g->params + table.outside[WTE].at, g->wpe = g->params + table.outside[WPE].at;
    g->lm_head = g->params + embeddings, g->lm_head_t = g->transposed + embeddings;
    const ptrdiff_t Q = micro_queries(g->D);
    for (ptrdiff_t l = 0; l < L; l++) {
        const ptrdiff_t base = first_layer - table.first_layer + l * table.layer_size;
        const real *w = g->params + base;
        real *w_t = g->transposed + base;
        const mgf_parameter *p = table.layer;
        micro_layer y = {
            .qkv_w = w + p[ATTN_WQ].at,
            .wo = w + p[ATTN_WO].at,
            .fc1 = w + p[MLP_FC1].at,
            .fc2 = w + p[MLP_FC2].at,
            .qkv_wt = w_t + p[ATTN_WQ].at,
            .wo_t = w_t + p[ATTN_WO].at,
            .fc1_t = w_t + p[MLP_FC1].at,
            .fc2_t = w_t + p[MLP_FC2].at,
            .h1 = TAKE_REALS(&a, N * C),
            .rstd1 = TAKE_REALS(&a, statistics),
            .qkv = TAKE_REALS(&a, N * 3 * C),
            .o = TAKE_REALS(&a, N * C),
            .h2 = TAKE_REALS(&a, N * C),
            .rstd2 = TAKE_REALS(&a, statistics),
            .r = TAKE_REALS(&a, N * F),
            .dx = TAKE_REALS(&a, N * C),
            .dx1 = TAKE_REALS(&a, N * C),
            .df = TAKE_REALS(&a, N * F),
            .d_o = TAKE_REALS(&a, N * C),
            .dqkv = TAKE_REALS(&a, N * 3 * C),
        };
        y.a = c->activation == MGF_RELU2 ? TAKE_REALS(&a, N * F) : y.r;
        if (T <= MICRO_KEYS) y.p = TAKE_REALS(&a, (N + B * (Q - 1)) * (T + 1) * H);
        else y.lse = TAKE_REALS(&a, N * H), y.delta = TAKE_REALS(&a, N * H);
        if (workspace) g->layer[l] = y;
    }
    for (int filled = 0; filled < 2; filled++) { /* counted, then written */
        g->units = 0;
        micro_add_units(g, c->vocab_size, C, g->lm_head, g->lm_head_t, g->logits, V, g->x, C);
        for (ptrdiff_t l = 0; l < L; l++) {
            micro_layer y = workspace ? g->layer[l] : (micro_layer){0};
            micro_add_units(g, 3 * C, C, y.qkv_w, y.qkv_wt, y.dqkv, 3 * C, y.h1, C);
            micro_add_units(g, C, C, y.wo, y.wo_t, y.dx1, C, y.o, C);
            micro_add_units(g, F, C, y.fc1, y.fc1_t, y.df, F, y.h2, C);
            micro_add_units(g, C, F, y.fc2, y.fc2_t, y.dx, C, y.a, F);
        }
        if (!filled) g->unit = take(&a, g->units, sizeof(micro_unit));
    }
    return arena_size(&a);
}

#endif
