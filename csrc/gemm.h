/* Matrix products from register tiles, and the packed form of a weight that the forward pass reads.
 *
 *     C[M, N] (mode)= A B          A(i, k) as in tile.h;  B[k, j] of any row stride, or packed in panels
 */
#ifndef MGF_GEMM_H
#define MGF_GEMM_H

#include "tile.h"

enum {
    PANEL = TILE_VECTORS * VL,        /* columns of B that a tile covers */
    A_BLOCK_BYTES = 400 * 1024,       /* rows of A that stay in the second-level cache while panels of B pass */
};

typedef struct {
    const real *data;
    ptrdiff_t ld;     /* between rows; 0: the panel's own width (packed) */
    ptrdiff_t panel;  /* between panels of PANEL columns */
} matrix;

/* B as it lies in memory, with rows ld apart */
INLINE matrix plain(const real *data, ptrdiff_t ld) { return (matrix){data, ld, PANEL}; }
/* B of K rows as pack_transposed leaves it */
INLINE matrix packed(const real *data, ptrdiff_t K) { return (matrix){data, 0, PANEL * K}; }

/* rows [row, end) of one panel, in tiles of nearly equal height */
INLINE void gemm_panel(tile_arguments t, ptrdiff_t rows, ptrdiff_t columns) {
    int vectors = (int)((columns + VL - 1) / VL);
    int partial = columns % VL != 0;
    t.last = partial ? (int)(columns % VL) : VL;
    ptrdiff_t tiles = (rows + tile_rows(vectors) - 1) / tile_rows(vectors);
    ptrdiff_t height = rows / tiles, taller = rows % tiles;
    for (ptrdiff_t i = 0; i < tiles; i++) {
        ptrdiff_t h = height + (i < taller);
        tile_functions[vectors - 1][h - 1][partial](&t);
        t.a += t.transposed ? h : h * t.ld_a;
        t.c += h * t.ld_c;
        t.aux += h * t.ld_aux;
    }
}

/* aux [M, N] for the gradient modes, [M] with ld_aux 1 for ROW_SCALE_ADD, else NULL */
static void gemm_aux(int transposed, tile_mode mode, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const real *a, ptrdiff_t ld_a,
                     matrix b, real *c, ptrdiff_t ld_c, const real *aux, ptrdiff_t ld_aux) {
    ptrdiff_t block = transposed || K == 0 ? M : max_of(24, A_BLOCK_BYTES / (K * (ptrdiff_t)sizeof(real)) / 12 * 12);
    ptrdiff_t aux_step = mode == ROW_SCALE_ADD ? 0 : 1;
    for (ptrdiff_t i = 0; i < M; i += block) {
        for (ptrdiff_t j = 0, columns; j < N; j += columns) {
            columns = min_of(PANEL, N - j);
            tile_arguments t = {
                .K = K, .a = transposed ? a + i : a + i * ld_a, .ld_a = ld_a, .transposed = transposed,
                .b = b.data + j / PANEL * b.panel, .ld_b = b.ld ? b.ld : padded(columns), .panel = b.panel,
                .c = c + i * ld_c + j, .ld_c = ld_c,
                .mode = mode, .aux = aux ? aux + i * ld_aux + j * aux_step : c, .ld_aux = aux ? ld_aux : 0,
            };
#if VECTOR_REGISTERS == 16
            if (M == 1 && N - j >= WIDE_ROW * VL) {
                columns = WIDE_ROW * VL;
                tile_wide_row(&t);
                continue;
            }
#endif
            gemm_panel(t, min_of(block, M - i), columns);
        }
    }
}

static void gemm(int transposed, tile_mode mode, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const real *a, ptrdiff_t ld_a,
                 matrix b, real *c, ptrdiff_t ld_c) {
    gemm_aux(transposed, mode, M, N, K, a, ld_a, b, c, ld_c, NULL, 0);
}

/* elements of a packed w [O, C] */
INLINE ptrdiff_t packed_size(ptrdiff_t O, ptrdiff_t C) { return padded(O) * C; }

/* w [O, C] with row stride ld -> w^T [C, O] in panels: panel j holds columns j * PANEL .. of w^T, row after row, the last
 * panel's rows padded with zeros to whole vectors. Only the outputs [first, end), multiples of VL or O, are written. */
static void pack_transposed(real *to, const real *w, ptrdiff_t ld, ptrdiff_t O, ptrdiff_t C, ptrdiff_t first,
                            ptrdiff_t end) {
    for (ptrdiff_t o = first; o < end; o += VL) {
        ptrdiff_t panel = o / PANEL, width = padded(min_of(PANEL, O - panel * PANEL));
        real *column = to + panel * PANEL * C + o % PANEL;
        int rows = (int)min_of(VL, O - o);
        for (ptrdiff_t c = 0; c < C; c += VL)
            transpose_block(column + c * width, width, w + o * ld + c, ld, rows, (int)min_of(VL, C - c), 1);
    }
}

/* C (mode)= A w^T for a w [O, C] that is not packed: blocks of it are transposed on the stack, so the sum over K is cut
 * into fixed blocks of GEMM_NT_K, the later ones added to the first. */
enum { GEMM_NT_K = 256 };
static void gemm_with_transposed(int accumulate, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const real *a, ptrdiff_t ld_a,
                                 const real *w, ptrdiff_t ld_w, real *c, ptrdiff_t ld_c) {
    real panel[GEMM_NT_K * PANEL] __attribute__((aligned(VECTOR_BYTES)));
    if (K == 0) gemm(0, accumulate ? ADD : STORE, M, N, 0, a, ld_a, plain(w, ld_w), c, ld_c);
    for (ptrdiff_t j = 0; j < N; j += PANEL) {
        ptrdiff_t columns = min_of(PANEL, N - j);
        for (ptrdiff_t k = 0; k < K; k += GEMM_NT_K) {
            ptrdiff_t depth = min_of(GEMM_NT_K, K - k);
            pack_transposed(panel, w + j * ld_w + k, ld_w, columns, depth, 0, columns);
            gemm(0, k || accumulate ? ADD : STORE, M, columns, depth, a + k, ld_a, packed(panel, depth), c + j, ld_c);
        }
    }
}

static void gemm_nn(real *c, const real *a, const real *b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t ld_c,
                    ptrdiff_t ld_a, ptrdiff_t ld_b, int accumulate) {
    gemm(0, accumulate ? ADD : STORE, M, N, K, a, ld_a, plain(b, ld_b), c, ld_c);
}

static void gemm_nt(real *c, const real *a, const real *b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t ld_c,
                    ptrdiff_t ld_a, ptrdiff_t ld_b, int accumulate) {
    gemm_with_transposed(accumulate, M, N, K, a, ld_a, b, ld_b, c, ld_c);
}

static void gemm_tn(real *c, const real *a, const real *b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t ld_c,
                    ptrdiff_t ld_a, ptrdiff_t ld_b, int accumulate) {
    gemm(1, accumulate ? ADD : STORE, M, N, K, a, ld_a, plain(b, ld_b), c, ld_c);
}

#endif
