/* Products of a few rows of a narrow model: a tile of rows stays in registers while it is multiplied with a weight. */
#ifndef MGF_MICRO_TILE_H
#define MGF_MICRO_TILE_H

#include "micro/layout.h"

/* `tiles` tiles of equal height from row `first` on; the statistics of row t are at t + gap */
typedef struct {
    const micro *g;
    ptrdiff_t layer, first, tiles, gap;
} micro_rows;

typedef vec micro_tile[MICRO_ROWS][4];

/* t: the first row of each of p's tiles of R rows */
#define EACH_TILE(t, p, R) for (ptrdiff_t t = (p)->first; t < (p)->first + (p)->tiles * (R); t += (R))

/* the first of the statistics in each vector that R rows fill */
#define EACH_VECTOR_OF(i, R) UNROLL for (int i = 0; i < (R); i += VL)

/* the most vectors of a row, dividing n of them, that registers hold for R rows */
INLINE int vectors_at_once(const int n, const int R) {
    const int most = VECTOR_REGISTERS == 32 ? 24 / R : 10 / R;
    return n % 4 == 0 && most >= 4 ? 4 : n % 3 == 0 && most >= 3 ? 3 : n % 2 == 0 && most >= 2 ? 2 : 1;
}

/* x [R, M VL] += a [R, K] w [K, M VL]. Processors start two multiply-adds per cycle, which take four: fewer than 8 chains leave
 * gaps. Up to 6 become twice as many, of even and of odd k; 7 did not gain by it. */
INLINE void multiply(const int R, const int M, const ptrdiff_t K, micro_tile x, const real *a, const ptrdiff_t ld_a,
                     const real *w, const ptrdiff_t ld_w) {
    ptrdiff_t k = 0;
    if (M * R < 7) {
        micro_tile odd;
        EACH(i, R)
            EACH(j, M) odd[i][j] = (vec){0};
        for (; k + 1 < K; k += 2) {
            vec row[4], next[4];
            EACH(j, M) row[j] = load(w + k * ld_w + j * VL);
            EACH(i, R)
                EACH(j, M) x[i][j] = fused(splat(a[i * ld_a + k]), row[j], x[i][j]);
            EACH(j, M) next[j] = load(w + (k + 1) * ld_w + j * VL);
            EACH(i, R)
                EACH(j, M) odd[i][j] = fused(splat(a[i * ld_a + k + 1]), next[j], odd[i][j]);
        }
        EACH(i, R)
            EACH(j, M) x[i][j] += odd[i][j];
    }
    for (; k < K; k++) {
        vec row[4];
        EACH(j, M) row[j] = load(w + k * ld_w + j * VL);
        EACH(i, R) {
            vec element = splat(a[i * ld_a + k]);
            EACH(j, M) x[i][j] = fused(element, row[j], x[i][j]);
        }
    }
}

/* x [R, M VL] = a [R, K] w [K, M VL] */
INLINE void product_piece(const int R, const int M, const ptrdiff_t K, micro_tile x, const real *a, const ptrdiff_t ld_a,
                          const real *w, const ptrdiff_t ld_w) {
    EACH(i, R)
        EACH(j, M) x[i][j] = (vec){0};
    multiply(R, M, K, x, a, ld_a, w, ld_w);
}

/* to [R, M VL] = x */
INLINE void store_piece(const int R, const int M, real *to, const ptrdiff_t ld, micro_tile x) {
    EACH(i, R)
        EACH(j, M) store(to + i * ld + j * VL, x[i][j]);
}

/* y [R, O] = a [R, K] w [K, O], piece by piece */
INLINE void row_product(const int R, const int O, const int K, real *y, const real *a, const real *w) {
    const int M = vectors_at_once(O / VL, R);
    for (ptrdiff_t c = 0; c < O; c += M * VL) {
        micro_tile x;
        product_piece(R, M, K, x, a, K, w + c, O);
        store_piece(R, M, y + c, O, x);
    }
}

/* sums over the lanes of R vectors, to[i]; whole vectors are written */
INLINE void store_sums(const int R, real *to, vec x[MICRO_ROWS]) {
    const int n = R < VL ? (R <= 1 ? 1 : R <= 2 ? 2 : R <= 4 ? 4 : 8) : VL;
    UNROLL for (int i = R; i < MICRO_ROWS; i++) x[i] = (vec){0};
    UNROLL for (int i = 0; i < R; i += n) store(to + i, sum_rows(x + i, n));
}

#endif
