/* Token and position embedding: x[i] = wte[tokens[i]] + wpe[positions[i]]. */
#ifndef MGF_EMBEDDING_H
#define MGF_EMBEDDING_H

#include "base/rows.h"

INLINE ptrdiff_t first_bad_row(const int32_t *tokens, const int32_t *positions, ptrdiff_t N, ptrdiff_t V, ptrdiff_t T) {
    for (ptrdiff_t i = 0; i < N; i++)
        if (tokens[i] < 0 || tokens[i] >= V || positions[i] < 0 || positions[i] >= T) return i;
    return -1;
}

static ptrdiff_t embedding_forward(real *x, const int32_t *tokens, const int32_t *positions, const real *wte,
                                   const real *wpe, ptrdiff_t N, ptrdiff_t C, ptrdiff_t V, ptrdiff_t T) {
    ptrdiff_t bad = first_bad_row(tokens, positions, N, V, T);
    if (bad >= 0) return bad;
    for (ptrdiff_t i = 0; i < N; i++) add_rows(x + i * C, wte + tokens[i] * C, wpe + positions[i] * C, C);
    return -1;
}

/* dwte[tokens[i]] += dx[i], dwpe[positions[i]] += dx[i], in ascending order of i */
static ptrdiff_t embedding_backward(real *dwte, real *dwpe, const real *dx, const int32_t *tokens, const int32_t *positions,
                                    ptrdiff_t N, ptrdiff_t C, ptrdiff_t V, ptrdiff_t T) {
    ptrdiff_t bad = first_bad_row(tokens, positions, N, V, T);
    if (bad >= 0) return bad;
    for (ptrdiff_t i = 0; i < N; i++) {
        real *token = dwte + tokens[i] * C, *position = dwpe + positions[i] * C;
        add_rows(token, token, dx + i * C, C);
        add_rows(position, position, dx + i * C, C);
    }
    return -1;
}

#endif
