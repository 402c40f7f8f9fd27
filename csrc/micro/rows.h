/* What a narrow model does row by row: everything but the attention and the weights' gradients. The functions are made
 * for each width C and each number of rows in a tile, so that a tile's rows stay in registers and few rows are computed
 * in vain.
 */
#ifndef MGF_MICRO_ROWS_H
#define MGF_MICRO_ROWS_H

#include "micro/loss.h"
#include "micro/tile.h"

#define MICRO_EPS ((real)1e-5)

/* h = x rstd,  rstd = (mean x^2 + eps)^(-1/2), for rows of x and their sums of squares */
INLINE void micro_normalise(const int C, const int R, real *h, real *rstd, const real *x, vec squares[]) {
    const int M = C / VL;
    store_sums(R, rstd, squares);
    EACH_VECTOR_OF(i, R) store(rstd + i, vrsqrt(load(rstd + i) * splat((real)1 / C) + splat(MICRO_EPS)));
    EACH(i, R)
        EACH(j, M) store(h + i * C + j * VL, load(x + i * C + j * VL) * splat(rstd[i]));
}

/* dx = base + rstd (dh - h mean(dh h)): the gradient of rmsnorm; dh is in dx; base may be NULL */
INLINE void micro_normalise_backward(const int C, const int R, real *dx, const real *base, const real *h, const real *rstd,
                                     vec products[]) {
    const int M = C / VL;
    real mean[MICRO_ROWS + VL];
    store_sums(R, mean, products);
    EACH_VECTOR_OF(i, R) store(mean + i, load(mean + i) * splat((real)1 / C));
    EACH(i, R)
        EACH(j, M) {
            const ptrdiff_t at = i * C + j * VL;
            vec d = (load(dx + at) - load(h + at) * splat(mean[i])) * splat(rstd[i]);
            store(dx + at, base ? load(base + at) + d : d);
        }
}

/* x = h0 = rms(wte[token] + wpe[position]),  h1 = rms(x). The mean of x^2 follows from that of the sum before it. */
INLINE void rows_embed(const int C, const int R, const micro_rows *p) {
    const micro *g = p->g;
    const micro_layer *y = g->layer;
    const int M = C / VL;
    EACH_TILE(t, p, R) {
        vec x[MICRO_ROWS][32 / VL];
        vec squares[MICRO_ROWS];
        real *rstd0 = g->rstd0 + t + p->gap, *rstd1 = y->rstd1 + t + p->gap;
        real *h0 = g->h0 + t * C, *h1 = y->h1 + t * C, *residual = g->x + t * C;
        EACH(i, R) {
            const ptrdiff_t token = g->tokens[t + i], position = g->positions[t + i];
            squares[i] = (vec){0};
            EACH(j, M) {
                x[i][j] = load(g->wte + token * C + j * VL) + load(g->wpe + position * C + j * VL);
                squares[i] += x[i][j] * x[i][j];
            }
        }
        store_sums(R, rstd1, squares);
        EACH_VECTOR_OF(i, R) store(rstd1 + i, load(rstd1 + i) * splat((real)1 / C));
        EACH_VECTOR_OF(i, R) store(rstd0 + i, vrsqrt(load(rstd1 + i) + splat(MICRO_EPS)));
        EACH_VECTOR_OF(i, R)
            store(rstd1 + i, vrsqrt(load(rstd1 + i) * (load(rstd0 + i) * load(rstd0 + i)) + splat(MICRO_EPS)));
        EACH(i, R)
            EACH(j, M) {
                vec h = x[i][j] * splat(rstd0[i]);
                store(h0 + i * C + j * VL, h);
                store(residual + i * C + j * VL, h);
                store(h1 + i * C + j * VL, h * splat(rstd1[i]));
            }
    }
}

/* h1 = rms(x), of a layer but the first */
INLINE void rows_normalise(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    const int M = C / VL;
    EACH_TILE(t, p, R) {
        const real *x = p->g->x + t * C;
        vec squares[MICRO_ROWS];
        EACH(i, R) {
            squares[i] = (vec){0};
            EACH(j, M) squares[i] += load(x + i * C + j * VL) * load(x + i * C + j * VL);
        }
        micro_normalise(C, R, y->h1 + t * C, y->rstd1 + t + p->gap, x, squares);
    }
}

/* qkv = h1 wqkv^T */
INLINE void rows_qkv(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    EACH_TILE(t, p, R) row_product(R, 3 * C, C, y->qkv + t * 3 * C, y->h1 + t * C, y->qkv_wt);
}

/* x += o wo^T,  h2 = rms(x) */
INLINE void rows_after_attention(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    const int M = vectors_at_once(C / VL, R);
    EACH_TILE(t, p, R) {
        real *stream = p->g->x + t * C;
        vec squares[MICRO_ROWS] = {{0}};
        for (ptrdiff_t c = 0; c < C; c += M * VL) {
            micro_tile x;
            EACH(i, R)
                EACH(j, M) x[i][j] = load(stream + i * C + c + j * VL);
            multiply(R, M, C, x, y->o + t * C, C, y->wo_t + c, C);
            store_piece(R, M, stream + c, C, x);
            EACH(i, R)
                EACH(j, M) squares[i] += x[i][j] * x[i][j];
        }
        micro_normalise(C, R, y->h2 + t * C, y->rstd2 + t + p->gap, stream, squares);
    }
}

/* r = max(h2 fc1^T, 0),  a = r or r^2 */
INLINE void rows_fc1(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    const int M = vectors_at_once(4 * C / VL, R), squared = p->g->config.activation == MGF_RELU2;
    EACH_TILE(t, p, R)
        for (ptrdiff_t c = 0; c < 4 * C; c += M * VL) {
            const ptrdiff_t at = t * 4 * C + c;
            micro_tile x;
            product_piece(R, M, C, x, y->h2 + t * C, C, y->fc1_t + c, 4 * C);
            EACH(i, R)
                EACH(j, M) x[i][j] = relu(x[i][j]);
            store_piece(R, M, y->r + at, 4 * C, x);
            if (!squared) continue;
            EACH(i, R)
                EACH(j, M) x[i][j] *= x[i][j];
            store_piece(R, M, y->a + at, 4 * C, x);
        }
}

/* x += a fc2^T */
INLINE void rows_fc2(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    const int M = vectors_at_once(C / VL, R);
    EACH_TILE(t, p, R)
        for (ptrdiff_t c = 0; c < C; c += M * VL) {
            real *stream = p->g->x + t * C + c;
            micro_tile x;
            EACH(i, R)
                EACH(j, M) x[i][j] = load(stream + i * C + j * VL);
            multiply(R, M, 4 * C, x, y->a + t * 4 * C, 4 * C, y->fc2_t + c, C);
            store_piece(R, M, stream, C, x);
        }
}

/* df = (dx fc2) f'(h): [r > 0], or 2 r */
INLINE void rows_fc2_backward(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    const int M = vectors_at_once(4 * C / VL, R), squared = p->g->config.activation == MGF_RELU2;
    EACH_TILE(t, p, R)
        for (ptrdiff_t c = 0; c < 4 * C; c += M * VL) {
            const ptrdiff_t at = t * 4 * C + c;
            micro_tile x;
            product_piece(R, M, C, x, y->dx + t * C, C, y->fc2 + c, 4 * C);
            EACH(i, R)
                EACH(j, M) {
                    vec r = load(y->r + at + i * 4 * C + j * VL);
                    x[i][j] = squared ? r * (x[i][j] + x[i][j]) : relu_gradient(r, x[i][j]);
                }
            store_piece(R, M, y->df + at, 4 * C, x);
        }
}

/* dx [R, C] = a [R, K] w [K, C], and the sums of dx h over each row in vectors that micro_normalise_backward takes */
INLINE void product_and_sums(const int C, const int R, const int K, real *dx, vec products[MICRO_ROWS], const real *a,
                             const real *w, const real *h) {
    const int M = vectors_at_once(C / VL, R);
    for (ptrdiff_t c = 0; c < C; c += M * VL) {
        micro_tile x;
        product_piece(R, M, K, x, a, K, w + c, C);
        store_piece(R, M, dx + c, C, x);
        EACH(i, R)
            EACH(j, M) products[i] += x[i][j] * load(h + i * C + c + j * VL);
    }
}

/* dx1 = dx + the gradient of rms at df fc1 */
INLINE void rows_fc1_backward(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    EACH_TILE(t, p, R) {
        const real *h = y->h2 + t * C;
        real *dx = y->dx1 + t * C;
        vec products[MICRO_ROWS] = {{0}};
        product_and_sums(C, R, 4 * C, dx, products, y->df + t * 4 * C, y->fc1, h);
        micro_normalise_backward(C, R, dx, y->dx + t * C, h, y->rstd2 + t + p->gap, products);
    }
}

/* d_o = dx1 wo */
INLINE void rows_wo_backward(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    EACH_TILE(t, p, R) row_product(R, C, C, y->d_o + t * C, y->dx1 + t * C, y->wo);
}

/* dx = dx1 + the gradient of rms at dqkv wqkv, for the layer below; in the first layer through the embedding's rms, too */
INLINE void rows_qkv_backward(const int C, const int R, const micro_rows *p) {
    const micro *g = p->g;
    const micro_layer *y = g->layer + p->layer;
    const int M = C / VL;
    EACH_TILE(t, p, R) {
        const real *h = y->h1 + t * C, *h0 = g->h0 + t * C;
        real *dx = (p->layer ? y[-1].dx : g->dx0) + t * C;
        vec products[MICRO_ROWS] = {{0}};
        product_and_sums(C, R, 3 * C, dx, products, y->dqkv + t * 3 * C, y->qkv_w, h);
        micro_normalise_backward(C, R, dx, y->dx1 + t * C, h, y->rstd1 + t + p->gap, products);
        if (p->layer) continue;
        EACH(i, R) {
            products[i] = (vec){0};
            EACH(j, M) products[i] += load(dx + i * C + j * VL) * load(h0 + i * C + j * VL);
        }
        micro_normalise_backward(C, R, dx, NULL, h0, g->rstd0 + t + p->gap, products);
    }
}

/* ---- between the attentions */

INLINE void rows_before_attention(const int C, const int R, const micro_rows *p) {
    if (p->layer == 0) rows_embed(C, R, p);
    else rows_normalise(C, R, p);
    rows_qkv(C, R, p);
}
INLINE void rows_feed_forward(const int C, const int R, const micro_rows *p) {
    rows_after_attention(C, R, p);
    rows_fc1(C, R, p);
    rows_fc2(C, R, p);
}
INLINE void rows_lm_head(const int C, const int R, const micro_rows *p) {
    rows_loss(C, R, p);
    rows_lm_head_backward(C, R, p);
}
INLINE void rows_feed_backward(const int C, const int R, const micro_rows *p) {
    rows_fc2_backward(C, R, p);
    rows_fc1_backward(C, R, p);
    rows_wo_backward(C, R, p);
}

typedef void micro_rows_function(const micro_rows *);
typedef struct {
    micro_rows_function *before_attention, *feed_forward, *head, *feed_backward, *qkv_backward;
} micro_row_functions;

#define MICRO_ROWS_OF(C, R)                                                                                                \
    NOINLINE void before_attention_##C##x##R(const micro_rows *p) { rows_before_attention(C, R, p); }                      \
    NOINLINE void feed_forward_##C##x##R(const micro_rows *p) { rows_feed_forward(C, R, p); }                              \
    NOINLINE void head_##C##x##R(const micro_rows *p) { rows_lm_head(C, R, p); }                                           \
    NOINLINE void feed_backward_##C##x##R(const micro_rows *p) { rows_feed_backward(C, R, p); }                            \
    NOINLINE void qkv_backward_##C##x##R(const micro_rows *p) { rows_qkv_backward(C, R, p); }
#define MICRO_NAMES(C, R)                                                                                                  \
    {before_attention_##C##x##R, feed_forward_##C##x##R, head_##C##x##R, feed_backward_##C##x##R, qkv_backward_##C##x##R}
#define MICRO_ROWS_TO_4(C) MICRO_ROWS_OF(C, 1) MICRO_ROWS_OF(C, 2) MICRO_ROWS_OF(C, 3) MICRO_ROWS_OF(C, 4)
#define MICRO_NAMES_TO_4(C) MICRO_NAMES(C, 1), MICRO_NAMES(C, 2), MICRO_NAMES(C, 3), MICRO_NAMES(C, 4)
#if VECTOR_REGISTERS == 32
#define MICRO_ROWS_5_TO_8(C) MICRO_ROWS_OF(C, 5) MICRO_ROWS_OF(C, 6) MICRO_ROWS_OF(C, 7) MICRO_ROWS_OF(C, 8)
#define MICRO_NAMES_5_TO_8(C) MICRO_NAMES(C, 5), MICRO_NAMES(C, 6), MICRO_NAMES(C, 7), MICRO_NAMES(C, 8)
#define MICRO_ROWS_TO_MOST(C) MICRO_ROWS_TO_4(C) MICRO_ROWS_5_TO_8(C)
#define MICRO_NAMES_TO_MOST(C) {MICRO_NAMES_TO_4(C), MICRO_NAMES_5_TO_8(C)}
#else
#define MICRO_ROWS_TO_MOST(C) MICRO_ROWS_TO_4(C)
#define MICRO_NAMES_TO_MOST(C) {MICRO_NAMES_TO_4(C)}
#endif
MICRO_ROWS_TO_MOST(16)
MICRO_ROWS_TO_MOST(32)

/* [C / 16 - 1][R - 1] */
static const micro_row_functions micro_row_table[2][MICRO_ROWS] = {MICRO_NAMES_TO_MOST(16), MICRO_NAMES_TO_MOST(32)};

#endif
