/* The table of a model's parameters, in the order of the flat buffer: the twin of microgpt_fast/parameters.py, with which
 * a test compares it. Whatever lays out, copies, counts or decays parameters reads it.
 */
#ifndef MGF_PARAMETERS_H
#define MGF_PARAMETERS_H

#include "microgpt_fast.h"

#define RMS_EPS 1e-5 /* of every rmsnorm of the model */

/* the parameters before the layers', and those of every layer */
enum { WTE, WPE, LM_HEAD, EMBD_NORM, FINAL_NORM, OUT_RES_PROJ, OUTSIDE_LAYERS };
enum {
    ATTN_WQ,
    ATTN_WK,
    ATTN_WV,
    ATTN_WO,
    MLP_FC1,
    MLP_FC3,
    MLP_FC2,
    ATTN_VE,
    ATTN_NORM,
    MLP_NORM,
    RESIDUAL_SCALE,
    EMBEDDING_SCALE,
    ATTN_RES_PROJ,
    MLP_RES_PROJ,
    OF_A_LAYER
};

typedef enum { PRODUCT, LOOKUP } parameter_role; /* each token is multiplied with all of it, or takes a row of it */
enum { STARTS_AT_ZERO = 1, NO_DECAY = 2, IS_VECTOR = 4 };

typedef struct {
    const char *name;        /* as in the original; in layer l with "layer<l>." before it */
    ptrdiff_t rows, columns; /* of a vector: 1 row; 0 rows: the model has no such parameter */
    parameter_role role;
    int properties; /* a sum of the above */
    int tied_to;    /* 1 + the parameter outside the layers that this is another name of; 0: its own */
    ptrdiff_t at;   /* where it begins in the flat buffer, in layer 0 */
} mgf_parameter;

typedef struct {
    mgf_parameter outside[OUTSIDE_LAYERS], layer[OF_A_LAYER];
    ptrdiff_t first_layer, layer_size; /* layer l's begin at first_layer + l * layer_size */
    ptrdiff_t count;                   /* P, the length of the flat buffer */
} parameter_table;

/* places `n` parameters one after another from `end` on, those that are tied where they are tied to; returns the end */
static inline ptrdiff_t place_parameters(mgf_parameter *p, int n, const mgf_parameter *outside, ptrdiff_t end) {
    for (int i = 0; i < n; i++) {
        p[i].at = p[i].tied_to ? outside[p[i].tied_to - 1].at : end;
        if (!p[i].tied_to) end += p[i].rows * p[i].columns;
    }
    return end;
}

/* width of the feed-forward layers between their matrices */
static inline ptrdiff_t mlp_width(const mgf_config *c) {
    if (c->mlp_hidden) return c->mlp_hidden;
    return c->gated ? (c->n_embd + 2) / 3 * 8 : 4 * c->n_embd;
}

/* whether layers read mixtures of values in place of a sum: attention residuals */
static inline int mixes_values(const mgf_config *c) {
    return c->residual == MGF_ATTENTION || c->residual == MGF_ATTENTION_BLOCK;
}

static inline parameter_table parameters_of(const mgf_config *c) {
    const ptrdiff_t V = c->vocab_size, T = c->block_size, C = c->n_embd, F = mlp_width(c);
    const int gains = c->norm_gain, mixes = mixes_values(c), vector = NO_DECAY | IS_VECTOR;
    parameter_table t = {
        .outside =
            {
                [WTE] = {"wte", V, C, .role = LOOKUP},
                [WPE] = {"wpe", c->position == MGF_LEARNED ? T : 0, C, .role = LOOKUP},
                [LM_HEAD] = {"lm_head", V, C, .tied_to = c->tie_embeddings ? 1 + WTE : 0},
                [EMBD_NORM] = {"embd_norm", gains && !mixes, C, .role = LOOKUP, .properties = vector},
                [FINAL_NORM] = {"final_norm", gains && c->final_norm, C, .role = LOOKUP, .properties = vector},
                [OUT_RES_PROJ] = {"out_res_proj", mixes, C, .role = LOOKUP, .properties = NO_DECAY},
            },
        .layer =
            {
                [ATTN_WQ] = {"attn_wq", C, C},
                [ATTN_WK] = {"attn_wk", C, C},
                [ATTN_WV] = {"attn_wv", C, C},
                [ATTN_WO] = {"attn_wo", C, C, .properties = STARTS_AT_ZERO},
                [MLP_FC1] = {"mlp_fc1", F, C},
                [MLP_FC3] = {"mlp_fc3", c->gated ? F : 0, C},
                [MLP_FC2] = {"mlp_fc2", C, F, .properties = STARTS_AT_ZERO},
                [ATTN_VE] = {"attn_ve", c->value_embedding ? V : 0, C, .role = LOOKUP},
                [ATTN_NORM] = {"attn_norm", gains, C, .role = LOOKUP, .properties = vector},
                [MLP_NORM] = {"mlp_norm", gains, C, .role = LOOKUP, .properties = vector},
                [RESIDUAL_SCALE] = {"residual_scale", c->residual_scalars, 1, .role = LOOKUP, .properties = vector},
                [EMBEDDING_SCALE] = {"embedding_scale", c->residual_scalars, 1, .role = LOOKUP, .properties = vector},
                [ATTN_RES_PROJ] = {"attn_res_proj", mixes, C, .role = LOOKUP, .properties = NO_DECAY},
                [MLP_RES_PROJ] = {"mlp_res_proj", mixes, C, .role = LOOKUP, .properties = NO_DECAY},
            },
    };
    t.first_layer = place_parameters(t.outside, OUTSIDE_LAYERS, t.outside, 0);
    t.layer_size = place_parameters(t.layer, OF_A_LAYER, t.outside, t.first_layer) - t.first_layer;
    t.count = t.first_layer + c->n_layer * t.layer_size;
    return t;
}

/* weights that each token is multiplied with */
static inline ptrdiff_t product_weights(const mgf_config *c) {
    const parameter_table t = parameters_of(c);
    ptrdiff_t weights = 0;
    for (int i = 0; i < OUTSIDE_LAYERS; i++)
        if (t.outside[i].role == PRODUCT) weights += t.outside[i].rows * t.outside[i].columns;
    for (int i = 0; i < OF_A_LAYER; i++)
        if (t.layer[i].role == PRODUCT) weights += c->n_layer * t.layer[i].rows * t.layer[i].columns;
    return weights;
}

#endif
