/* A narrow model's logits, their softmax and its gradient, tile by tile of rows. */
#ifndef MGF_MICRO_LOSS_H
#define MGF_MICRO_LOSS_H

#include "micro/tile.h"

/* columns c .. c + M VL of the logits, and their maxima */
INLINE void logits_piece(const int C, const int R, const int M, const micro *g, ptrdiff_t t, ptrdiff_t c, vec largest[]) {
    micro_tile x;
    EACH(i, R)
        EACH(j, M) x[i][j] = load(g->bias + c + j * VL);
    multiply(R, M, C, x, g->x + t * C, C, g->lm_head_t + c, g->V);
    EACH(i, R)
        EACH(j, M) {
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
    EACH(i, R) largest[i] = splat(MASKED), total[i] = (vec){0};
    ptrdiff_t c = 0;
    for (; c + 2 * VL <= V; c += 2 * VL) logits_piece(C, R, 2, g, t, c, largest);
    if (c < V) logits_piece(C, R, 1, g, t, c, largest);
    EACH(i, R) {
        g->at_target[s + i] = z[i * V + g->targets[t + i]];
        largest[i] = max_lanes(largest[i]);
        g->largest[s + i] = largest[i][0];
    }
    for (c = 0; c < V; c += VL)
        EACH(i, R) {
            vec e = vexp(load(z + i * V + c) - largest[i]);
            store(z + i * V + c, e);
            total[i] += e;
        }
    store_sums(R, g->total + s, total);
    EACH_VECTOR_OF(i, R) store(g->factor + s + i, load(g->row_weight + s + i) / load(g->total + s + i));
    for (c = 0; c < V; c += VL)
        EACH(i, R) store_logit_gradient(g, t + i, s + i, c, load(z + i * V + c));
}

/* The same for logits that stay in registers, and go to exp without their maximum; where one is so large, or a sum so small,
 * that this is not safe, nothing is done and the answer is 0. */
INLINE int loss_in_registers(const int C, const int R, const int M, const micro *g, ptrdiff_t t, ptrdiff_t s) {
    micro_tile x;
    vec largest = splat(MASKED), total[MICRO_ROWS];
    EACH(i, R)
        EACH(j, M) x[i][j] = load(g->bias + j * VL);
    multiply(R, M, C, x, g->x + t * C, C, g->lm_head_t, M * VL);
    EACH(i, R) {
        real *z = g->logits + (t + i) * M * VL;
        EACH(j, M) store(z + j * VL, x[i][j]);
        EACH(j, M) largest = vmax(x[i][j], largest);
        g->at_target[s + i] = z[g->targets[t + i]];
    }
    if (any(largest > splat(SAFE_SCORE))) return 0;
    EACH(i, R) {
        total[i] = (vec){0};
        EACH(j, M) {
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
    EACH(i, R) EACH(j, M) store_logit_gradient(g, t + i, s + i, j * VL, x[i][j]);
    return 1;
}

INLINE void rows_loss(const int C, const int R, const micro_rows *p) {
    const micro *g = p->g;
    EACH_TILE(t, p, R) if (g->V != 2 * VL || !loss_in_registers(C, R, 2, g, t, t + p->gap)) loss_of_tile(C, R, g, t, t + p->gap);
}

/* dx = dlogits lm_head */
INLINE void rows_lm_head_backward(const int C, const int R, const micro_rows *p) {
    const micro *g = p->g;
    const int M = vectors_at_once(C / VL, R);
    real *dx = g->layer[g->L - 1].dx;
    EACH_TILE(t, p, R) for (ptrdiff_t c = 0; c < C; c += M * VL) {
        micro_tile x;
        product_piece(R, M, g->config.vocab_size, x, g->logits + t * g->V, g->V, g->lm_head + c, C);
        store_piece(R, M, dx + t * C + c, C, x);
    }
}

#endif
