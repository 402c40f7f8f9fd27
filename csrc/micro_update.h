/* The second phase of a narrow model's step: a block of a weight's gradient is summed over all rows of the batch in
 * registers, Adam moves the block, and its transpose is renewed while it is there. */
#ifndef MGF_MICRO_UPDATE_H
#define MGF_MICRO_UPDATE_H

#include "micro_layout.h"

/* renews a unit's transpose */
INLINE void transpose_unit(const micro *g, const micro_unit *u) {
    UNROLL for (int j = 0; j < UNIT_VECTORS; j++)
        transpose_block(u->transposed + j * VL * u->ld_transposed, u->ld_transposed, g->params + u->at + j * VL, u->ld,
                        VL, VL, 1);
}

#define BLOCK_VECTORS UNROLL for (int i = 0; i < BLOCK_ROWS; i++) UNROLL for (int j = 0; j < UNIT_VECTORS; j++)

/* dw = dy^T x over the rows of the batch, in ascending order */
INLINE void block_gradient(vec dw[BLOCK_ROWS][UNIT_VECTORS], const micro_unit *u, ptrdiff_t first, ptrdiff_t N) {
    const real *dy = u->dy + first, *x = u->x;
    const ptrdiff_t ld_dy = u->ld_dy, ld_x = u->ld_x;
    BLOCK_VECTORS dw[i][j] = (vec){0};
    for (ptrdiff_t t = 0; t < N; t++, dy += ld_dy, x += ld_x) {
        vec row[UNIT_VECTORS];
        UNROLL for (int j = 0; j < UNIT_VECTORS; j++) row[j] = load(x + j * VL);
        BLOCK_VECTORS dw[i][j] = splat(dy[i]) * row[j] + dw[i][j];
    }
}

/* Units [first, end), block by block: the gradient, then Adam. The processor's unit that divides and takes roots is busy
 * for longer than those that multiply: some rows' roots are left to them, and a unit of weights is transposed when the
 * next is under way. */
INLINE void update_units(const micro *g, ptrdiff_t first, ptrdiff_t end, const adam_constants *constants,
                         const int decays) {
    const adam_constants a = *constants;
    for (const micro_unit *u = g->unit + first; u < g->unit + end; u++) {
        for (ptrdiff_t row = 0; row < VL; row += BLOCK_ROWS) {
            const ptrdiff_t ld = u->ld, block = u->at + row * ld;
            real *p = g->params + block, *m = g->m + block, *v = g->v + block;
            vec dw[BLOCK_ROWS][UNIT_VECTORS];
            block_gradient(dw, u, row, g->N);
            BLOCK_VECTORS {
                const ptrdiff_t at = i * ld + j * VL;
                adam_whole_vector(p + at, m + at, v + at, dw[i][j], &a, decays, i % ROOT_BY_STEPS == 0);
            }
        }
        if (u > g->unit + first) transpose_unit(g, u - 1);
    }
    transpose_unit(g, g->unit + end - 1);
}

static void micro_update_units(const micro *g, ptrdiff_t first, ptrdiff_t end, const adam_constants *a) {
    if (a->decays) update_units(g, first, end, a, 1);
    else update_units(g, first, end, a, 0);
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
