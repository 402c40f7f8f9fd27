/* The entry points in mixed precision: losses, gradients, training steps. */
#ifndef MGF_MIXED_TRAIN_H
#define MGF_MIXED_TRAIN_H

#include "base/denormals.h"
#include "base/documents.h"
#include "mixed/model.h"

INLINE ptrdiff_t even(ptrdiff_t n) { return n + n % 2; }

/* Where all gradients of a step come from one piece, only those of the embeddings, which lie before lm_head, are kept. */
INLINE ptrdiff_t kept_gradients(const mgf_config *c, ptrdiff_t N) {
    const parameter_table t = parameters_of(c);
    return N > PIECE_ROWS ? t.count : t.outside[LM_HEAD].at;
}

static size_t gpt_workspace_size(const mgf_config *config, ptrdiff_t N, ptrdiff_t B, const mgf_pool *pool) {
    mixed g;
    const ptrdiff_t longest = even(min_of(N, config->block_size));
    return mixed_lay_out(
        &g, config, (batch_size){N + min_of(B, N), B, longest, kept_gradients(config, N), mgf_pool_threads(pool)}, NULL);
}

/* the workspace for these documents */
static void begin_batch(mixed *g, const float *params, const int32_t *lengths, ptrdiff_t B, ptrdiff_t gradients,
                        const mgf_config *config, void *workspace, const mgf_pool *pool) {
    ptrdiff_t N = 0, longest = 0;
    for (ptrdiff_t b = 0; b < B; b++) N += even(lengths[b]), longest = max_of(longest, even(lengths[b]));
    mixed_lay_out(g, config, (batch_size){N, B, longest, gradients, mgf_pool_threads(pool)}, workspace);
    g->params = params;
}

/* the documents end to end, each row with its weight 1 / (of n) in the loss, which is the mean over `of` documents */
static void pack_batch(mixed *g, const int32_t *tokens, const int64_t *starts, const int32_t *lengths, ptrdiff_t of) {
    ptrdiff_t row = 0;
    g->first_row[0] = 0;
    for (ptrdiff_t b = 0; b < g->B; b++) {
        const int32_t *document = tokens + starts[b];
        const float weight = (float)(1.0 / ((double)lengths[b] * (double)of));
        for (ptrdiff_t i = 0; i < even(lengths[b]); i++, row++) {
            const ptrdiff_t t = min_of(i, lengths[b] - 1);
            g->tokens[row] = document[t], g->targets[row] = document[t + 1], g->positions[row] = (int32_t)t;
            g->row_weight[row] = i == t ? weight : 0;
        }
        g->first_row[b + 1] = (int32_t)row;
    }
}

/* losses[b] = mean of the document's row losses; returns their mean */
static double document_losses(const mixed *g, const int32_t *lengths, double *losses) {
    double sum = 0;
    for (ptrdiff_t b = 0; b < g->B; b++) {
        double document = 0;
        for (ptrdiff_t i = 0; i < lengths[b]; i++) document += (double)g->row_loss[g->first_row[b] + i];
        sum += document /= lengths[b];
        if (losses) losses[b] = document;
    }
    return sum / (double)g->B;
}

/* both copies of the blocks of lm_head's rows first, then of layer after layer's weights */
static void copy_block(void *context, ptrdiff_t item) {
    const mixed *g = context;
    weight w = g->lm_head;
    for (ptrdiff_t i = 0, blocks; item >= (blocks = weight_blocks(w)); i++) {
        item -= blocks;
        w = layer_weight(g, i / WEIGHTS, (layer_weight_id)(i % WEIGHTS));
    }
    const row_range r = block_at(item, rows_of_weight(w), PANEL);
    copy_weight(g->forward, g->backward, w, g->params, r.first, r.first + r.rows);
}
static void copy_weights(mixed *g, mgf_pool *pool) {
    ptrdiff_t of_layer = 0;
    for (int id = QKV; id < WEIGHTS; id++) of_layer += weight_blocks(g->of_layer[id]);
    mgf_pool_run(pool, weight_blocks(g->lm_head) + g->L * of_layer, copy_block, g);
}

static void copy_logits(const mixed *g, const int32_t *lengths, float *logits) {
    const ptrdiff_t V = g->config.vocab_size;
    for (ptrdiff_t b = 0; b < g->B; b++)
        for (ptrdiff_t i = 0; i < lengths[b]; i++, logits += V)
            memcpy(logits, g->logits + (g->first_row[b] + i) * g->V, (size_t)V * sizeof(float));
}

static ptrdiff_t gpt_forward(double *losses, float *logits, const float *params, const int32_t *tokens,
                             const int64_t *starts, const int32_t *lengths, ptrdiff_t B, const mgf_config *config,
                             void *workspace, mgf_pool *pool) {
    const ptrdiff_t bad = first_bad_document(tokens, starts, lengths, B, config);
    if (bad >= 0) return bad;
    const unsigned mode = denormals_flush();
    mixed g;
    begin_batch(&g, params, lengths, B, 0, config, workspace, pool);
    pack_batch(&g, tokens, starts, lengths, B);
    copy_weights(&g, pool);
    forward(&g, pool);
    if (logits) copy_logits(&g, lengths, logits);
    loss_rows(&g, (row_range){0, g.N});
    document_losses(&g, lengths, losses);
    denormals_restore(mode);
    return -1;
}

static ptrdiff_t gpt_backward(double *losses, float *grads, const float *params, const int32_t *tokens,
                              const int64_t *starts, const int32_t *lengths, ptrdiff_t B, const mgf_config *config,
                              void *workspace, mgf_pool *pool) {
    const ptrdiff_t bad = first_bad_document(tokens, starts, lengths, B, config);
    if (bad >= 0) return bad;
    const unsigned mode = denormals_flush();
    mixed g;
    begin_batch(&g, params, lengths, B, 0, config, workspace, pool);
    g.grads = grads, g.accumulate = 1;
    pack_batch(&g, tokens, starts, lengths, B);
    copy_weights(&g, pool);
    forward(&g, pool);
    backward(&g, pool);
    document_losses(&g, lengths, losses);
    denormals_restore(mode);
    return -1;
}

/* forward and backward of one piece of a step's `of` documents; returns its part of the loss */
static double piece_gradient(mixed *g, const int32_t *tokens, const int64_t *starts, const int32_t *lengths, ptrdiff_t of,
                             mgf_pool *pool) {
    pack_batch(g, tokens, starts, lengths, of);
    forward(g, pool);
    backward(g, pool);
    return document_losses(g, lengths, NULL) * ((double)g->B / (double)of);
}

/* A step whose documents all pass at once: products move the weights that they differentiate, then the embeddings, which
 * lie before lm_head, are moved. */
static double whole_step(mixed *g, update *u, const int32_t *tokens, const int64_t *starts, const int32_t *lengths,
                         mgf_pool *pool) {
    copy_weights(g, pool);
    g->update = u;
    const double loss = piece_gradient(g, tokens, starts, lengths, g->B, pool);
    adam_phase a = {.p = u->p, .m = u->m, .v = u->v, .g = g->grads, .constants = u->constants};
    adam_until(&a, g->table.outside[LM_HEAD].at, pool);
    return loss;
}

/* A step in pieces: their gradients are added, then move all. */
static double step_in_pieces(update *u, const int32_t *tokens, const int64_t *starts, const int32_t *lengths, ptrdiff_t B,
                             const mgf_config *config, void *workspace, mgf_pool *pool) {
    double loss = 0;
    mixed g;
    for (ptrdiff_t first = 0, n; first < B; first += n) {
        n = piece_of(lengths + first, B - first);
        begin_batch(&g, u->p, lengths + first, n, parameters_of(config).count, config, workspace, pool);
        g.accumulate = first > 0;
        if (!first) copy_weights(&g, pool);
        loss += piece_gradient(&g, tokens, starts + first, lengths + first, B, pool);
    }
    adam_phase a = {.p = u->p, .m = u->m, .v = u->v, .g = g.grads, .constants = u->constants};
    adam_all(&a, &g.table, config->n_layer, pool);
    return loss;
}

static ptrdiff_t gpt_train_steps(double *losses, float *params, float *m, float *v, const int32_t *tokens,
                                 const int64_t *starts, const int32_t *lengths, ptrdiff_t k, ptrdiff_t B, const double *lr,
                                 const mgf_adam *adam, int64_t first_step, const mgf_config *config, void *workspace,
                                 mgf_pool *pool) {
    const ptrdiff_t bad = first_bad_document(tokens, starts, lengths, k * B, config);
    if (bad >= 0) return bad;
    const unsigned mode = denormals_flush();
    for (ptrdiff_t step = 0; step < k; step++, starts += B, lengths += B) {
        update u = {params, m, v,
                    adam_at(lr[step], adam->beta1, adam->beta2, adam->eps, adam->weight_decay, first_step + step)};
        if (piece_of(lengths, B) < B) {
            losses[step] = step_in_pieces(&u, tokens, starts, lengths, B, config, workspace, pool);
        } else {
            mixed g;
            begin_batch(&g, params, lengths, B, parameters_of(config).outside[LM_HEAD].at, config, workspace, pool);
            losses[step] = whole_step(&g, &u, tokens, starts, lengths, pool);
        }
    }
    denormals_restore(mode);
    return -1;
}

#endif
