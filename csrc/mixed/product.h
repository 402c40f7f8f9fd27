/* Products from tiles: a strip is a panel's columns of a block of rows. */
#ifndef MGF_MIXED_PRODUCT_H
#define MGF_MIXED_PRODUCT_H

#include "mixed/tile.h"

/* moves what t describes to `rows` rows, an even number, further down */
INLINE void move_down(tile_arguments *t, ptrdiff_t rows) {
    t->a += t->transposed ? rows : rows * t->ld_a;
    t->row_pair += rows / 2;
    if (t->c) t->c += rows * t->ld_c;
    if (t->rows) t->rows += rows * t->ld_rows;
    if (t->scale) t->scale += rows;
}
/* and to columns further to the right, but for b */
INLINE void move_right(tile_arguments *t, ptrdiff_t columns) {
    t->column += columns;
    if (t->c) t->c += columns;
    if (t->rows) t->rows += columns;
}

/* `rows` rows, an even number, and at most PANEL columns, a multiple of LANES. Arguments are moved, not copied: the copy
 * of a tile's would be waited for. */
static void multiply_strip(tile_arguments t, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t j = 0; j < columns;) {
        const int vectors = tile_width(columns - j);
        tile_function *const *functions = tile_functions[vectors];
        const ptrdiff_t most = tile_rows(vectors);
        for (ptrdiff_t left = rows, height; left; left -= height) {
            height = min_of(most, left);
            functions[height / 2 - 1](&t);
            move_down(&t, height);
        }
        j += vectors * VL;
        if (j == columns) return;
        move_down(&t, -rows), move_right(&t, vectors * VL), t.b += vectors * VL;
    }
}

/* `columns` columns, B in panels as weights.h leaves them: K pairs of rows of PANEL columns, the last panel's as wide as
 * it is */
static void multiply(tile_arguments t, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t left = columns; left > 0; left -= PANEL) {
        t.ld_b = min_of(PANEL, left);
        multiply_strip(t, rows, t.ld_b);
        move_right(&t, PANEL), t.b += PANEL * t.K;
    }
}

/* to [columns][rows] = from [rows][columns] of pairs, both multiples of LANES */
static void transpose_pairs(pair *to, ptrdiff_t ld_to, const pair *from, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t i = 0; i < rows; i += VL)
        for (ptrdiff_t j = 0; j < columns; j += VL) {
            vec block[VL];
            EACH(k, VL) block[k] = (vec)load_pairs(from + (i + k) * ld + j);
            transpose(block);
            EACH(k, VL) store_pairs(to + (j + k) * ld_to + i, (pairs)block[k]);
        }
}

#endif
