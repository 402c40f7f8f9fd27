/* Training steps of a narrow model (n_embd 16 or 32, head_dim 4, 8 or 16): the mathematics of gpt/model.h with constant sizes.
 *
 * A step has two phases. First groups of documents pass through the model and back; then blocks of weights take their
 * gradient and move (micro/update.h). Items of a phase are independent, and which rows are summed together depends on the
 * batch alone: the bits are the same for any number of threads. So are they for any number of steps per call.
 */
#ifndef MGF_MICRO_H
#define MGF_MICRO_H

#include "micro/attention.h"
#include "micro/rows.h"
#include "micro/update.h"

/* ---- parameters between the caller's buffers and the workspace */

/* copies one buffer [P] in or out: the embeddings; lm_head, which is padded here; the layers */
static void micro_copy(const micro *g, real *inside, real *outside, int in) {
    const parameter_table table = parameters_of(&g->config);
    const ptrdiff_t theirs[4] = {0, table.outside[LM_HEAD].at, table.first_layer, table.count};
    const ptrdiff_t ours[3] = {0, g->lm_head - g->params, g->first_layer};
    for (int i = 0; i < 3; i++) {
        const size_t size = (size_t)(theirs[i + 1] - theirs[i]) * sizeof(real);
        if (in) memcpy(inside + ours[i], outside + theirs[i], size);
        else memcpy(outside + theirs[i], inside + ours[i], size);
    }
}

static void micro_take_in(micro *g, real *params, real *m, real *v) {
    memset(g->params, 0, (size_t)g->P * sizeof(real));
    memset(g->m, 0, (size_t)g->P * sizeof(real));
    memset(g->v, 0, (size_t)g->P * sizeof(real));
    memset(g->lm_head_t, 0, (size_t)(g->V * g->C) * sizeof(real));
    memset(g->embedding_grads, 0, (size_t)(g->lm_head - g->params) * sizeof(real));
    micro_copy(g, g->params, params, 1), micro_copy(g, g->m, m, 1), micro_copy(g, g->v, v, 1);
    for (ptrdiff_t i = 0; i < g->units; i++) transpose_unit(g, g->unit + i);
    for (ptrdiff_t j = 0; j < g->V; j++) g->bias[j] = j < g->config.vocab_size ? 0 : MASKED;
}
static void micro_give_back(micro *g, real *params, real *m, real *v) {
    micro_copy(g, g->params, params, 0), micro_copy(g, g->m, m, 0), micro_copy(g, g->v, v, 0);
}

/* ---- a batch */

/* scale: what gradients are to be multiplied with. A function of its own, since the fewer instructions there are between
 * two steps, the more of the next step's first chain of operations overlaps with the last step's Adam. */
NOINLINE void micro_pack_batch(micro *g, double scale, const int32_t *tokens, const int64_t *starts, const int32_t *lengths,
                               ptrdiff_t B) {
    const ptrdiff_t Q = micro_queries(g->D), H = g->H;
    const ptrdiff_t N = rows_in(lengths, B), parts = micro_groups(&g->config, N);
    ptrdiff_t row = 0, p_at = 0, groups = 0, group_row = 0;
    g->B = B, g->cu_seqlens[0] = 0, g->group[0].first = 0;
    for (ptrdiff_t b = 0; b < B; b++) {
        const int32_t *document = tokens + starts[b];
        const ptrdiff_t n = lengths[b], gap = groups * VL;
        const real weight = (real)(scale / ((double)n * (double)B));
        for (ptrdiff_t t = 0; t < n; t++, row++) {
            g->tokens[row] = document[t];
            g->targets[row] = document[t + 1];
            g->positions[row] = (int32_t)t;
            g->row_weight[row + gap] = weight;
        }
        g->cu_seqlens[b + 1] = (int32_t)row;
        g->p_at[b] = p_at;
        p_at += ((n + Q - 1) & -Q) * (n + 1) * H; /* Q is a power of 2 */
        if (b == B - 1 || (parts > 1 && row * parts / N != group_row * parts / N)) {
            g->group[groups++].end = b + 1;
            if (b < B - 1) g->group[groups].first = b + 1;
            group_row = row;
        }
    }
    memset(g->tokens + row, 0, MICRO_ROWS * sizeof(int32_t)); /* rows without weight, which may fill the last tile */
    memset(g->targets + row, 0, MICRO_ROWS * sizeof(int32_t));
    memset(g->positions + row, 0, MICRO_ROWS * sizeof(int32_t));
    memset(g->row_weight + row + (groups - 1) * VL, 0, MICRO_ROWS * sizeof(real));
    g->N = row, g->groups = groups;
    g->shares = row < MICRO_ALONE ? 0 : min_of(groups, MICRO_SHARES);
}

/* ---- first phase */

typedef struct {
    micro *g;
    const micro_row_functions *rows; /* [R - 1] */
    micro_attention_function *attention, *attention_backward;
    adam_constants adam;
    ptrdiff_t embedding_units, chunk; /* the second phase's items: blocks of embeddings, then chunks of units */
} micro_phase;

/* The group's rows in tiles of nearly equal height: one function for the higher ones, one for the others. Where there is
 * room behind the last row, in a batch of one group, all are of one height, and rows without weight fill the last. */
typedef struct {
    micro_rows higher, lower;
    const micro_row_functions *of_higher, *of_lower;
    ptrdiff_t padding; /* rows without weight */
} micro_tiling;

INLINE micro_tiling tile_rows_of(const micro_phase *p, ptrdiff_t group) {
    const micro *g = p->g;
    const ptrdiff_t first = g->cu_seqlens[g->group[group].first], n = g->cu_seqlens[g->group[group].end] - first;
    const ptrdiff_t tiles = (n + MICRO_ROWS - 1) / MICRO_ROWS, height = n / tiles, higher = n % tiles;
    if (higher && g->groups == 1)
        return (micro_tiling){.lower = {g, 0, first, tiles, 0}, .of_lower = p->rows + height, .padding = tiles - higher};
    return (micro_tiling){
        {g, 0, first, higher, group * VL},
        {g, 0, first + higher * (height + 1), tiles - higher, group * VL},
        p->rows + height,
        p->rows + height - 1,
        0,
    };
}
#define RUN_ROWS(tiling, part)                                                                                             \
    do {                                                                                                                   \
        if ((tiling).higher.tiles) (tiling).of_higher->part(&(tiling).higher);                                             \
        (tiling).of_lower->part(&(tiling).lower);                                                                          \
    } while (0)

/* losses of the group's documents: the mean of log(sum exp(z - max)) - (z[target] - max) over their rows */
static void micro_losses(const micro *g, ptrdiff_t group) {
    const micro_group documents = g->group[group];
    const ptrdiff_t gap = group * VL, first = g->cu_seqlens[documents.first], end = g->cu_seqlens[documents.end];
    for (ptrdiff_t s = first + gap; s < end + gap; s += VL)
        store(g->factor + s, vlog(load(g->total + s)) - (load(g->at_target + s) - load(g->largest + s)));
    for (ptrdiff_t b = documents.first; b < documents.end; b++) {
        const ptrdiff_t n = g->cu_seqlens[b + 1] - g->cu_seqlens[b];
        const real *row = g->factor + g->cu_seqlens[b] + gap;
        vec sum = {0};
        for (ptrdiff_t t = 0; t < n; t += VL) sum += load_n(row + t, lanes_left(t, n));
        g->document_loss[b] = (double)sum_lanes(sum)[0] / (double)n;
    }
}

static void micro_pass(const micro_phase *p, ptrdiff_t group) {
    const micro *g = p->g;
    const micro_group documents = g->group[group];
    micro_tiling t = tile_rows_of(p, group);
    for (ptrdiff_t layer = 0; layer < g->L; layer++) {
        t.higher.layer = t.lower.layer = layer;
        RUN_ROWS(t, before_attention);
        for (ptrdiff_t b = documents.first; b < documents.end; b++) p->attention(g, g->layer + layer, b);
        /* rows without weight get what they are in every call: a tile's largest logit decides how its loss is computed */
        if (t.padding) memset(g->layer[layer].o + g->N * g->C, 0, (size_t)(t.padding * g->C) * sizeof(real));
        RUN_ROWS(t, feed_forward);
    }
    RUN_ROWS(t, head);
    for (ptrdiff_t layer = g->L - 1; layer >= 0; layer--) {
        t.higher.layer = t.lower.layer = layer;
        RUN_ROWS(t, feed_backward);
        for (ptrdiff_t b = documents.first; b < documents.end; b++) p->attention_backward(g, g->layer + layer, b);
        RUN_ROWS(t, qkv_backward);
    }
    micro_losses(g, group);
}

/* a group of a small batch, or those of a share, with the sums of their weights' gradients */
INLINE ptrdiff_t micro_pass_items(const micro *g) { return g->shares ? g->shares : g->groups; }
static void micro_pass_item(void *context, ptrdiff_t item) {
    const micro_phase *p = context;
    const micro *g = p->g;
    if (!g->shares) {
        micro_pass(p, item);
        return;
    }
    const ptrdiff_t begin = item * g->groups / g->shares, end = (item + 1) * g->groups / g->shares;
    for (ptrdiff_t group = begin; group < end; group++) {
        micro_pass(p, group);
        micro_share_gradients(g, g->share_grads + item * g->P, g->cu_seqlens[g->group[group].first],
                              g->cu_seqlens[g->group[group].end], group > begin);
    }
}

/* ---- second phase */

static void micro_update_item(void *context, ptrdiff_t item) {
    const micro_phase *p = context;
    const ptrdiff_t first = (item - p->embedding_units) * p->chunk;
    if (item < p->embedding_units) micro_update_embeddings(p->g, item, &p->adam);
    else micro_update_units(p->g, first, min_of(first + p->chunk, p->g->units), &p->adam);
}

/* ---- steps */

static micro_phase micro_functions(micro *g) {
    micro_phase p = {.g = g, .rows = micro_row_table[g->C / 16 - 1]};
    if (g->T > MICRO_KEYS)
        p.attention = micro_attention_streaming, p.attention_backward = micro_attention_backward_streaming;
    else if (g->D == 4) p.attention = micro_attention_4, p.attention_backward = micro_attention_backward_4;
    else if (g->D == 8) p.attention = micro_attention_8, p.attention_backward = micro_attention_backward_8;
    else p.attention = micro_attention_16, p.attention_backward = micro_attention_backward_16;
    return p;
}

static ptrdiff_t rows_of_largest_batch(const int32_t *lengths, ptrdiff_t k, ptrdiff_t B) {
    ptrdiff_t largest = 0;
    for (ptrdiff_t step = 0; step < k; step++) largest = max_of(largest, rows_in(lengths + step * B, B));
    return largest;
}

static size_t micro_workspace_size(const mgf_config *config, ptrdiff_t N, ptrdiff_t B) {
    micro g;
    return micro_lay_out(&g, config, N, B, NULL);
}

/* gpt_train_steps for what micro_serves, of documents that are known to be good */
static void micro_train_steps(double *losses, real *params, real *m, real *v, const int32_t *tokens, const int64_t *starts,
                              const int32_t *lengths, ptrdiff_t k, ptrdiff_t B, const double *lr, const mgf_adam *adam,
                              int64_t first_step, const mgf_config *config, void *workspace, mgf_pool *pool) {
    micro g;
    micro_lay_out(&g, config, rows_of_largest_batch(lengths, k, B), B, workspace);
    micro_take_in(&g, params, m, v);
    micro_phase p = micro_functions(&g);
    p.embedding_units = (config->vocab_size + g.T + EMBEDDING_UNIT - 1) / EMBEDDING_UNIT;
    for (ptrdiff_t step = 0; step < k; step++, starts += B, lengths += B) {
        micro_pack_batch(&g, adam_scale(adam->beta2), tokens, starts, lengths, B);
        mgf_pool *threads = micro_is_shared(config, g.N) ? pool : NULL;
        mgf_pool_run(threads, micro_pass_items(&g), micro_pass_item, &p);
        p.adam = adam_at(lr[step], adam->beta1, adam->beta2, adam->eps, adam->weight_decay, first_step + step);
        p.chunk = threads ? (g.units + 2 * mgf_pool_threads(threads) - 1) / (2 * mgf_pool_threads(threads)) : g.units;
        mgf_pool_run(threads, p.embedding_units + (g.units + p.chunk - 1) / p.chunk, micro_update_item, &p);
        double sum = 0;
        for (ptrdiff_t b = 0; b < B; b++) sum += g.document_loss[b];
        losses[step] = sum / (double)B;
    }
    micro_give_back(&g, params, m, v);
}

#endif
