/* Gradients of the weights, and what becomes of them: they are kept, or move the weights at once. */
#ifndef MGF_MIXED_GRADIENTS_H
#define MGF_MIXED_GRADIENTS_H

#include <string.h>

#include "base/rows.h"
#include "gpt/update.h"
#include "mixed/layout.h"

/* a step of AdamW on the parameters p */
typedef struct update {
    float *p, *m, *v;
    adam_constants constants;
} update;

/* Blocks of PANEL rows of a weight are items: they read one panel of its output's gradient. */
INLINE ptrdiff_t weight_blocks(weight w) { return blocks_of(rows_of_weight(w), PANEL); }

INLINE void deliver_lanes(const mixed *g, ptrdiff_t at, vec gradient, int n) {
    const update *u = g->update;
    if (u && n == VL)
        adam_whole_vector(u->p + at, u->m + at, u->v + at, gradient * splat(u->constants.scale), &u->constants,
                          u->constants.decays, 0);
    else if (u) adam_vector(u->p + at, u->m + at, u->v + at, gradient * splat(u->constants.scale), &u->constants, n);
    else store_n(g->grads + at, g->accumulate ? load_n(g->grads + at, n) + gradient : gradient, n);
}

/* a row of a block of the gradient, what is no padding of it, to the place of weight w's row o, column c */
INLINE void deliver_row(const mixed *g, weight w, const float *row, ptrdiff_t o, ptrdiff_t c, ptrdiff_t columns) {
    if (is_whole(w)) {
        const ptrdiff_t at = w.at + o * width_of_weight(w) + c;
        for (ptrdiff_t j = 0; j < columns; j += VL) deliver_lanes(g, at + j, load(row + j), VL);
        return;
    }
    const place to = place_of(w.rows, o, 1);
    for (ptrdiff_t j = 0; to.n && j < columns; j += VL) {
        const place column = place_of(w.columns, c + j, VL);
        if (column.n) deliver_lanes(g, w.at + to.at * width_of_weight(w) + column.at, load(row + j), (int)column.n);
    }
}

/* dw = dy^T x over all rows, for block `item` of w's rows */
static void weight_gradient(const mixed *g, weight w, ptrdiff_t item, row_pairs dy, row_pairs x) {
    float block[TILE_ROWS * PANEL] __attribute__((aligned(VECTOR_BYTES)));
    const row_range r = block_at(item, rows_of_weight(w), PANEL);
    for (ptrdiff_t c = 0; c < columns_of_weight(w); c += PANEL) {
        const ptrdiff_t columns = min_of(PANEL, columns_of_weight(w) - c);
        tile_arguments t = {
            .K = g->N / 2,
            .a = pairs_at(dy, 0, r.first),
            .ld_a = dy.ld,
            .transposed = 1,
            .b = pairs_at(x, 0, c),
            .ld_b = x.ld,
            .c = block,
            .ld_c = PANEL,
        };
        /* few rows at a time: the divisions of the update overlap with the next products */
        for (ptrdiff_t i = 0, rows; i < r.rows; i += rows, t.a += rows) {
            rows = min_of(TILE_ROWS, r.rows - i);
            multiply_strip(t, rows, columns);
            for (ptrdiff_t k = 0; k < rows; k++) deliver_row(g, w, block + k * PANEL, r.first + i + k, c, columns);
        }
    }
}

/* dwte, dwpe (+)= scattered rows of dx, in ascending order of rows */
static void embedding_gradients(const mixed *g) {
    const ptrdiff_t C = g->config.n_embd;
    float *dwte = g->grads + g->table.outside[WTE].at, *dwpe = g->grads + g->table.outside[WPE].at;
    if (!g->accumulate) {
        memset(dwte, 0, (size_t)(g->config.vocab_size * C) * sizeof(float));
        memset(dwpe, 0, (size_t)(g->T * C) * sizeof(float));
    }
    for (ptrdiff_t i = 0; i < g->N; i++) {
        float *token = dwte + g->tokens[i] * C, *position = dwpe + g->positions[i] * C;
        add_rows(token, token, g->dx + i * g->C, C);
        add_rows(position, position, g->dx + i * g->C, C);
    }
}

#endif
