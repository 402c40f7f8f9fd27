/* What a narrow model does row by row: everything but the attention and the weights' gradients. The functions are made
 * for each width C and each number of rows in a tile, so that a tile's rows stay in registers and few rows are computed
 * in vain.
 */
#ifndef MGF_MICRO_ROWS_H
#define MGF_MICRO_ROWS_H

#include "micro/layout.h"
#include "kernels/rmsnorm.h"

#define MICRO_EPS ((real)1e-5)

/* `tiles` tiles of equal height from row `first` on; the statistics of row t are at t + gap */
typedef struct {
    const micro *g;
    ptrdiff_t layer, first, tiles, gap;
} micro_rows;

typedef vec micro_tile[MICRO_ROWS][4];

#define ROWS UNROLL for (int i = 0; i < R; i++)
#define VECTORS UNROLL for (int j = 0; j < M; j++)

/* the most vectors of a row, dividing n of them, that registers hold for R rows */
INLINE int vectors_at_once(const int n, const int R) {
    const int most = VECTOR_REGISTERS == 32 ? 24 / R : 10 / R;
    return n % 4 == 0 && most >= 4 ? 4 : n % 3 == 0 && most >= 3 ? 3 : n % 2 == 0 && most >= 2 ? 2 : 1;
}

/* x [R, M VL] += a [R, K] w [K, M VL]. Processors start two multiply-adds a cycle, which take four: fewer than 8 chains leave
 * gaps. Up to 6 become twice as many, of even and of odd k; 7 did not gain by it. */
INLINE void multiply(const int R, const int M, const ptrdiff_t K, micro_tile x, const real *a, const ptrdiff_t ld_a,
                     const real *w, const ptrdiff_t ld_w) {
    ptrdiff_t k = 0;
    if (M * R < 7) {
        micro_tile odd;
        ROWS VECTORS odd[i][j] = (vec){0};
        for (; k + 1 < K; k += 2) {
            vec row[4], next[4];
            VECTORS row[j] = load(w + k * ld_w + j * VL);
            ROWS VECTORS x[i][j] = fused(splat(a[i * ld_a + k]), row[j], x[i][j]);
            VECTORS next[j] = load(w + (k + 1) * ld_w + j * VL);
            ROWS VECTORS odd[i][j] = fused(splat(a[i * ld_a + k + 1]), next[j], odd[i][j]);
        }
        ROWS VECTORS x[i][j] += odd[i][j];
    }
    for (; k < K; k++) {
        vec row[4];
        VECTORS row[j] = load(w + k * ld_w + j * VL);
        ROWS {
            vec element = splat(a[i * ld_a + k]);
            VECTORS x[i][j] = fused(element, row[j], x[i][j]);
        }
    }
}

/* for every piece x [R, M VL] of a w, which has O columns: what `body` does with it at column c; x begins as `start` */
#define PRODUCT(O, K, a, ld_a, w, ld_w, start, body)                                                                       \
    do {                                                                                                                   \
        const int M = vectors_at_once((O) / VL, R);                                                                        \
        for (ptrdiff_t c = 0; c < (O); c += M * VL) {                                                                      \
            micro_tile x;                                                                                                  \
            ROWS VECTORS x[i][j] = start;                                                                                  \
            multiply(R, M, K, x, a, ld_a, (w) + c, ld_w);                                                                  \
            ROWS VECTORS body;                                                                                             \
        }                                                                                                                  \
    } while (0)

/* sums over the lanes of R vectors, to[i]; whole vectors are written */
INLINE void store_sums(const int R, real *to, vec x[MICRO_ROWS]) {
    const int n = R < VL ? (R <= 1 ? 1 : R <= 2 ? 2 : R <= 4 ? 4 : 8) : VL;
    UNROLL for (int i = R; i < MICRO_ROWS; i++) x[i] = (vec){0};
    UNROLL for (int i = 0; i < R; i += n) store(to + i, sum_rows(x + i, n));
}
/* to[i] = expression of statistics at i, for whole vectors that cover R rows */
#define STATISTICS(to, expression) UNROLL for (int i = 0; i < R; i += VL) store((to) + i, expression)

/* h = x rstd,  rstd = (mean x^2 + eps)^(-1/2), for rows of x and their sums of squares */
INLINE void micro_normalise(const int C, const int R, real *h, real *rstd, const real *x, vec squares[]) {
    const int M = C / VL;
    store_sums(R, rstd, squares);
    STATISTICS(rstd, vrsqrt(load(rstd + i) * splat((real)1 / C) + splat(MICRO_EPS)));
    ROWS VECTORS store(h + i * C + j * VL, load(x + i * C + j * VL) * splat(rstd[i]));
}

/* dx = base + rstd (dh - h mean(dh h)): the gradient of rmsnorm; dh is in dx; base may be NULL */
INLINE void micro_normalise_backward(const int C, const int R, real *dx, const real *base, const real *h,
                                     const real *rstd, vec products[]) {
    const int M = C / VL;
    real mean[MICRO_ROWS + VL];
    store_sums(R, mean, products);
    STATISTICS(mean, load(mean + i) * splat((real)1 / C));
    ROWS VECTORS {
        const ptrdiff_t at = i * C + j * VL;
        vec d = (load(dx + at) - load(h + at) * splat(mean[i])) * splat(rstd[i]);
        store(dx + at, base ? load(base + at) + d : d);
    }
}

#define TILES for (ptrdiff_t t = p->first, end = p->first + p->tiles * R; t < end; t += R)

/* x = h0 = rms(wte[token] + wpe[position]),  h1 = rms(x). The mean of x^2 follows from that of the sum before it. */
INLINE void rows_embed(const int C, const int R, const micro_rows *p) {
    const micro *g = p->g;
    const micro_layer *y = g->layer;
    const int M = C / VL;
    TILES {
        vec x[MICRO_ROWS][32 / VL];
        vec squares[MICRO_ROWS];
        real *rstd0 = g->rstd0 + t + p->gap, *rstd1 = y->rstd1 + t + p->gap;
        real *h0 = g->h0 + t * C, *h1 = y->h1 + t * C, *residual = g->x + t * C;
        ROWS {
            const ptrdiff_t token = g->tokens[t + i], position = g->positions[t + i];
            squares[i] = (vec){0};
            VECTORS {
                x[i][j] = load(g->wte + token * C + j * VL) + load(g->wpe + position * C + j * VL);
                squares[i] += x[i][j] * x[i][j];
            }
        }
        store_sums(R, rstd1, squares);
        STATISTICS(rstd1, load(rstd1 + i) * splat((real)1 / C));
        STATISTICS(rstd0, vrsqrt(load(rstd1 + i) + splat(MICRO_EPS)));
        STATISTICS(rstd1, vrsqrt(load(rstd1 + i) * (load(rstd0 + i) * load(rstd0 + i)) + splat(MICRO_EPS)));
        ROWS VECTORS {
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
    TILES {
        const real *x = p->g->x + t * C;
        vec squares[MICRO_ROWS];
        ROWS {
            squares[i] = (vec){0};
            VECTORS squares[i] += load(x + i * C + j * VL) * load(x + i * C + j * VL);
        }
        micro_normalise(C, R, y->h1 + t * C, y->rstd1 + t + p->gap, x, squares);
    }
}

/* qkv = h1 wqkv^T */
INLINE void rows_qkv(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    TILES PRODUCT(3 * C, C, y->h1 + t * C, C, y->qkv_wt, 3 * C, (vec){0},
                  store(y->qkv + (t + i) * 3 * C + c + j * VL, x[i][j]));
}

/* x += o wo^T,  h2 = rms(x) */
INLINE void rows_after_attention(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    TILES {
        real *stream = p->g->x + t * C;
        vec squares[MICRO_ROWS] = {{0}};
        PRODUCT(C, C, y->o + t * C, C, y->wo_t, C, load(stream + i * C + c + j * VL), {
            store(stream + i * C + c + j * VL, x[i][j]);
            squares[i] += x[i][j] * x[i][j];
        });
        micro_normalise(C, R, y->h2 + t * C, y->rstd2 + t + p->gap, stream, squares);
    }
}

/* r = max(h2 fc1^T, 0),  a = r or r^2 */
INLINE void rows_fc1(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    TILES {
        real *r = y->r + t * 4 * C, *a = y->a + t * 4 * C;
        PRODUCT(4 * C, C, y->h2 + t * C, C, y->fc1_t, 4 * C, (vec){0}, {
            vec positive = vmax(x[i][j], (vec){0});
            store(r + i * 4 * C + c + j * VL, positive);
            if (a != r) store(a + i * 4 * C + c + j * VL, positive * positive);
        });
    }
}

/* x += a fc2^T */
INLINE void rows_fc2(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    TILES {
        real *stream = p->g->x + t * C;
        PRODUCT(C, 4 * C, y->a + t * 4 * C, 4 * C, y->fc2_t, C, load(stream + i * C + c + j * VL),
                store(stream + i * C + c + j * VL, x[i][j]));
    }
}

/* columns c .. c + M VL of the logits, and their maxima */
INLINE void logits_piece(const int C, const int R, const int M, const micro *g, ptrdiff_t t, ptrdiff_t c, vec largest[]) {
    micro_tile x;
    ROWS VECTORS x[i][j] = load(g->bias + c + j * VL);
    multiply(R, M, C, x, g->x + t * C, C, g->head_t + c, g->V);
    ROWS VECTORS {
        store(g->logits + (t + i) * g->V + c + j * VL, x[i][j]);
        largest[i] = vmax(x[i][j], largest[i]);
    }
}

/* columns c .. c + VL of a row's logits become their gradient, e being their exponentials */
INLINE void store_logit_gradient(const micro *g, ptrdiff_t row, ptrdiff_t statistic, ptrdiff_t c, vec e) {
    vec p = e * splat(g->factor[statistic]);
    ivec is_target = lane_numbers() == isplat((integer)(g->targets[row] - c));
    store(g->logits + row * g->V + c, blend(is_target, p - splat(g->row_weight[statistic]), p));
}

/* logits = x head^T, then their gradient: weight (softmax - onehot), for the tile from row t on */
INLINE void loss_of_tile(const int C, const int R, const micro *g, ptrdiff_t t, ptrdiff_t s) {
    const ptrdiff_t V = g->V;
    vec largest[MICRO_ROWS], total[MICRO_ROWS];
    real *z = g->logits + t * V;
    ROWS largest[i] = splat(MASKED), total[i] = (vec){0};
    ptrdiff_t c = 0;
    for (; c + 2 * VL <= V; c += 2 * VL) logits_piece(C, R, 2, g, t, c, largest);
    if (c < V) logits_piece(C, R, 1, g, t, c, largest);
    ROWS {
        g->at_target[s + i] = z[i * V + g->targets[t + i]];
        largest[i] = max_lanes(largest[i]);
        g->largest[s + i] = largest[i][0];
    }
    for (c = 0; c < V; c += VL) ROWS {
        vec e = vexp(load(z + i * V + c) - largest[i]);
        store(z + i * V + c, e);
        total[i] += e;
    }
    store_sums(R, g->total + s, total);
    STATISTICS(g->factor + s, load(g->row_weight + s + i) / load(g->total + s + i));
    for (c = 0; c < V; c += VL) ROWS store_logit_gradient(g, t + i, s + i, c, load(z + i * V + c));
}

/* The same for logits that stay in registers, and go to exp without their maximum; where one is so large, or a sum so small,
 * that this is not safe, nothing is done and the answer is 0. */
INLINE int loss_in_registers(const int C, const int R, const int M, const micro *g, ptrdiff_t t, ptrdiff_t s) {
    micro_tile x;
    vec largest = splat(MASKED), total[MICRO_ROWS];
    ROWS VECTORS x[i][j] = load(g->bias + j * VL);
    multiply(R, M, C, x, g->x + t * C, C, g->head_t, M * VL);
    ROWS {
        real *z = g->logits + (t + i) * M * VL;
        VECTORS store(z + j * VL, x[i][j]);
        VECTORS largest = vmax(x[i][j], largest);
        g->at_target[s + i] = z[g->targets[t + i]];
    }
    if (any(largest > splat(SAFE_SCORE))) return 0;
    ROWS {
        total[i] = (vec){0};
        VECTORS {
            x[i][j] = vexp(x[i][j]);
            total[i] += x[i][j];
        }
    }
    store_sums(R, g->total + s, total);
    UNROLL for (int i = 0; i < R; i += VL) {
        vec sum = load(g->total + s + i);
        if (any((sum < splat(SAFE_TOTAL)) & (lane_numbers() < isplat(R - i)))) return 0;
        store(g->largest + s + i, (vec){0});
        store(g->factor + s + i, load(g->row_weight + s + i) / sum);
    }
    ROWS VECTORS store_logit_gradient(g, t + i, s + i, j * VL, x[i][j]);
    return 1;
}

INLINE void rows_loss(const int C, const int R, const micro_rows *p) {
    const micro *g = p->g;
    TILES if (g->V != 2 * VL || !loss_in_registers(C, R, 2, g, t, t + p->gap)) loss_of_tile(C, R, g, t, t + p->gap);
}

/* dx = dlogits head */
INLINE void rows_head_backward(const int C, const int R, const micro_rows *p) {
    const micro *g = p->g;
    real *dx = g->layer[g->L - 1].dx;
    TILES PRODUCT(C, g->config.vocab_size, g->logits + t * g->V, g->V, g->head, C, (vec){0},
                  store(dx + (t + i) * C + c + j * VL, x[i][j]));
}

/* df = (dx fc2) f'(h) */
INLINE void rows_fc2_backward(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    TILES {
        const real *r = y->r + t * 4 * C;
        real *df = y->df + t * 4 * C;
        const int squared = y->a != y->r;
        PRODUCT(4 * C, C, y->dx + t * C, C, y->fc2, 4 * C, (vec){0}, {
            vec h = load(r + i * 4 * C + c + j * VL);
            vec d = squared ? h * (x[i][j] + x[i][j]) : blend(h > (vec){0}, x[i][j], (vec){0});
            store(df + i * 4 * C + c + j * VL, d);
        });
    }
}

/* dx1 = dx + the gradient of rms at df fc1 */
INLINE void rows_fc1_backward(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    TILES {
        const real *h = y->h2 + t * C;
        real *dx = y->dx1 + t * C;
        vec products[MICRO_ROWS] = {{0}};
        PRODUCT(C, 4 * C, y->df + t * 4 * C, 4 * C, y->fc1, C, (vec){0}, {
            store(dx + i * C + c + j * VL, x[i][j]);
            products[i] += x[i][j] * load(h + i * C + c + j * VL);
        });
        micro_normalise_backward(C, R, dx, y->dx + t * C, h, y->rstd2 + t + p->gap, products);
    }
}

/* d_o = dx1 wo */
INLINE void rows_wo_backward(const int C, const int R, const micro_rows *p) {
    const micro_layer *y = p->g->layer + p->layer;
    TILES PRODUCT(C, C, y->dx1 + t * C, C, y->wo, C, (vec){0},
                  store(y->d_o + (t + i) * C + c + j * VL, x[i][j]));
}

/* dx = dx1 + the gradient of rms at dqkv wqkv, for the layer below; in the first layer through the embedding's rms, too */
INLINE void rows_qkv_backward(const int C, const int R, const micro_rows *p) {
    const micro *g = p->g;
    const micro_layer *y = g->layer + p->layer;
    const int M = C / VL;
    TILES {
        const real *h = y->h1 + t * C, *h0 = g->h0 + t * C;
        real *dx = (p->layer ? y[-1].dx : g->dx0) + t * C;
        vec products[MICRO_ROWS] = {{0}};
        PRODUCT(C, 3 * C, y->dqkv + t * 3 * C, 3 * C, y->qkv_w, C, (vec){0}, {
            store(dx + i * C + c + j * VL, x[i][j]);
            products[i] += x[i][j] * load(h + i * C + c + j * VL);
        });
        micro_normalise_backward(C, R, dx, y->dx1 + t * C, h, y->rstd1 + t + p->gap, products);
        if (p->layer) continue;
        ROWS {
            products[i] = (vec){0};
            VECTORS products[i] += load(dx + i * C + j * VL) * load(h0 + i * C + j * VL);
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
INLINE void rows_head(const int C, const int R, const micro_rows *p) {
    rows_loss(C, R, p);
    rows_head_backward(C, R, p);
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

#define MICRO_ROWS_OF(C, R)                                                                                     \
    NOINLINE void before_attention_##C##x##R(const micro_rows *p) { rows_before_attention(C, R, p); }           \
    NOINLINE void feed_forward_##C##x##R(const micro_rows *p) { rows_feed_forward(C, R, p); }                   \
    NOINLINE void head_##C##x##R(const micro_rows *p) { rows_head(C, R, p); }                                   \
    NOINLINE void feed_backward_##C##x##R(const micro_rows *p) { rows_feed_backward(C, R, p); }                 \
    NOINLINE void qkv_backward_##C##x##R(const micro_rows *p) { rows_qkv_backward(C, R, p); }
#define MICRO_NAMES(C, R)                                                                              \
    {before_attention_##C##x##R, feed_forward_##C##x##R, head_##C##x##R, feed_backward_##C##x##R,      \
     qkv_backward_##C##x##R}
#if VECTOR_REGISTERS == 32
#define MICRO_ROWS_TO_MOST(C)                                                                                 \
    MICRO_ROWS_OF(C, 1) MICRO_ROWS_OF(C, 2) MICRO_ROWS_OF(C, 3) MICRO_ROWS_OF(C, 4) MICRO_ROWS_OF(C, 5)       \
    MICRO_ROWS_OF(C, 6) MICRO_ROWS_OF(C, 7) MICRO_ROWS_OF(C, 8)
#define MICRO_NAMES_TO_MOST(C)                                                                                \
    {MICRO_NAMES(C, 1), MICRO_NAMES(C, 2), MICRO_NAMES(C, 3), MICRO_NAMES(C, 4), MICRO_NAMES(C, 5),           \
     MICRO_NAMES(C, 6), MICRO_NAMES(C, 7), MICRO_NAMES(C, 8)}
#else
#define MICRO_ROWS_TO_MOST(C) MICRO_ROWS_OF(C, 1) MICRO_ROWS_OF(C, 2) MICRO_ROWS_OF(C, 3) MICRO_ROWS_OF(C, 4)
#define MICRO_NAMES_TO_MOST(C) {MICRO_NAMES(C, 1), MICRO_NAMES(C, 2), MICRO_NAMES(C, 3), MICRO_NAMES(C, 4)}
#endif
MICRO_ROWS_TO_MOST(16)
MICRO_ROWS_TO_MOST(32)

/* [C / 16 - 1][R - 1] */
static const micro_row_functions micro_row_table[2][MICRO_ROWS] = {MICRO_NAMES_TO_MOST(16), MICRO_NAMES_TO_MOST(32)};

#undef ROWS
#undef VECTORS

#endif
