/* AdamW on a gradient that is divided and clipped on the way, shared out among threads. */
#ifndef MGF_UPDATE_H
#define MGF_UPDATE_H

#include "kernels/adam.h"
#include "base/denormals.h"
#include "base/blocks.h"
#include "parameters.h"
#include "threads.h"

enum {
    ADAM_BLOCK = 16384, /* parameters that make an item */
    NORM_PARTS = 64,    /* sums that make a norm, at most */
    NORM_LANES = 16     /* chains of additions in each */
};

typedef struct {
    real *p, *m, *v, *g;
    ptrdiff_t first, n; /* elements of the flat buffers that are moved */
    adam_constants constants;
    int clear; /* g becomes 0, while it is in the cache */
} adam_phase;

static void adam_block(void *context, ptrdiff_t item) {
    const adam_phase *a = context;
    row_range r = block_at(item, a->n, ADAM_BLOCK);
    const ptrdiff_t at = a->first + r.first;
    real *g = a->g + at;
    adam_range(a->p + at, a->m + at, a->v + at, g, r.rows, &a->constants);
    if (a->clear) memset(g, 0, (size_t)r.rows * sizeof(real));
}

/* Moves the elements from a->first to `end`, and begins there the next time. */
static void adam_until(adam_phase *a, ptrdiff_t end, mgf_pool *pool) {
    a->n = end - a->first;
    mgf_pool_run(pool, blocks_of(a->n, ADAM_BLOCK), adam_block, a);
    a->first = end;
}

/* Moves n parameters that begin at `base` in the flat buffer: in one run as long as the same decay applies to them. */
static void adam_parameters(adam_phase *a, const mgf_parameter *p, int n, ptrdiff_t base, const adam_constants *decaying,
                            mgf_pool *pool) {
    for (int i = 0; i < n; i++) {
        if (p[i].tied_to || !p[i].rows) continue;
        const int decays = decaying->decays && !(p[i].properties & NO_DECAY);
        if (decays == a->constants.decays) continue;
        adam_until(a, base + p[i].at, pool);
        a->constants = decays ? *decaying : without_decay(*decaying);
    }
}

/* Moves all parameters of the table; weight decay applies where the table says so. */
static void adam_all(adam_phase *a, const parameter_table *t, ptrdiff_t layers, mgf_pool *pool) {
    const adam_constants decaying = a->constants;
    a->first = 0;
    adam_parameters(a, t->outside, OUTSIDE_LAYERS, 0, &decaying, pool);
    for (ptrdiff_t l = 0; l < layers; l++) adam_parameters(a, t->layer, OF_A_LAYER, l * t->layer_size, &decaying, pool);
    adam_until(a, t->count, pool);
}

/* in float64, where no float's square is too large or small; compilers make vectors of the lanes */
static double sum_of_squares(const real *g, ptrdiff_t n) {
    double sums[NORM_LANES] = {0}, total = 0;
    ptrdiff_t i = 0;
    for (; i + NORM_LANES <= n; i += NORM_LANES)
        EACH(lane, NORM_LANES) sums[lane] += (double)g[i + lane] * (double)g[i + lane];
    for (; i < n; i++) total += (double)g[i] * (double)g[i];
    for (int lane = 0; lane < NORM_LANES; lane++) total += sums[lane];
    return total;
}

typedef struct {
    const real *g;
    ptrdiff_t n, part;
    double sums[NORM_PARTS];
} norm_phase;

static void norm_part(void *context, ptrdiff_t item) {
    norm_phase *p = context;
    row_range r = block_at(item, p->n, p->part);
    p->sums[item] = sum_of_squares(p->g + r.first, r.rows);
}

/* The parts depend on n alone, and are added in their order: the bits do not depend on the number of threads. */
static double norm_of(const real *g, ptrdiff_t n, mgf_pool *pool) {
    norm_phase p = {g, n, max_of(ADAM_BLOCK, blocks_of(n, NORM_PARTS)), {0}};
    mgf_pool_run(pool, blocks_of(n, p.part), norm_part, &p);
    double total = 0;
    for (int i = 0; i < NORM_PARTS; i++) total += p.sums[i];
    return sqrt(total);
}

/* The factor is part of Adam's own scale. A norm that is not a number clips nothing: the parameters, and the next loss,
 * will show it. */
static double gpt_update(real *params, real *m, real *v, real *grads, double lr, const mgf_adam *adam, int64_t step,
                         double divisor, double max_norm, const mgf_config *config, mgf_pool *pool) {
    unsigned mode = denormals_flush();
    const parameter_table table = parameters_of(config);
    adam_phase a = {
        .p = params,
        .m = m,
        .v = v,
        .g = grads,
        .constants = adam_at(lr, adam->beta1, adam->beta2, adam->eps, adam->weight_decay, step),
        .clear = 1,
    };
    double norm = max_norm > 0 ? norm_of(grads, table.count, pool) / divisor : 0;
    double factor = norm > max_norm ? max_norm / norm : 1;
    a.constants.scale = (real)(adam_scale(adam->beta2) * factor / divisor);
    adam_all(&a, &table, config->n_layer, pool);
    denormals_restore(mode);
    return norm;
}

#endif
