/* Register tiles: up to TILE_ROWS x TILE_VECTORS vectors of C stay in registers while k runs.
 *
 *     C[i, :] (mode)= sum over k of A(i, k) * B[k, :]          A(i, k) = a[i * ld_a + k], or a[k * ld_a + i] transposed
 *
 * Every element of C is one chain of multiply-adds with k ascending, from 0 on, or from what C holds: its bits do not
 * depend on how a matrix is cut into tiles, nor on how k is cut into blocks. The functions are made for every height and
 * width, so that no row or vector is computed in vain; `last` lanes of the last vector are real, the rest is neither read
 * nor written.
 */
#ifndef MGF_TILE_H
#define MGF_TILE_H

#include "base/simd.h"
#include "base/activation.h"

/* What becomes of x = A B, or of x = C + A B where `adds` is set. The activation that tiles know is relu, the one that costs
 * no more than an instruction: others would be compiled into every tile (gemm_activated in base/gemm.h). */
typedef enum {
    STORE,             /* c = x */
    ADD,               /* c = x, which began as c */
    ROW_SCALE_ADD,     /* c = c * scale[row] + x */
    ACTIVATE,          /* c = relu(x) */
    ACTIVATE_GRADIENT, /* c = x relu'(aux) */
} tile_mode;

typedef struct {
    ptrdiff_t K;
    const real *a;
    ptrdiff_t ld_a;
    int transposed;
    const real *b;
    ptrdiff_t ld_b, panel; /* between rows of B; between panels of it, for WIDE_ROW */
    real *c;
    ptrdiff_t ld_c;
    tile_mode mode;
    int adds;
    const real *scale; /* [rows], for ROW_SCALE_ADD */
    const real *aux;   /* as c */
    ptrdiff_t ld_aux;
    int last;
} tile_arguments;

typedef void tile_function(const tile_arguments *);

#define TILE_VECTORS (VECTOR_REGISTERS == 32 ? 4 : 2)
#define TILE_ROWS 12

/* A single row makes as many chains of multiply-adds as it has vectors, and 2 do not hide an addition's latency: with 16
 * registers it takes several panels of B at once. */
#define WIDE_ROW 8

/* the most rows that leave registers for one row of B and one element of A */
INLINE int tile_rows(int vectors) {
    if (VECTOR_REGISTERS == 32) return vectors == 4 ? 6 : vectors == 3 ? 8 : 12;
    return vectors == 2 ? 6 : 12;
}

INLINE vec tile_load(const real *p, const int partial, int last) { return partial ? load_n(p, last) : load(p); }
INLINE void tile_store(real *p, vec x, const int partial, int last) {
    if (partial) store_n(p, x, last);
    else store(p, x);
}

/* x [rows, vectors] += sum over k */
INLINE void tile_sums(const int rows, const int vectors, const int transposed, const int partial,
                      vec x[TILE_ROWS][WIDE_ROW], const tile_arguments *t) {
    const real *a = t->a, *b = t->b;
    const ptrdiff_t ld_a = t->ld_a, ld_b = t->ld_b, K = t->K;
    /* four row pointers, three rows from each: addresses that need no instruction of their own */
    const real *a0 = a, *a1 = a + 3 * ld_a, *a2 = a + 6 * ld_a, *a3 = a + 9 * ld_a;
    for (ptrdiff_t k = 0; k < K; k++) {
        if (transposed) __builtin_prefetch(a + 32 * ld_a); /* rows of A lie too far apart for the hardware to foresee */
        vec row[WIDE_ROW];
        EACH(j, vectors)
            row[j] =
                tile_load(b + j / TILE_VECTORS * t->panel + j % TILE_VECTORS * VL, partial && j == vectors - 1, t->last);
        EACH(i, rows) {
            real element = transposed ? a[i] : (i < 3 ? a0 : i < 6 ? a1 : i < 9 ? a2 : a3)[i % 3 * ld_a];
            EACH(j, vectors) x[i][j] = fused(splat(element), row[j], x[i][j]);
        }
        b += ld_b;
        if (transposed) a += ld_a;
        else a0++, a1++, a2++, a3++;
    }
}

INLINE void tile(const int rows, const int vectors, const int partial, const tile_arguments *t) {
    vec x[TILE_ROWS][WIDE_ROW];
    EACH(i, rows)
        EACH(j, vectors) x[i][j] = (vec){0};
    if (t->adds)
        EACH(i, rows)
            EACH(j, vectors) x[i][j] = tile_load(t->c + i * t->ld_c + j * VL, partial && j == vectors - 1, t->last);
    if (t->transposed) tile_sums(rows, vectors, 1, partial, x, t);
    else tile_sums(rows, vectors, 0, partial, x, t);

#define FOR_TILE(expression)                                                                                               \
    EACH(i, rows)                                                                                                          \
        EACH(j, vectors) {                                                                                                 \
            real *c = t->c + i * t->ld_c + j * VL;                                                                         \
            const int edge = partial && j == vectors - 1;                                                                  \
            tile_store(c, expression, edge, t->last);                                                                      \
        }
#define AUX_ELEMENT tile_load(t->aux + i * t->ld_aux + j * VL, edge, t->last)
    switch (t->mode) {
    case STORE:
    case ADD: FOR_TILE(x[i][j]); break;
    case ROW_SCALE_ADD: FOR_TILE(tile_load(c, edge, t->last) * splat(t->scale[i]) + x[i][j]); break;
    case ACTIVATE: FOR_TILE(relu(x[i][j])); break;
    case ACTIVATE_GRADIENT: FOR_TILE(relu_gradient(AUX_ELEMENT, x[i][j])); break;
    }
#undef AUX_ELEMENT
#undef FOR_TILE
}

#define TILE(rows, vectors)                                                                                                \
    NOINLINE void tile_##rows##x##vectors(const tile_arguments *t) { tile(rows, vectors, 0, t); }                          \
    NOINLINE void tile_##rows##x##vectors##_partial(const tile_arguments *t) { tile(rows, vectors, 1, t); }
#define TILES_TO_6(vectors)                                                                                                \
    TILE(1, vectors) TILE(2, vectors) TILE(3, vectors) TILE(4, vectors) TILE(5, vectors) TILE(6, vectors)
#define TILES_TO_8(vectors) TILES_TO_6(vectors) TILE(7, vectors) TILE(8, vectors)
#define TILES_TO_12(vectors) TILES_TO_8(vectors) TILE(9, vectors) TILE(10, vectors) TILE(11, vectors) TILE(12, vectors)

#define NAME(rows, vectors) {tile_##rows##x##vectors, tile_##rows##x##vectors##_partial}
#define NAMES_TO_6(v) NAME(1, v), NAME(2, v), NAME(3, v), NAME(4, v), NAME(5, v), NAME(6, v)
#define NAMES_TO_8(v) NAMES_TO_6(v), NAME(7, v), NAME(8, v)
#define NAMES_TO_12(v) NAMES_TO_8(v), NAME(9, v), NAME(10, v), NAME(11, v), NAME(12, v)

TILES_TO_12(1)
#if VECTOR_REGISTERS == 32
TILES_TO_12(2)
TILES_TO_8(3)
TILES_TO_6(4)
#else
TILES_TO_6(2)
NOINLINE void tile_wide_row(const tile_arguments *t) { tile(1, WIDE_ROW, 0, t); }
#endif

/* [vectors - 1][rows - 1][partial] */
static tile_function *const tile_functions[TILE_VECTORS][TILE_ROWS][2] = {
    {NAMES_TO_12(1)},
#if VECTOR_REGISTERS == 32
    {NAMES_TO_12(2)},
    {NAMES_TO_8(3)},
    {NAMES_TO_6(4)},
#else
    {NAMES_TO_6(2)},
#endif
};

#endif
