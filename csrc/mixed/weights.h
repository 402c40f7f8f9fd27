/* Weight matrices: where they lie among the float32 parameters, and their two bfloat16 copies, which the products read.
 *
 *     y = x w^T     takes w in pairs along its columns, one column of pairs after another:  forward [O / PANEL][C / 2][PANEL]
 *     dx = dy w     takes w in pairs along its rows:                                        backward [C / PANEL][O / 2][PANEL]
 *
 * In the copies, rows and columns are padded to whole LANES by zeros: all at the end, or, where they belong to attention
 * heads, at the end of every head.
 */
#ifndef MGF_MIXED_WEIGHTS_H
#define MGF_MIXED_WEIGHTS_H

#include "mixed/product.h"

/* `groups` of `size` numbers, each padded to `padded` ones */
typedef struct {
    ptrdiff_t groups, size, padded;
} dimension;

INLINE dimension plain_dimension(ptrdiff_t n) { return (dimension){1, n, in_lanes(n)}; }
INLINE dimension heads_dimension(ptrdiff_t heads, ptrdiff_t D) {
    return D == in_lanes(D) ? plain_dimension(heads * D) : (dimension){heads, D, in_lanes(D)};
}
INLINE ptrdiff_t padded_length(dimension d) { return d.groups * d.padded; }

/* Number i of the padded ones is number `at` of the others, and `n` of the `most` numbers from there on are not padding. */
typedef struct {
    ptrdiff_t at, n;
} place;
INLINE place place_of(dimension d, ptrdiff_t i, ptrdiff_t most) {
    const ptrdiff_t group = d.groups == 1 ? 0 : i / d.padded, within = i - group * d.padded;
    return (place){group * d.size + within, max_of(0, min_of(most, d.size - within))};
}

typedef struct {
    ptrdiff_t at; /* in the flat buffer, row-major */
    dimension rows, columns;
    ptrdiff_t forward, backward; /* where the copies begin among all weights' */
} weight;

INLINE ptrdiff_t rows_of_weight(weight w) { return padded_length(w.rows); }
INLINE ptrdiff_t columns_of_weight(weight w) { return padded_length(w.columns); }
INLINE ptrdiff_t width_of_weight(weight w) { return w.columns.groups * w.columns.size; } /* of its float32 rows */

/* whether nothing is padded */
INLINE int is_whole(weight w) { return w.rows.size == w.rows.padded && w.columns.size == w.columns.padded; }

/* VL numbers of padded row o from padded column c on */
INLINE vec weight_lanes(const int whole, weight w, const float *params, ptrdiff_t o, ptrdiff_t c) {
    if (whole) return load(params + w.at + o * width_of_weight(w) + c);
    const place row = place_of(w.rows, o, 1), column = place_of(w.columns, c, VL);
    if (!row.n || !column.n) return (vec){0};
    return load_n(params + w.at + row.at * width_of_weight(w) + column.at, (int)column.n);
}

/* the pairs along the columns, VL of them, of VL rows: transposed */
INLINE void copy_forward_block(const int whole, pair *to, ptrdiff_t ld, weight w, const float *params, ptrdiff_t o,
                               ptrdiff_t c) {
    vec block[VL];
    const int more = c + VL < columns_of_weight(w);
    EACH(i, VL)
        block[i] = (vec)row_of_pairs(weight_lanes(whole, w, params, o + i, c),
                                     more ? weight_lanes(whole, w, params, o + i, c + VL) : (vec){0});
    transpose(block);
    const ptrdiff_t k = min_of(VL, (columns_of_weight(w) - c) / 2);
    EACH(i, VL)
        if (i < k) store_pairs(to + i * ld, (pairs)block[i]);
}

INLINE void copy_rows(const int whole, pair *forward, pair *backward, weight w, const float *params, ptrdiff_t first,
                      ptrdiff_t end) {
    const ptrdiff_t O = rows_of_weight(w), C = columns_of_weight(w);
    forward += w.forward;
    for (ptrdiff_t o = first; o < end; o += VL) {
        const ptrdiff_t panel = o / PANEL * PANEL, width = min_of(PANEL, O - panel);
        pair *to = forward + panel * (C / 2) + o % PANEL;
        for (ptrdiff_t c = 0; c < C; c += 2 * VL) copy_forward_block(whole, to + c / 2 * width, width, w, params, o, c);
    }
    if (!backward) return;
    backward += w.backward;
    for (ptrdiff_t o = first; o < end; o += 2)
        for (ptrdiff_t c = 0; c < C; c += VL) {
            const ptrdiff_t panel = c / PANEL * PANEL, width = min_of(PANEL, C - panel);
            store_pairs(backward + panel * (O / 2) + o / 2 * width + c % PANEL,
                        pair_up(weight_lanes(whole, w, params, o, c), weight_lanes(whole, w, params, o + 1, c)));
        }
}

/* Both copies of the padded rows from `first` to `end`, multiples of LANES; no backward one where that is NULL. */
static void copy_weight(pair *forward, pair *backward, weight w, const float *params, ptrdiff_t first, ptrdiff_t end) {
    if (is_whole(w)) copy_rows(1, forward, backward, w, params, first, end);
    else copy_rows(0, forward, backward, w, params, first, end);
}

#endif
