/* Gradients of a narrow model's weights, and the second phase of a step: Adam moves the weights, block by block, and their
 * transposes are renewed.
 *
 * In a small batch a block's gradient is summed over all rows in registers, and goes to Adam at once. A larger one is cut
 * into shares, of which each sums its gradients in the first phase: activations then need not travel to another core.
 */
#ifndef MGF_MICRO_UPDATE_H
#define MGF_MICRO_UPDATE_H

#include "micro_layout.h"

/* renews a unit's transpose */
INLINE void transpose_unit(const micro *g, const micro_unit *u) {
    UNROLL for (int j = 0; j < UNIT_VECTORS; j++)
        transpose_block(u->transposed + j * VL * u->ld_transposed, u->ld_transposed, g->params + u->at + j * VL, u->ld,
                        VL, VL, 1);
}

#define BLOCK_VECTORS UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < UNIT_VECTORS; j++)

/* dw += dy^T x over rows [t, end), in ascending order, for `rows` rows of the weight from `row` of the unit on */
INLINE void block_gradient(const int rows, vec dw[][UNIT_VECTORS], const micro_unit *u, ptrdiff_t row, ptrdiff_t t,
                           ptrdiff_t end) {
    const ptrdiff_t ld_dy = u->ld_dy, ld_x = u->ld_x;
    const real *dy = u->dy + row + t * ld_dy, *x = u->x + t * ld_x;
    for (; t < end; t++, dy += ld_dy, x += ld_x) {
        vec input[UNIT_VECTORS];
        UNROLL for (int j = 0; j < UNIT_VECTORS; j++) input[j] = load(x + j * VL);
        BLOCK_VECTORS dw[i][j] = splat(dy[i]) * input[j] + dw[i][j];
    }
}

/* the gradients of all weights from rows [first, end), stored as a share's first or added to it */
static void micro_share_gradients(const micro *g, real *sums, ptrdiff_t first, ptrdiff_t end, int adds) {
    const int rows = TALL_BLOCK_ROWS;
    for (const micro_unit *u = g->unit; u < g->unit + g->units; u++)
        for (ptrdiff_t row = 0; row < VL; row += rows) {
            const ptrdiff_t ld = u->ld;
            real *block = sums + u->at + row * ld;
            vec dw[TALL_BLOCK_ROWS][UNIT_VECTORS];
            BLOCK_VECTORS dw[i][j] = adds ? load(block + i * ld + j * VL) : (vec){0};
            block_gradient(rows, dw, u, row, first, end);
            BLOCK_VECTORS store(block + i * ld + j * VL, dw[i][j]);
        }
}

/* Units [first, end), block by block: the gradient, then Adam. The processor's unit that divides and takes roots is busy
 * for longer than those that multiply: some rows' roots are left to them, and a unit of weights is transposed when the
 * next is under way. */
INLINE void update_units(const micro *g, ptrdiff_t first, ptrdiff_t end, const adam_constants *constants,
                         const int rows, const int decays, const int shared) {
    const adam_constants a = *constants;
    for (const micro_unit *u = g->unit + first; u < g->unit + end; u++) {
        for (ptrdiff_t row = 0; row < VL; row += rows) {
            const ptrdiff_t ld = u->ld, block = u->at + row * ld;
            real *p = g->params + block, *m = g->m + block, *v = g->v + block;
            vec dw[TALL_BLOCK_ROWS][UNIT_VECTORS];
            BLOCK_VECTORS dw[i][j] = (vec){0};
            if (!shared) block_gradient(rows, dw, u, row, 0, g->N);
            else for (const real *sums = g->share_grads + block; sums < g->share_grads + g->shares * g->P; sums += g->P)
                BLOCK_VECTORS dw[i][j] += load(sums + i * ld + j * VL);
            BLOCK_VECTORS {
                const ptrdiff_t at = i * ld + j * VL;
                adam_whole_vector(p + at, m + at, v + at, dw[i][j], &a, decays, i % ROOT_BY_STEPS == 0);
            }
        }
        if (u > g->unit + first) transpose_unit(g, u - 1);
    }
    transpose_unit(g, g->unit + end - 1);
}

/* large batches: p *= 1 - 0 where nothing decays */
static void micro_update_units(const micro *g, ptrdiff_t first, ptrdiff_t end, const adam_constants *a) {
    if (g->shares) update_units(g, first, end, a, TALL_BLOCK_ROWS, 1, 1);
    else if (g->N > TALL_FROM) update_units(g, first, end, a, TALL_BLOCK_ROWS, 1, 0);
    else if (a->decays) update_units(g, first, end, a, BLOCK_ROWS, 1, 0);
    else update_units(g, first, end, a, BLOCK_ROWS, 0, 0);
}

/* rows [unit * EMBEDDING_UNIT, ..) of wte and wpe: sums of the batch's dx0 in ascending order; then Adam */
static void micro_update_embeddings(const micro *g, ptrdiff_t unit, const adam_constants *constants) {
    const adam_constants a = *constants;
    const ptrdiff_t C = g->C, V = g->config.vocab_size;
    const ptrdiff_t first = unit * EMBEDDING_UNIT, rows = min_of(EMBEDDING_UNIT, V + g->T - first);
    real *grads = g->embedding_grads + first * C;
    for (ptrdiff_t t = 0; t < g->N; t++) {
        const ptrdiff_t targets[2] = {g->tokens[t] - first, V + g->positions[t] - first};
        UNROLL for (int i = 0; i < 2; i++) {
            if (targets[i] < 0 || targets[i] >= rows) continue;
            real *row = grads + targets[i] * C;
            for (ptrdiff_t c = 0; c < C; c += VL) store(row + c, load(row + c) + load(g->dx0 + t * C + c));
        }
    }
    for (ptrdiff_t i = 0, at = first * C; i < rows * C; i += VL, at += VL) {
        adam_whole_vector(g->params + at, g->m + at, g->v + at, load(grads + i), &a, a.decays, i / VL % ROOT_BY_STEPS == 0);
        store(grads + i, (vec){0});
    }
}

#endif
