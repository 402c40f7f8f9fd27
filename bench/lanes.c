/* A lower bound of the time of a training step of VL models at once, a model in each lane: their products with weights,
 * forward and backward, and Adam. Attention, norms, softmax and the embeddings' look-ups are left out.
 * bench/lanes.py compiles this and runs it. */
#include <stdlib.h>

#include "base/simd.h"
#include "kernels/adam.h"

enum { C = 16, F = 64, V = 27, T = 16, EMBEDDINGS = (V + T) * C, P = EMBEDDINGS + V * C + 4 * C * C + 2 * F * C };
enum { OUTPUTS = 3, INPUTS = 4 }; /* a tile in registers: rows x OUTPUTS or INPUTS */

typedef vec activations[T][F];
typedef struct {
    vec p[P], m[P], v[P];
    activations a, b, da, db;
} models;

/* y = x w^T for `rows` rows from t on, w [O, I] */
INLINE void forward(const int rows, activations y, activations x, const vec *w, int I, int O, int t) {
    for (int o = 0; o < O; o += OUTPUTS) {
        vec sum[T][OUTPUTS] = {0};
        for (int i = 0; i < I; i++)
            EACH(r, rows)
                EACH(j, OUTPUTS) sum[r][j] += x[t + r][i] * w[(o + j < O ? o + j : O - 1) * I + i];
        EACH(r, rows)
            EACH(j, OUTPUTS)
                if (o + j < O) y[t + r][o + j] = sum[r][j];
    }
}
/* dx = dy w */
INLINE void backward(const int rows, activations dx, activations dy, const vec *w, int I, int O, int t) {
    for (int i = 0; i < I; i += INPUTS) {
        vec sum[T][INPUTS] = {0};
        for (int o = 0; o < O; o++)
            EACH(r, rows)
                EACH(j, INPUTS) sum[r][j] += dy[t + r][o] * w[o * I + i + j];
        EACH(r, rows)
            EACH(j, INPUTS) dx[t + r][i + j] = sum[r][j];
    }
}
/* dw = dy^T x, tile by tile, and Adam at once */
INLINE void update(models *g, vec *w, activations dy, activations x, int I, int O, int n, const adam_constants *a) {
    vec *m = w + (g->m - g->p), *v = w + (g->v - g->p);
    for (int o = 0; o < O; o += OUTPUTS)
        for (int i = 0; i < I; i += INPUTS) {
            vec sum[OUTPUTS][INPUTS] = {0};
            for (int t = 0; t < n; t++)
                EACH(j, OUTPUTS)
                    EACH(k, INPUTS) sum[j][k] += dy[t][o + j] * x[t][i + k];
            EACH(j, OUTPUTS)
                if (o + j < O)
                    EACH(k, INPUTS) {
                        const int at = (o + j) * I + i + k;
                        w[at] = adam_moved(w[at], m + at, v + at, sum[j][k], a, 0, k == 0);
                    }
        }
}

/* n = 7, or 10 in two tiles of 5 */
#define IN_TILES(function, ...)                                                                                            \
    do {                                                                                                                   \
        if (n == 7) function(7, __VA_ARGS__, 0);                                                                           \
        else function(5, __VA_ARGS__, 0), function(5, __VA_ARGS__, 5);                                                     \
    } while (0)

INLINE void back_and_update(models *g, vec *w, activations dx, activations dy, activations x, int I, int O, int n,
                            const adam_constants *a) {
    IN_TILES(backward, dx, dy, w, I, O);
    update(g, w, dy, x, I, O, n, a);
}

models *new_models(void) {
    models *g = aligned_alloc(sizeof(vec), sizeof *g);
    unsigned state = 1;
    for (size_t i = 0; i < sizeof *g / sizeof(real); i++) {
        state = state * 1664525u + 1013904223u;
        ((real *)g)[i] = (real)(state >> 8) / (real)(1 << 28);
    }
    return g;
}

int lanes(void) { return VL; }

/* k steps with n tokens in each model */
void train_steps(models *g, int k, int n) {
    const adam_constants a = adam_at(1e-6, 0.85, 0.99, 1e-8, 0, 100);
    vec *head = g->p + EMBEDDINGS, *wq = head + V * C, *wo = wq + 3 * C * C, *fc1 = wo + C * C, *fc2 = fc1 + F * C;
    for (int step = 0; step < k; step++) {
        for (int i = 0; i < 3; i++) IN_TILES(forward, g->b, g->a, wq + i * C * C, C, C);
        IN_TILES(forward, g->da, g->a, wo, C, C);
        IN_TILES(forward, g->b, g->a, fc1, C, F);
        IN_TILES(forward, g->db, g->b, fc2, F, C);
        IN_TILES(forward, g->b, g->a, head, C, V);
        back_and_update(g, head, g->db, g->b, g->a, C, V, n, &a);
        back_and_update(g, fc2, g->db, g->a, g->b, F, C, n, &a);
        back_and_update(g, fc1, g->da, g->b, g->a, C, F, n, &a);
        back_and_update(g, wo, g->da, g->a, g->a, C, C, n, &a);
        for (int i = 0; i < 3; i++) back_and_update(g, wq + i * C * C, g->da, g->a, g->a, C, C, n, &a);
        for (int i = 0; i < EMBEDDINGS; i++)
            g->p[i] = adam_moved(g->p[i], g->m + i, g->v + i, g->da[i % T][i % F], &a, 0, i % 4 == 0);
    }
}
