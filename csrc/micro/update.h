/* Gradients of a narrow model's weights, and the second phase of a step: Adam moves the weights, block by block, and their
 * transposes are renewed.
 *
 * In a small batch a block's gradient is summed over all rows in registers, and goes to Adam at once. A larger one is cut
 * into shares, of which each sums its gradients in the first phase: activations then need not travel to another core.
 */
#ifndef MGF_MICRO_UPDATE_H
#define MGF_MICRO_UPDATE_H

#include "micro/layout.h"

/* renews a unit's transpose */
INLINE void transpose_unit(const micro *g, const micro_unit *u) {
    EACH(j, UNIT_VECTORS)
        transpose_block(u->transposed + j * VL * u->ld_dy, u->ld_dy, g->params + u->at + j * VL, u->ld, VL, VL, 1);
}

/* dw += dy^T x over rows [t, end), in ascending order, for `rows` rows of the weight from `row` of the unit on */
INLINE void block_gradient(const int rows, vec dw[][UNIT_VECTORS], const micro_unit *u, ptrdiff_t row, ptrdiff_t t,
                           ptrdiff_t end) {
    const ptrdiff_t ld_dy = u->ld_dy, ld_x = u->ld_x;
    const real *dy = u->dy + row + t * ld_dy, *x = u->x + t * ld_x;
    for (; t < end; t++, dy += ld_dy, x += ld_x) {
        vec input[UNIT_VECTORS];
        EACH(j, UNIT_VECTORS) input[j] = load(x + j * VL);
        EACH(i, rows)
            EACH(j, UNIT_VECTORS) dw[i][j] = fused(splat(dy[i]), input[j], dw[i][j]);
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
            EACH(i, rows)
                EACH(j, UNIT_VECTORS) dw[i][j] = adds ? load(block + i * ld + j * VL) : (vec){0};
            block_gradient(rows, dw, u, row, first, end);
            EACH(i, rows)
                EACH(j, UNIT_VECTORS) store(block + i * ld + j * VL, dw[i][j]);
        }
}

/* `rows` rows of a unit, from `row` on: the gradient, then Adam; m and v lie behind the parameters. Some rows' roots are left
 * to multiplications, since the processor's unit that divides and takes roots is busy for longer than those that multiply. */
INLINE void update_block(const micro *g, const micro_unit *u, ptrdiff_t row, ptrdiff_t m, ptrdiff_t v,
                         const adam_constants *a, const int rows, const int decays, const int shared) {
    const ptrdiff_t ld = u->ld, block = u->at + row * ld;
    real *p = g->params + block;
    vec dw[TALL_BLOCK_ROWS][UNIT_VECTORS];
    EACH(i, rows)
        EACH(j, UNIT_VECTORS) dw[i][j] = (vec){0};
    if (!shared) block_gradient(rows, dw, u, row, 0, g->N);
    else
        for (const real *sums = g->share_grads + block; sums < g->share_grads + g->shares * g->P; sums += g->P)
            EACH(i, rows)
                EACH(j, UNIT_VECTORS) dw[i][j] += load(sums + i * ld + j * VL);
    UNROLL for (int i = 0; i < rows; i++, p += ld) EACH(j, UNIT_VECTORS)
        adam_whole_vector(p + j * VL, p + m + j * VL, p + v + j * VL, dw[i][j], a, decays, i % ROOT_BY_STEPS == 0);
}

/* Units [first, end), block by block. A unit of weights is transposed when the next is under way. */
INLINE void update_units(const micro *g, ptrdiff_t first, ptrdiff_t end, const adam_constants *constants,
                         const int rows, const int decays, const int shared) {
    const adam_constants a = *constants;
    const ptrdiff_t m = g->m - g->params, v = g->v - g->params;
    for (const micro_unit *u = g->unit + first; u < g->unit + end; u++) {
        ptrdiff_t row = 0;
        for (; u->rows - row > rows / 2; row += rows) update_block(g, u, row, m, v, &a, rows, decays, shared);
        if (row < u->rows) update_block(g, u, row, m, v, &a, rows / 2, decays, shared);
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

/* row += d, where it is one of the item's rows */
INLINE void add_to_row(real *grads, ptrdiff_t row, ptrdiff_t rows, const real *d, ptrdiff_t C) {
    if ((size_t)row >= (size_t)rows) return;
    grads += row * C;
    for (ptrdiff_t c = 0; c < C; c += VL) store(grads + c, load(grads + c) + load(d + c));
}

/* rows [unit * EMBEDDING_UNIT, ..) of wte and wpe: sums of the batch's dx0 in ascending order; then Adam */
static void micro_update_embeddings(const micro *g, ptrdiff_t unit, const adam_constants *constants) {
    const adam_constants a = *constants;
    const ptrdiff_t C = g->C, first = unit * EMBEDDING_UNIT, wpe = g->config.vocab_size - first;
    const ptrdiff_t rows = min_of(EMBEDDING_UNIT, wpe + g->T);
    real *grads = g->embedding_grads + first * C, *p = g->params + first * C, *m = g->m + first * C, *v = g->v + first * C;
    const int32_t *tokens = g->tokens, *positions = g->positions;
    const real *dx0 = g->dx0;
    for (ptrdiff_t t = 0, N = g->N; t < N; t++, dx0 += C) {
        add_to_row(grads, tokens[t] - first, rows, dx0, C);
        add_to_row(grads, wpe + positions[t], rows, dx0, C);
    }
    for (ptrdiff_t i = 0; i < rows * C; i += ROOT_BY_STEPS * VL)
        EACH(j, ROOT_BY_STEPS) { /* the last rows' padding moves from 0 to 0 */
            const ptrdiff_t at = i + j * VL;
            adam_whole_vector(p + at, m + at, v + at, load(grads + at), &a, a.decays, j == 0);
            store(grads + at, (vec){0});
        }
}

#endif
