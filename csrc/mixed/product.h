/* Products from tiles: a strip is a panel's columns of a block of rows. */
#ifndef MGF_MIXED_PRODUCT_H
#define MGF_MIXED_PRODUCT_H

#include "mixed/tile.h"

/* the part of the output that begins at row i, an even one, and column j of the panel at hand */
INLINE tile_arguments tile_at(const tile_arguments *t, ptrdiff_t i, ptrdiff_t j) {
    tile_arguments part = *t;
    part.a += t->transposed ? i : i * t->ld_a, part.b += j;
    part.row_pair += i / 2, part.column += j;
    if (t->c) part.c += i * t->ld_c + j;
    if (t->rows) part.rows += i * t->ld_rows + j;
    if (t->scale) part.scale += i;
    return part;
}

/* `rows` rows, an even number, and at most PANEL columns, a multiple of LANES */
static void multiply_strip(const tile_arguments *t, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t j = 0; j < columns;) {
        const int vectors = tile_width(columns - j);
        tile_function *const *functions = tile_functions[vectors];
        const ptrdiff_t most = tile_rows(vectors);
        for (ptrdiff_t i = 0, height; i < rows; i += height) {
            height = min_of(most, rows - i);
            const tile_arguments part = tile_at(t, i, j);
            functions[height / 2 - 1](&part);
        }
        j += vectors * VL;
    }
}

/* `columns` columns, B in panels as pack.h leaves them: K pairs of rows of PANEL columns, the last panel's as wide as it is */
static void multiply(tile_arguments t, ptrdiff_t rows, ptrdiff_t columns) {
    const pair *b = t.b;
    for (ptrdiff_t j = 0; j < columns; j += PANEL) {
        tile_arguments strip = tile_at(&t, 0, j);
        strip.ld_b = min_of(PANEL, columns - j), strip.b = b + j * t.K;
        multiply_strip(&strip, rows, strip.ld_b);
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
