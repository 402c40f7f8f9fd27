/* Register tiles of bfloat16 products: up to TILE_ROWS x TILE_VECTORS vectors of float32 sums stay in registers.
 *
 *     X[i, :] = sum over pairs k of A(i, k) B[k, :]        A(i, k) = a[i * ld_a + k], or a[k * ld_a + i] transposed
 *
 * Every sum is one chain with k ascending, from 0 on: its bits do not depend on the tile it falls into. From the registers
 * it goes out in the forms that the next products read:
 *
 *     rows    bfloat16 [row][column]            neighbouring columns are pairs: to be multiplied along the columns
 *     pairs   of rows 2 r and 2 r + 1, in panels of PANEL columns: to be summed over the rows
 *
 * so heights are even, and so is the number of rows in everything that is multiplied here.
 */
#ifndef MGF_MIXED_TILE_H
#define MGF_MIXED_TILE_H

#include "mixed/bfloat16.h"

enum { PANEL = 64 }; /* columns whose pairs lie together */

#if VECTOR_REGISTERS == 32
#define TILE_VECTORS 4
#else
#define TILE_VECTORS 2
#endif
#define TILE_ROWS 12

/* Pairs of rows of a matrix: those of row pair r and column c are data[c / PANEL * panel + r * ld + c % PANEL]. */
typedef struct {
    pair *data;
    ptrdiff_t panel, ld;
} row_pairs;

INLINE pair *pairs_at(row_pairs p, ptrdiff_t row_pair, ptrdiff_t column) {
    return p.data + column / PANEL * p.panel + row_pair * p.ld + column % PANEL;
}

typedef enum {
    STORE,    /* c = x, float32 */
    ADD,      /* c += x */
    BOTH,     /* rows, pairs = x */
    SCALED,   /* rows, pairs = x scale[row] */
    RELU,     /* rows, pairs = max(x, 0) */
    MASKED,   /* rows, pairs = x where the pairs of `mask` are positive, else 0 */
    ALL_THREE /* c, rows, pairs = x */
} output_mode;

typedef struct {
    ptrdiff_t K; /* pairs to sum over */
    const pair *a;
    ptrdiff_t ld_a;
    int transposed;
    const pair *b;
    ptrdiff_t ld_b;
    output_mode mode;
    float *c;
    ptrdiff_t ld_c;
    bfloat16 *rows;
    ptrdiff_t ld_rows;
    row_pairs pairs, mask;
    ptrdiff_t row_pair, column; /* of the tile's corner in pairs and mask */
    const float *scale;
} tile_arguments;

typedef void tile_function(const tile_arguments *);

/* the most rows that leave registers for one row of B and one pair of A; with 16 registers 6 rows would, but compilers then
 * keep sums in memory */
INLINE int tile_rows(int vectors) { return TILE_VECTORS == 2 ? 4 : vectors == 4 ? 6 : 12; }

/* x [rows, vectors] += the products of one k; without the instruction all odd elements' come first, then all even ones':
 * so both operands' halves fit the registers */
INLINE void add_step(const int rows, const int vectors, vec x[TILE_ROWS][TILE_VECTORS], const pair *a0, const pair *a1,
                     const pair *a2, const pair *a3, ptrdiff_t ld_a, const pair *b) {
#define PAIR_OF_A(i) splat_pair((i < 3 ? a0 : i < 6 ? a1 : i < 9 ? a2 : a3) + i % 3 * ld_a)
#ifdef __AVX512BF16__
    pairs row[TILE_VECTORS];
    EACH(j, vectors) row[j] = load_pairs(b + j * VL);
    EACH(i, rows) {
        const pairs element = PAIR_OF_A(i);
        EACH(j, vectors) x[i][j] = add_products(x[i][j], element, row[j]);
    }
#else
    EACH(half, 2) {
        __asm__ volatile("" ::: "memory"); /* lest the pairs stay in registers from one half to the other */
        vec row[TILE_VECTORS];
        EACH(j, vectors) row[j] = half ? even_of(load_pairs(b + j * VL)) : odd_of(load_pairs(b + j * VL));
        EACH(i, rows) {
            const pairs element = PAIR_OF_A(i);
            const vec factor = half ? even_of(element) : odd_of(element);
            EACH(j, vectors) x[i][j] = fused(factor, row[j], x[i][j]);
        }
    }
#endif
#undef PAIR_OF_A
}

INLINE void add_steps(const int rows, const int vectors, const int transposed, vec x[TILE_ROWS][TILE_VECTORS],
                      const tile_arguments *t) {
    const ptrdiff_t K = t->K, ld_b = t->ld_b, step = transposed ? t->ld_a : 1, ld_a = transposed ? 1 : t->ld_a;
    /* four row pointers, three rows from each: addresses that need no instruction of their own */
    const pair *a0 = t->a, *a1 = a0 + 3 * ld_a, *a2 = a0 + 6 * ld_a, *a3 = a0 + 9 * ld_a, *b = t->b;
#pragma GCC unroll 2
    for (ptrdiff_t k = 0; k < K; k++, a0 += step, a1 += step, a2 += step, a3 += step, b += ld_b)
        add_step(rows, vectors, x, a0, transposed ? a0 + 3 : a1, transposed ? a0 + 6 : a2, transposed ? a0 + 9 : a3,
                 transposed ? 1 : ld_a, b);
}

INLINE void store_tile(const int rows, const int vectors, vec x[TILE_ROWS][TILE_VECTORS], const tile_arguments *t) {
    EACH(i, rows)
        EACH(j, vectors) store(t->c + i * t->ld_c + j * VL, x[i][j]);
}

/* the tile in both forms of bfloat16 */
INLINE void store_halves(const int rows, const int vectors, vec x[TILE_ROWS][TILE_VECTORS], const tile_arguments *t) {
    EACH(i, rows) {
        bfloat16 *row = t->rows + i * t->ld_rows;
    UNROLL for (int j = 0; j + 2 <= vectors; j += 2) store_pairs((pair *)(row + j * VL), row_of_pairs(x[i][j], x[i][j + 1]));
        if (vectors == 1) store_row(row, x[i][0]);
    }
    EACH(j, vectors) {
        pair *to = pairs_at(t->pairs, t->row_pair, t->column + j * VL);
        UNROLL for (int i = 0; i < rows; i += 2) store_pairs(to + i / 2 * t->pairs.ld, pair_up(x[i][j], x[i + 1][j]));
    }
}

INLINE void mask_tile(const int rows, const int vectors, vec x[TILE_ROWS][TILE_VECTORS], const tile_arguments *t) {
    EACH(j, vectors) {
        const pair *from = pairs_at(t->mask, t->row_pair, t->column + j * VL);
        UNROLL for (int i = 0; i < rows; i += 2) {
            const pairs f = load_pairs(from + i / 2 * t->mask.ld);
            x[i][j] = x[i][j] * blend(even_of(f) > (vec){0}, splat(1), (vec){0}); /* NaN times 0 is NaN */
            x[i + 1][j] = x[i + 1][j] * blend(odd_of(f) > (vec){0}, splat(1), (vec){0});
        }
    }
}

INLINE void tile(const int rows, const int vectors, const tile_arguments *t) {
    vec x[TILE_ROWS][TILE_VECTORS];
    EACH(i, rows) EACH(j, vectors) x[i][j] = (vec){0};
    if (t->transposed) add_steps(rows, vectors, 1, x, t);
    else add_steps(rows, vectors, 0, x, t);
    switch (t->mode) {
    case STORE: store_tile(rows, vectors, x, t); break;
    case ADD:
        EACH(i, rows) EACH(j, vectors) x[i][j] += load(t->c + i * t->ld_c + j * VL);
        store_tile(rows, vectors, x, t);
        break;
    case BOTH: store_halves(rows, vectors, x, t); break;
    case SCALED:
        EACH(i, rows) EACH(j, vectors) x[i][j] *= splat(t->scale[i]);
        store_halves(rows, vectors, x, t);
        break;
    case RELU:
        EACH(i, rows) EACH(j, vectors) x[i][j] = vmax((vec){0}, x[i][j]); /* in this order NaN stays NaN */
        store_halves(rows, vectors, x, t);
        break;
    case MASKED:
        mask_tile(rows, vectors, x, t);
        store_halves(rows, vectors, x, t);
        break;
    case ALL_THREE:
        store_tile(rows, vectors, x, t);
        store_halves(rows, vectors, x, t);
    }
}

#define TILE(rows, vectors)                                                                                                \
    NOINLINE void tile_##rows##x##vectors(const tile_arguments *t) { tile(rows, vectors, t); }
#define TILES_TO_4(vectors) TILE(2, vectors) TILE(4, vectors)
#define TILES_TO_6(vectors) TILES_TO_4(vectors) TILE(6, vectors)
#define TILES_TO_12(vectors) TILES_TO_6(vectors) TILE(8, vectors) TILE(10, vectors) TILE(12, vectors)
#define NAME(rows, vectors) tile_##rows##x##vectors
#define NAMES_TO_4(v) NAME(2, v), NAME(4, v)
#define NAMES_TO_6(v) NAMES_TO_4(v), NAME(6, v)
#define NAMES_TO_12(v) NAMES_TO_6(v), NAME(8, v), NAME(10, v), NAME(12, v)

/* a panel's columns are whole LANES: that many vectors, or all */
#if TILE_VECTORS == 2
TILES_TO_4(2)
#else
TILES_TO_6(4)
#if VL == 16
TILES_TO_12(1)
TILES_TO_12(2)
#endif
#endif

/* [vectors][rows / 2 - 1] */
static tile_function *const tile_functions[TILE_VECTORS + 1][TILE_ROWS / 2] = {
#if TILE_VECTORS == 2
    [2] = {NAMES_TO_4(2)},
#else
    [4] = {NAMES_TO_6(4)},
#if VL == 16
    [1] = {NAMES_TO_12(1)},
    [2] = {NAMES_TO_12(2)},
#endif
#endif
};

/* how many vectors the next tile takes of so many columns, a multiple of LANES */
INLINE int tile_width(ptrdiff_t columns) {
    if (VL < LANES) return TILE_VECTORS;
    return columns >= 4 * VL ? 4 : columns >= 2 * VL ? 2 : 1;
}

#endif
