/* The model's entry points: losses, gradients, training steps. */
#ifndef MGF_TRAIN_H
#define MGF_TRAIN_H

#include "base/denormals.h"
#include "base/documents.h"
#include "gpt/model.h"
#include "gpt/update.h"
#include "narrow.h"
#include "serves.h"

static size_t gpt_workspace_size(const mgf_config *config, ptrdiff_t N, ptrdiff_t B, const mgf_pool *pool) {
    (void)pool;
    gpt g;
    size_t size = gpt_lay_out(&g, config, N, B, NULL);
    size_t narrow_size = micro_serves(config) ? NARROW.workspace_size(config, N, B) : 0;
    return size > narrow_size ? size : narrow_size;
}

/* the documents end to end, each row with its weight 1 / (of n) in the loss, which is the mean over `of` documents */
static void pack_batch(gpt *g, const int32_t *tokens, const int64_t *starts, const int32_t *lengths, ptrdiff_t of) {
    ptrdiff_t row = 0;
    g->cu_seqlens[0] = 0;
    for (ptrdiff_t b = 0; b < g->B; b++) {
        const int32_t *document = tokens + starts[b];
        real weight = (real)(1.0 / ((double)lengths[b] * (double)of));
        for (ptrdiff_t t = 0; t < lengths[b]; t++, row++) {
            g->tokens[row] = document[t];
            g->targets[row] = document[t + 1];
            g->positions[row] = (int32_t)t;
            g->row_weight[row] = weight;
        }
        g->cu_seqlens[b + 1] = (int32_t)row;
    }
}

/* losses[b] = mean of the document's row losses; returns their mean */
static double document_losses(const gpt *g, double *losses) {
    double sum = 0;
    for (ptrdiff_t b = 0; b < g->B; b++) {
        double document = 0;
        for (ptrdiff_t i = g->cu_seqlens[b]; i < g->cu_seqlens[b + 1]; i++) document += (double)g->row_loss[i];
        document /= g->cu_seqlens[b + 1] - g->cu_seqlens[b];
        if (losses) losses[b] = document;
        sum += document;
    }
    return sum / (double)g->B;
}

static void copy_logits(const gpt *g, real *logits) {
    for (ptrdiff_t i = 0; i < g->N; i++) memcpy(logits + i * g->V, g->logits + i * g->ld_v, (size_t)g->V * sizeof(real));
}

static ptrdiff_t gpt_forward(double *losses, real *logits, const real *params, const int32_t *tokens, const int64_t *starts,
                             const int32_t *lengths, ptrdiff_t B, const mgf_config *config, void *workspace,
                             mgf_pool *pool) {
    ptrdiff_t bad = first_bad_document(tokens, starts, lengths, B, config);
    if (bad >= 0) return bad;
    unsigned mode = denormals_flush();
    gpt g;
    gpt_lay_out(&g, config, rows_in(lengths, B), B, workspace);
    g.params = params;
    begin_options(&g);
    pack_batch(&g, tokens, starts, lengths, B);
    forward(&g, pool);
    if (logits) copy_logits(&g, logits);
    loss_rows(&g, (row_range){0, g.N});
    document_losses(&g, losses);
    denormals_restore(mode);
    return -1;
}

static ptrdiff_t gpt_backward(double *losses, real *grads, const real *params, const int32_t *tokens, const int64_t *starts,
                              const int32_t *lengths, ptrdiff_t B, const mgf_config *config, void *workspace,
                              mgf_pool *pool) {
    ptrdiff_t bad = first_bad_document(tokens, starts, lengths, B, config);
    if (bad >= 0) return bad;
    unsigned mode = denormals_flush();
    gpt g;
    gpt_lay_out(&g, config, rows_in(lengths, B), B, workspace);
    g.params = params, g.grads = grads, g.accumulate = 1;
    begin_options(&g);
    pack_batch(&g, tokens, starts, lengths, B);
    forward(&g, pool);
    backward(&g, pool);
    document_losses(&g, losses);
    denormals_restore(mode);
    return -1;
}

/* g->grads and the loss of a step's documents */
static double batch_gradient(gpt *g, const int32_t *tokens, const int64_t *starts, const int32_t *lengths, ptrdiff_t B,
                             mgf_pool *pool) {
    double loss = 0;
    for (ptrdiff_t first = 0, n; first < B; first += n) {
        n = piece_of(lengths + first, B - first);
        g->B = n, g->N = rows_in(lengths + first, n), g->accumulate = first > 0;
        pack_batch(g, tokens, starts + first, lengths + first, B);
        forward(g, pool);
        backward(g, pool);
        loss += document_losses(g, NULL) * ((double)n / (double)B);
    }
    return loss;
}

/* gpt_train_steps of documents that are known to be good, for any model */
static void general_train_steps(double *losses, real *params, real *m, real *v, const int32_t *tokens,
                                const int64_t *starts, const int32_t *lengths, ptrdiff_t k, ptrdiff_t B, const double *lr,
                                const mgf_adam *adam, int64_t first_step, const mgf_config *config, void *workspace,
                                mgf_pool *pool) {
    gpt g;
    gpt_lay_out(&g, config, rows_in(lengths, B), B, workspace);
    g.params = params;
    begin_options(&g);
    for (ptrdiff_t step = 0; step < k; step++, starts += B, lengths += B) {
        gpt_place(&g, rows_in(lengths, B), B, workspace);
        losses[step] = batch_gradient(&g, tokens, starts, lengths, B, pool);
        adam_phase a = {
            .p = params,
            .m = m,
            .v = v,
            .g = g.grads,
            .constants = adam_at(lr[step], adam->beta1, adam->beta2, adam->eps, adam->weight_decay, first_step + step),
        };
        adam_all(&a, &g.table, config->n_layer, pool);
    }
}

static ptrdiff_t gpt_train_steps(double *losses, real *params, real *m, real *v, const int32_t *tokens,
                                 const int64_t *starts, const int32_t *lengths, ptrdiff_t k, ptrdiff_t B, const double *lr,
                                 const mgf_adam *adam, int64_t first_step, const mgf_config *config, void *workspace,
                                 mgf_pool *pool) {
    ptrdiff_t bad = first_bad_document(tokens, starts, lengths, k * B, config);
    if (bad >= 0) return bad;
    unsigned mode = denormals_flush();
    if (micro_serves(config))
        NARROW.train_steps(losses, params, m, v, tokens, starts, lengths, k, B, lr, adam, first_step, config, workspace,
                           pool);
    else
        general_train_steps(losses, params, m, v, tokens, starts, lengths, k, B, lr, adam, first_step, config, workspace,
                            pool);
    denormals_restore(mode);
    return -1;
}

#endif
