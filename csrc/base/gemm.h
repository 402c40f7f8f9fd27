/* Matrix products from register tiles, and the packed form of a weight that the forward pass reads.
 *
 *     C[M, N] (mode)= A B          A(i, k) as in base/tile.h;  B[k, j] of any row stride, or packed in panels
 */
#ifndef MGF_GEMM_H
#define MGF_GEMM_H

#include "base/tile.h"

enum {
    PANEL = TILE_VECTORS * VL,    /* columns of B that a tile covers */
    A_BLOCK_BYTES = 400 * 1024,   /* rows of A that stay in the second-level cache while panels of B pass */
    COPY_K = 1024 / sizeof(real), /* what is copied at a time: rows of B's panel */
    COPY_ROWS = 128,              /* and columns of a transposed A */
    COPY_FROM = 48,               /* rows of C that are worth it */
    FIRST_TABLE = 64 * 4096,      /* bytes in the pages whose addresses a processor knows at once */
};

typedef struct {
    const real *data;
    ptrdiff_t ld;    /* between rows; 0: the panel's own width (packed) */
    ptrdiff_t panel; /* between panels of PANEL columns */
    int transposed;  /* B[k, j] = data[j * ld + k] */
} matrix;

/* B as it lies in memory, with rows ld apart */
INLINE matrix plain(const real *data, ptrdiff_t ld) { return (matrix){data, ld, PANEL, 0}; }
/* B of K rows as pack_transposed leaves it */
INLINE matrix packed(const real *data, ptrdiff_t K) { return (matrix){data, 0, PANEL * K, 0}; }
/* the transpose of what lies in memory with rows ld apart */
INLINE matrix transpose_of(const real *data, ptrdiff_t ld) { return (matrix){data, ld, PANEL * ld, 1}; }

/* rows of one panel, in tiles of nearly equal height */
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
        t.scale += h;
        t.aux += h * t.ld_aux;
    }
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

/* the part of C that begins at row i and column j */
INLINE tile_arguments part_of(tile_arguments t, ptrdiff_t i, ptrdiff_t j) {
    t.a += t.transposed ? i : i * t.ld_a;
    t.c += i * t.ld_c + j;
    t.scale += i;
    t.aux += i * t.ld_aux + j;
    return t;
}

/* to [rows, columns] = from, with rows ld apart */
INLINE void copy_block(real *to, ptrdiff_t ld_to, const real *from, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t k = 0; k < rows; k++, to += ld_to, from += ld) {
        __builtin_prefetch(from + 8 * ld);
        ptrdiff_t j = 0;
        for (; j + VL <= columns; j += VL) store(to + j, load(from + j));
        if (j < columns) store_n(to + j, load_n(from + j, lanes_left(j, columns)), lanes_left(j, columns));
    }
}

/* The product `t` of A and B as they lie in memory, B in panels */
static void gemm_direct(tile_arguments t, ptrdiff_t M, ptrdiff_t N, matrix b) {
    ptrdiff_t block = t.transposed || t.K == 0 ? M : max_of(24, A_BLOCK_BYTES / (t.K * (ptrdiff_t)sizeof(real)) / 12 * 12);
    for (ptrdiff_t i = 0; i < M; i += block)
        for (ptrdiff_t j = 0, columns; j < N; j += columns) {
            columns = min_of(PANEL, N - j);
            tile_arguments part = part_of(t, i, j);
            part.b = b.data + j / PANEL * b.panel, part.ld_b = b.ld ? b.ld : padded(columns), part.panel = b.panel;
#if VECTOR_REGISTERS == 16
            if (M == 1 && N - j >= WIDE_ROW * VL) {
                columns = WIDE_ROW * VL;
                tile_wide_row(&part);
                continue;
            }
#endif
            gemm_panel(part, min_of(block, M - i), columns);
        }
}

/* The same by copies of blocks of B's panels, and of a transposed A to `rows_of_a`: for K of any size, they stay in the
 * first and the second cache, and their rows on few pages. Between blocks of K the sums are in C: not for modes that read
 * c themselves. */
NOINLINE void gemm_by_copies(tile_arguments t, ptrdiff_t M, ptrdiff_t N, matrix b, real *rows_of_a) {
    real panel[COPY_K * PANEL] __attribute__((aligned(VECTOR_BYTES)));
    const ptrdiff_t K = t.K, block = t.transposed ? COPY_ROWS : A_BLOCK_BYTES / (COPY_K * sizeof(real)) / 12 * 12;
    for (ptrdiff_t k = 0; k < K; k += COPY_K)
        for (ptrdiff_t i = 0; i < M; i += block) {
            const ptrdiff_t rows = min_of(block, M - i), depth = min_of(COPY_K, K - k);
            if (t.transposed) copy_block(rows_of_a, COPY_ROWS, t.a + k * t.ld_a + i, t.ld_a, depth, rows);
            for (ptrdiff_t j = 0; j < N; j += PANEL) {
                const ptrdiff_t columns = min_of(PANEL, N - j);
                tile_arguments part = part_of(t, i, j);
                part.K = depth, part.adds = t.adds || k, part.mode = k + depth < K ? STORE : t.mode;
                part.b = panel, part.ld_b = padded(columns);
                if (t.transposed) part.a = rows_of_a, part.ld_a = COPY_ROWS;
                else part.a += k;
                if (b.transposed) pack_transposed(panel, b.data + j * b.ld + k, b.ld, columns, depth, 0, columns);
                else copy_block(panel, padded(columns), b.data + k * b.ld + j, b.ld, depth, columns);
                gemm_panel(part, rows, columns);
            }
        }
}

NOINLINE void gemm_transposed_by_copies(tile_arguments t, ptrdiff_t M, ptrdiff_t N, matrix b) {
    real rows_of_a[COPY_K * COPY_ROWS] __attribute__((aligned(VECTOR_BYTES)));
    gemm_by_copies(t, M, N, b, rows_of_a);
}

/* Whether B's panels, or a transposed A's rows, lie on more pages than the processor's first table of addresses holds.
 * With AVX-512 panels are so wide that copying them costs what it gains; on ARM nobody has measured it. */
INLINE int lies_far(int transposed, ptrdiff_t K, ptrdiff_t ld_a, matrix b) {
    ptrdiff_t ld = transposed ? max_of(ld_a, b.ld) : b.ld;
    return VECTOR_REGISTERS == 16 && b.ld && K * ld * (ptrdiff_t)sizeof(real) > FIRST_TABLE;
}

/* the product that `t` describes but for its sizes, by the way that suits where B and A lie */
static void run_product(tile_arguments t, ptrdiff_t M, ptrdiff_t N, matrix b) {
    t.adds = t.mode == ADD;
    if (!t.scale) t.scale = t.c; /* pointers that a mode does not read are moved along: they must point somewhere */
    if (!t.aux) t.aux = t.c;
    const int far = M >= COPY_FROM && t.mode != ROW_SCALE_ADD && lies_far(t.transposed, t.K, t.ld_a, b);
    if (t.K == 0 || !(far || b.transposed)) gemm_direct(t, M, N, b);
    else if (t.transposed) gemm_transposed_by_copies(t, M, N, b);
    else gemm_by_copies(t, M, N, b, NULL);
}

static void gemm(int transposed, tile_mode mode, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const real *a, ptrdiff_t ld_a,
                 matrix b, real *c, ptrdiff_t ld_c) {
    run_product(
        (tile_arguments){.K = K, .a = a, .ld_a = ld_a, .transposed = transposed, .c = c, .ld_c = ld_c, .mode = mode}, M, N,
        b);
}

/* h = A B,  a = f(h); where the gradient needs no h, h may be a, and is not kept */
SHARED void gemm_activated(const activation_functions *f, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const real *x,
                           ptrdiff_t ld_x, matrix b, real *h, ptrdiff_t ld_h, real *a, ptrdiff_t ld_a) {
    gemm(0, f->in_tiles ? ACTIVATE : STORE, M, N, K, x, ld_x, b, h, ld_h);
    if (!f->in_tiles) f->value(a, ld_a, h, ld_h, M, N);
}

/* d = A B f'(h) */
SHARED void gemm_activation_gradient(const activation_functions *f, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, const real *x,
                                     ptrdiff_t ld_x, matrix b, real *d, ptrdiff_t ld_d, const real *h, ptrdiff_t ld_h) {
    run_product((tile_arguments){.K = K,
                                 .a = x,
                                 .ld_a = ld_x,
                                 .c = d,
                                 .ld_c = ld_d,
                                 .mode = f->in_tiles ? ACTIVATE_GRADIENT : STORE,
                                 .aux = h,
                                 .ld_aux = ld_h},
                M, N, b);
    if (!f->in_tiles) f->gradient(d, ld_d, h, ld_h, M, N);
}

SHARED void gemm_nn(real *c, const real *a, const real *b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t ld_c,
                    ptrdiff_t ld_a, ptrdiff_t ld_b, int accumulate) {
    gemm(0, accumulate ? ADD : STORE, M, N, K, a, ld_a, plain(b, ld_b), c, ld_c);
}

SHARED void gemm_nt(real *c, const real *a, const real *b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t ld_c,
                    ptrdiff_t ld_a, ptrdiff_t ld_b, int accumulate) {
    gemm(0, accumulate ? ADD : STORE, M, N, K, a, ld_a, transpose_of(b, ld_b), c, ld_c);
}

SHARED void gemm_tn(real *c, const real *a, const real *b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, ptrdiff_t ld_c,
                    ptrdiff_t ld_a, ptrdiff_t ld_b, int accumulate) {
    gemm(1, accumulate ? ADD : STORE, M, N, K, a, ld_a, plain(b, ld_b), c, ld_c);
}

#endif
