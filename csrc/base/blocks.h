/* Rows, parameters and weights' rows, cut into blocks that threads share. */
#ifndef MGF_BLOCKS_H
#define MGF_BLOCKS_H

#include "base/simd.h"

typedef struct {
    ptrdiff_t first, rows;
} row_range;

INLINE ptrdiff_t blocks_of(ptrdiff_t n, ptrdiff_t block) { return (n + block - 1) / block; }
INLINE row_range block_at(ptrdiff_t item, ptrdiff_t n, ptrdiff_t block) {
    return (row_range){item * block, min_of(block, n - item * block)};
}

#endif
