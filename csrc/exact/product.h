/* The sums of products of exact.c: each element of a result is one chain of additions in a prescribed order,
 * starting from 0, every product rounded. Elements are independent, so tiles of them run side by side.
 */
#ifndef MGF_EXACT_PRODUCT_H
#define MGF_EXACT_PRODUCT_H

#include "exact/layout.h"

enum { EXACT_TILE_ROWS = VECTOR_REGISTERS / 4, EXACT_TILE_VECTORS = VECTOR_BYTES == 64 ? 1 : 2 };

/* The matrices w (r, k) at w[r * ld_r + k * ld_k] and x (k, c) at x[k * ld_x + c], and K of the values of k.
 * A descending sum points to the last k and has negative ld_k and ld_x. */
typedef struct {
    const double *w, *x;
    ptrdiff_t ld_r, ld_k, ld_x, K;
    const ptrdiff_t *order; /* k takes the values order[0], order[1], ...; NULL: 0, 1, ... */
} factors;

/* y[r, c] = sum over k of w[r, k] * x[k, c] for R rows and U vectors of columns, the last of `lanes` lanes */
INLINE void product_tile(double *y, ptrdiff_t ld_y, const double *w, const double *x, const factors *f, const int R,
                         const int U, int lanes) {
    vec sum[EXACT_TILE_ROWS][EXACT_TILE_VECTORS] = {{{0}}};
    for (ptrdiff_t i = 0; i < f->K; i++) {
        ptrdiff_t k = f->order ? f->order[i] : i;
        vec xk[EXACT_TILE_VECTORS];
        EACH(u, U) xk[u] = load(x + k * f->ld_x + u * VL);
        EACH(r, R) {
            vec wk = splat(w[r * f->ld_r + k * f->ld_k]);
            EACH(u, U) sum[r][u] += wk * xk[u];
        }
    }
    EACH(r, R) {
        if (U == 2) store(y + r * ld_y, sum[r][0]);
        store_n(y + r * ld_y + (U - 1) * VL, sum[r][U - 1], lanes);
    }
}

INLINE void product_rows(double *y, ptrdiff_t ld_y, const factors *f, ptrdiff_t rows, ptrdiff_t columns, const int R) {
    for (ptrdiff_t c = 0; c < columns; c += EXACT_TILE_VECTORS * VL)
        for (ptrdiff_t r = 0; r < rows; r += R) {
            ptrdiff_t row = min_of(r, rows - R); /* the last tile may compute rows again */
            double *to = y + row * ld_y + c;
            const double *w = f->w + row * f->ld_r, *x = f->x + c;
            if (EXACT_TILE_VECTORS == 2 && columns - c > VL)
                product_tile(to, ld_y, w, x, f, R, 2, lanes_left(c + VL, columns));
            else product_tile(to, ld_y, w, x, f, R, 1, lanes_left(c, columns));
        }
}

/* y [rows, columns] = w x; x is read in whole vectors */
INLINE void product(double *y, ptrdiff_t ld_y, factors f, ptrdiff_t rows, ptrdiff_t columns) {
    if (rows >= EXACT_TILE_ROWS) product_rows(y, ld_y, &f, rows, columns, EXACT_TILE_ROWS);
    else if (rows >= 4) product_rows(y, ld_y, &f, rows, columns, 4);
    else product_rows(y, ld_y, &f, rows, columns, 1);
}

/* w [rows, K], k ascending and descending */
NOINLINE void rows_ascending(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_w,
                             ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K) {
    product(y, ld_y, (factors){w, x, ld_w, 1, ld_x, K, NULL}, rows, columns);
}
NOINLINE void rows_descending(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_w,
                              ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K) {
    product(y, ld_y, (factors){w + K - 1, x + (K - 1) * ld_x, ld_w, -1, -ld_x, K, NULL}, rows, columns);
}
/* w [K, rows] */
NOINLINE void columns_ascending(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_w,
                                ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K) {
    product(y, ld_y, (factors){w, x, 1, ld_w, ld_x, K, NULL}, rows, columns);
}
NOINLINE void columns_descending(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w,
                                 ptrdiff_t ld_w, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K) {
    product(y, ld_y, (factors){w + (K - 1) * ld_w, x + (K - 1) * ld_x, 1, -ld_w, -ld_x, K, NULL}, rows, columns);
}
/* w [.., rows], K of its rows in the given order */
NOINLINE void columns_in_order(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_w,
                               ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const ptrdiff_t *order) {
    product(y, ld_y, (factors){w, x, 1, ld_w, ld_x, K, order}, rows, columns);
}

/* to[c, r] = from[r, c]; whole vectors of `to` are written */
static void transposed(double *to, ptrdiff_t ld_to, const double *from, ptrdiff_t ld_from, ptrdiff_t rows,
                       ptrdiff_t columns) {
    for (ptrdiff_t r = 0; r < rows; r += VL)
        for (ptrdiff_t c = 0; c < columns; c += VL)
            transpose_block(to + c * ld_to + r, ld_to, from + r * ld_from + c, ld_from, lanes_left(r, rows),
                            lanes_left(c, columns), 1);
}

/* ---- linear layers: w [O, I], activations feature-major ---- */

/* y [O, T] = w x: inputs ascending */
static void exact_linear_forward(const model *g, double *y, const double *x, const double *w, ptrdiff_t O, ptrdiff_t I) {
    rows_ascending(y, g->T, x, g->T, w, I, O, padded(g->n), I);
}
/* dx [I, T] = w^T dy: an input feeds all outputs, which were visited in ascending order and give in
 * descending order */
static void exact_linear_backward(const model *g, double *dx, const double *dy, const double *w, ptrdiff_t O, ptrdiff_t I) {
    columns_descending(dx, g->T, dy, g->T, w, I, I, padded(g->n), O);
}
/* dw [O, I] = dy x^T: positions descending */
static void exact_linear_weight_backward(const model *g, double *dw, const double *dy, const double *x, ptrdiff_t O,
                                         ptrdiff_t I) {
    const ptrdiff_t ld = position_stride(I);
    transposed(g->rows, ld, x, g->T, I, g->n);
    rows_descending(dw, I, g->rows, ld, dy, g->T, O, I, g->n);
}

#endif
