/* The float64 model in the scalar original's own order of operations: losses, gradients, parameters and samples are
 * equal bit for bit, for any shape of model, one document a step.
 *
 * Compile apart, with -ffp-contract=off -fno-builtin: every product is rounded, and exp, log and pow are the C
 * library's, as Python calls them. MGF_EXACT_TABLE names the table of functions that this instruction set's unit defines.
 *
 * Preconditions beyond those of microgpt_fast_kernels.h: B == 1, weight_decay == 0; the pool is not used.
 *
 * Where the orders come from. The original's backward pass walks the reversed post-order of a depth-first search which
 * starts at the loss and visits each node's operands from left to right. The sum of the losses hangs position 0 lowest,
 * so backward goes from the last position to the first, and a position is done, in all layers, before the one in front
 * of it begins: keys and values then have the gradients of all later queries. Within a position, the first sum that
 * reaches a vector visits its elements in ascending order, one subtree after the other; so an element which many sums
 * read collects its gradient from the last of these sums first. A gradient starts from 0, as every sum does, hence it
 * is never -0, and adding a product that is 0 changes nothing: idle lanes and masked terms may carry zeros.
 *
 * Layout. Lanes are positions: an activation of C features is a matrix [C, T], with T >= n positions a row. No order
 * depends on the position except one at position 0, so each lane does what the original does at its position, and
 * weights are used as they lie. Sums over positions (gradients of weights, keys and values) have their lanes along the
 * other axis.
 */
#include <string.h>

#include "exact_layout.h"
#include "random.h"

#define RMS_EPS 1e-5

/* ---- products ---- */

/* y[r, c] = sum over k of w[r * ld_r + k * ld_k] * x[k, c], for R rows and VL columns, k ascending. (A descending sum
 * has negative strides.) Every element of y is a chain of its own, so a tile is as large as the registers allow. */
INLINE void product_tile(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_r,
                         ptrdiff_t ld_k, ptrdiff_t K, const int R, int lanes) {
    vec sum[8] = {{0}};
    for (ptrdiff_t k = 0; k < K; k++) {
        vec xk = load(x + k * ld_x);
        UNROLL for (int r = 0; r < R; r++) sum[r] += xk * splat(w[r * ld_r + k * ld_k]);
    }
    UNROLL for (int r = 0; r < R; r++) store_n(y + r * ld_y, sum[r], lanes);
}

INLINE void product_rows(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_r,
                         ptrdiff_t ld_k, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K, const int R) {
    for (ptrdiff_t c = 0; c < columns; c += VL)
        for (ptrdiff_t r = 0; r < rows; r += R) {
            ptrdiff_t row = min_of(r, rows - R); /* the last tile may compute rows again */
            product_tile(y + row * ld_y + c, ld_y, x + c, ld_x, w + row * ld_r, ld_r, ld_k, K, R,
                         lanes_left(c, columns));
        }
}

INLINE void product(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_r,
                    ptrdiff_t ld_k, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K) {
    if (rows >= 8) product_rows(y, ld_y, x, ld_x, w, ld_r, ld_k, rows, columns, K, 8);
    else if (rows >= 4) product_rows(y, ld_y, x, ld_x, w, ld_r, ld_k, rows, columns, K, 4);
    else product_rows(y, ld_y, x, ld_x, w, ld_r, ld_k, rows, columns, K, 1);
}

/* y[r, c] = sum over k, ascending or descending, of w[r, k] * x[k, c]          y [rows, columns], w [rows, K], x [K, columns]
 * x is read in whole vectors. */
NOINLINE void rows_ascending(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_w,
                             ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K) {
    product(y, ld_y, x, ld_x, w, ld_w, 1, rows, columns, K);
}
NOINLINE void rows_descending(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_w,
                              ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K) {
    product(y, ld_y, x + (K - 1) * ld_x, -ld_x, w + K - 1, ld_w, -1, rows, columns, K);
}
/* y[r, c] = sum over k of w[k, r] * x[k, c]          w [K, rows] */
NOINLINE void columns_ascending(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_w,
                                ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K) {
    product(y, ld_y, x, ld_x, w, 1, ld_w, rows, columns, K);
}
NOINLINE void columns_descending(double *y, ptrdiff_t ld_y, const double *x, ptrdiff_t ld_x, const double *w, ptrdiff_t ld_w,
                                 ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t K) {
    product(y, ld_y, x + (K - 1) * ld_x, -ld_x, w + (K - 1) * ld_w, 1, -ld_w, rows, columns, K);
}

/* y [O, T] = w x          w [O, I], x [I, T]; inputs ascending, as in sum(wi * xi ...) */
static void linear_forward(const model *g, double *y, const double *x, const double *w, ptrdiff_t O, ptrdiff_t I) {
    rows_ascending(y, g->T, x, g->T, w, I, O, padded(g->n), I);
}
/* dx [I, T] = w^T dy: the outputs were visited in ascending order, so their terms come in descending order */
static void linear_backward(const model *g, double *dx, const double *dy, const double *w, ptrdiff_t O, ptrdiff_t I) {
    columns_descending(dx, g->T, dy, g->T, w, I, I, padded(g->n), O);
}
/* to[c, r] = from[r, c], whole vectors of `to` written; rows of `to` have ld_to */
static void transposed(double *to, ptrdiff_t ld_to, const double *from, ptrdiff_t ld_from, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t r = 0; r < rows; r += VL)
        for (ptrdiff_t c = 0; c < columns; c += VL)
            transpose_block(to + c * ld_to + r, ld_to, from + r * ld_from + c, ld_from, lanes_left(r, rows),
                            lanes_left(c, columns), 1);
}
/* dw [O, I] = dy x^T, positions descending; rows is [n, I] with stride ld: x by positions */
static void weight_gradient(const model *g, double *dw, const double *dy, const double *x_rows, ptrdiff_t ld, ptrdiff_t O,
                            ptrdiff_t I) {
    rows_descending(dw, I, x_rows, ld, dy, g->T, O, I, g->n);
}
static void linear_weight_gradient(const model *g, double *dw, const double *dy, const double *x, ptrdiff_t O, ptrdiff_t I) {
    ptrdiff_t ld = row_stride(I);
    transposed(g->rows, ld, x, g->T, I, g->n);
    weight_gradient(g, dw, dy, g->rows, ld, O, I);
}

/* ---- rmsnorm ---- */

/* ms = sum x^2 * C^-1 + eps,  scale = ms^-0.5,  y = x * scale          y, x [C, T]; ms, scale [T] */
static void rmsnorm_forward(const model *g, double *y, double *ms, double *scale, const double *x) {
    for (ptrdiff_t t = 0; t < g->n; t += VL) {
        vec sum = {0};
        for (ptrdiff_t i = 0; i < g->C; i++) {
            vec xi = load(x + i * g->T + t);
            sum += xi * xi;
        }
        store(ms + t, sum * splat(g->mean_scale) + splat(RMS_EPS));
        vec s = vpow(load(ms + t), INVERSE_ROOT, g->ask);
        store(scale + t, s);
        for (ptrdiff_t i = 0; i < g->C; i++) store(y + i * g->T + t, load(x + i * g->T + t) * s);
    }
}

/* dscale = sum x * dy, i descending;  dms = C^-1 * ((-0.5 * ms^-1.5) * dscale)
 * dx += scale * dy, then + x * dms twice: x[i] is both factors of x * x. What dx holds before is the gradient that came
 * past the norm by the residual connection, the last reader of x[i] and so the first to give. */
static void rmsnorm_backward(const model *g, double *dx, const double *dy, const double *x, const double *ms,
                             const double *scale) {
    for (ptrdiff_t t = 0; t < g->n; t += VL) {
        vec dscale = {0}, s = load(scale + t);
        vec slope = splat(-0.5) * vpow(load(ms + t), INVERSE_ROOT_CUBED, g->ask);
        for (ptrdiff_t i = g->C - 1; i >= 0; i--) dscale += load(x + i * g->T + t) * load(dy + i * g->T + t);
        vec dms = splat(g->mean_scale) * (slope * dscale);
        for (ptrdiff_t i = 0; i < g->C; i++) {
            double *d = dx + i * g->T + t;
            vec twice = load(x + i * g->T + t) * dms;
            store(d, ((load(d) + s * load(dy + i * g->T + t)) + twice) + twice);
        }
    }
}

/* ---- attention ---- */

INLINE vec lane_count_from(ptrdiff_t t) { return __builtin_convertvector(lane_numbers(), vec) + splat((double)t); }

/* exps of VL queries from position t on, of keys that lie `first` positions before query 0: e[s] = exp(e[s] - max) for
 * s <= query, else 0;  total = sum of e, keys ascending          e [keys, T] holds the logits */
static void softmax_of_keys(const model *g, double *e, double *total, double *inverse, ptrdiff_t t, ptrdiff_t first,
                            ptrdiff_t keys) {
    vec query = lane_count_from(t + first), max = load(e), sum = {0};
    for (ptrdiff_t s = 1; s < keys; s++) {
        vec x = load(e + s * g->T);
        max = blend((query >= splat((double)s)) & (x > max), x, max);
    }
    for (ptrdiff_t s = 0; s < keys; s++) {
        vec x = load(e + s * g->T) - max, y = {0};
        for (int lane = (int)max_of(0, s - first - t); lane < lanes_left(t, g->n); lane++) y[lane] = exp(x[lane]);
        store(e + s * g->T, y);
        sum += y;
    }
    sum = blend(sum > splat(0), sum, splat(1)); /* idle lanes */
    store(total, sum);
    store(inverse, vpow(sum, INVERSE, g->ask));
}

/* logit = (q . k, features ascending) * (D^0.5)^-1,  o = sum of e * total^-1 * v, keys ascending
 * q, o [C, T]; k, v [C, ld]; keys and values begin `first` positions before the queries */
static void attention_forward(const model *g, const layer_values *v, const double *keys, const double *values, ptrdiff_t ld,
                              ptrdiff_t first) {
    for (ptrdiff_t h = 0; h < g->H; h++)
        for (ptrdiff_t t = 0; t < g->n; t += VL) {
            ptrdiff_t seen = first + min_of(t + VL, g->n), at = h * g->D;
            double *e = v->e + h * g->keys * g->T + t, *weights = g->weights;
            double *total = v->total + h * g->T + t, *inverse = v->inverse + h * g->T + t;
            columns_ascending(e, g->T, v->qkv + at * g->T + t, g->T, keys + at * ld, ld, seen, VL, g->D);
            for (ptrdiff_t s = 0; s < seen; s++) store(e + s * g->T, load(e + s * g->T) * splat(g->head_scale));
            softmax_of_keys(g, e, total, inverse, t, first, seen);
            for (ptrdiff_t s = 0; s < seen; s++) store(weights + s * VL, load(e + s * g->T) * load(inverse));
            rows_ascending(v->o + at * g->T + t, g->T, weights, VL, values + at * ld, ld, g->D, VL, seen);
        }
}

/* One head, VL queries from t on: the gradients of their weights and logits, and dq.
 * dweight[s] = do . v[s], features descending: o's elements were summed one after the other
 * dtotal = sum over s, descending, of (-1 * total^-2) * (e * dweight): each weight divides by the total on its own
 * de = total^-1 * dweight + dtotal,  dlogit = (D^0.5)^-1 * (e * de),  dq = sum of k * dlogit, s descending */
static void query_gradients(const model *g, const layer_values *v, double *dq, double *dlogits, double *weights,
                            const double *d_o, ptrdiff_t h, ptrdiff_t t) {
    const ptrdiff_t T = g->T, at = h * g->D, seen = min_of(t + VL, g->n);
    const double *keys = v->qkv + (g->C + at) * T, *values = keys + g->C * T, *e = v->e + h * g->keys * T + t;
    const vec inverse = load(v->inverse + h * T + t);
    const vec slope = splat(-1) * vpow(load(v->total + h * T + t), INVERSE_SQUARE, g->ask);
    vec dtotal = {0};
    columns_descending(dlogits, T, d_o + at * T + t, T, values, T, seen, VL, g->D);
    for (ptrdiff_t s = seen - 1; s >= 0; s--) dtotal += slope * (load(e + s * T) * load(dlogits + s * T));
    for (ptrdiff_t s = 0; s < seen; s++) {
        vec es = load(e + s * T), de = inverse * load(dlogits + s * T) + dtotal;
        store(dlogits + s * T, splat(g->head_scale) * (es * de));
        store(weights + s * T, es * inverse);
    }
    rows_descending(dq + at * T + t, T, dlogits, T, keys, T, g->D, VL, seen);
}

/* dk[s] = sum over queries, descending, of q * dlogit[s],  dv[s] = sum over queries, descending, of do * weight[s]
 * dqkv [3C, T]; d_o [C, T] */
static void attention_backward(const model *g, double *dqkv, const layer_values *v, const double *d_o) {
    const ptrdiff_t T = g->T, C = g->C, n = g->n;
    for (ptrdiff_t h = 0; h < g->H; h++) {
        const ptrdiff_t at = h * g->D;
        for (ptrdiff_t t = 0; t < n; t += VL) {
            query_gradients(g, v, dqkv, g->scores + t, g->weights + t, d_o, h, t);
            ptrdiff_t seen = min_of(t + VL, n);
            transposed(g->rows + t * T, T, g->scores + t, T, seen, lanes_left(t, n));
            transposed(g->more_rows + t * T, T, g->weights + t, T, seen, lanes_left(t, n));
        }
        for (ptrdiff_t s = 0; s < n; s += VL) { /* queries before s do not see these keys */
            const double *q = v->qkv + at * T + s;
            rows_descending(dqkv + (C + at) * T + s, T, g->rows + s * T + s, T, q, T, g->D, VL, n - s);
            rows_descending(dqkv + (2 * C + at) * T + s, T, g->more_rows + s * T + s, T, d_o + at * T + s, T, g->D, VL, n - s);
        }
    }
}

/* The order in which the input of q, k and v (rows 0 .. 3C - 1 of wqkv) collects its gradient: heads descending, within a
 * head v, k and q, each descending, since q.k of the first key reaches q, that of the query's own position reaches k,
 * and the weighted sum of values comes after. At position 0 the first key is its own: q[j] and k[j] take turns. */
static void qkv_order(const model *g) {
    ptrdiff_t *order = g->order, *first = g->first_order;
    for (ptrdiff_t h = g->H - 1; h >= 0; h--) {
        const ptrdiff_t q = h * g->D, k = g->C + q, v = g->C + k;
        for (ptrdiff_t j = g->D - 1; j >= 0; j--) *order++ = *first++ = v + j;
        for (ptrdiff_t j = g->D - 1; j >= 0; j--) *order++ = k + j;
        for (ptrdiff_t j = g->D - 1; j >= 0; j--) *order++ = q + j;
        for (ptrdiff_t j = g->D - 1; j >= 0; j--) *first++ = k + j, *first++ = q + j;
    }
}

/* da [C, T] = wqkv^T dqkv in qkv_order          w [3C, C] */
static void qkv_backward(const model *g, double *da, const double *dqkv, const double *w) {
    const ptrdiff_t T = g->T, C = g->C;
    for (ptrdiff_t t = 0; t < g->n; t += VL)
        for (ptrdiff_t i = 0; i < C; i += 8) {
            vec sum[8] = {{0}};
            ptrdiff_t from = max_of(0, min_of(i, C - 8)), rows = min_of(8, C);
            for (ptrdiff_t k = 0; k < 3 * C; k++) {
                ptrdiff_t o = g->order[k];
                vec dy = load(dqkv + o * T + t);
                if (rows == 8) UNROLL for (int r = 0; r < 8; r++) sum[r] += splat(w[o * C + from + r]) * dy;
                else for (int r = 0; r < rows; r++) sum[r] += splat(w[o * C + from + r]) * dy;
            }
            for (ptrdiff_t r = 0; r < rows; r++) store(da + (from + r) * T + t, sum[r]);
        }
    for (ptrdiff_t i = 0; i < C; i += VL) {
        vec sum = {0};
        for (ptrdiff_t k = 0; k < 3 * C; k++) {
            ptrdiff_t o = g->first_order[k];
            sum += load_n(w + o * C + i, lanes_left(i, C)) * splat(dqkv[o * T]);
        }
        for (int lane = 0; lane < lanes_left(i, C); lane++) da[(i + lane) * T] = sum[lane];
    }
}

/* ---- feed-forward block ---- */

/* r = max(h, 0) in place,  f = r or r^2 */
static void activate(const model *g, const layer_values *v) {
    for (ptrdiff_t j = 0; j < g->F; j++)
        for (ptrdiff_t t = 0; t < g->n; t += VL) {
            double *r = v->r + j * g->T + t;
            vec x = load(r);
            x = blend(x > splat(0), x, (vec){0});
            store(r, x);
            if (g->relu2) store(v->f + j * g->T + t, vpow(x, SQUARE, g->ask));
        }
}
/* d = (2 * r) * d for the square,  then 0 where r is 0 */
static void activate_backward(const model *g, double *d, const layer_values *v) {
    for (ptrdiff_t j = 0; j < g->F; j++)
        for (ptrdiff_t t = 0; t < g->n; t += VL) {
            vec r = load(v->r + j * g->T + t), x = load(d + j * g->T + t);
            if (g->relu2) x = (splat(2) * r) * x;
            store(d + j * g->T + t, blend(r > splat(0), x, (vec){0}));
        }
}

/* ---- layers ---- */

static void add(const model *g, double *y, const double *x) {
    for (ptrdiff_t i = 0; i < g->C; i++)
        for (ptrdiff_t t = 0; t < g->n; t += VL) store(y + i * g->T + t, load(y + i * g->T + t) + load(x + i * g->T + t));
}

/* a = rmsnorm(x), q k v = wqkv a */
static void layer_begin(const model *g, const layer_values *v, layer_offsets at) {
    rmsnorm_forward(g, v->a, v->ms_a, v->scale_a, v->x);
    linear_forward(g, v->qkv, v->a, g->params + at.qkv, 3 * g->C, g->C);
}
/* y = wo o + x,  out = fc2 f(fc1 rmsnorm(y)) + y */
static void layer_end(const model *g, double *out, const layer_values *v, layer_offsets at) {
    linear_forward(g, v->y, v->o, g->params + at.wo, g->C, g->C);
    add(g, v->y, v->x);
    rmsnorm_forward(g, v->b, v->ms_b, v->scale_b, v->y);
    linear_forward(g, v->r, v->b, g->params + at.fc1, g->F, g->C);
    activate(g, v);
    linear_forward(g, out, v->f, g->params + at.fc2, g->C, g->F);
    add(g, out, v->y);
}

/* dx [C, T]: the gradient of the layer's output becomes that of its input */
static void layer_backward(const model *g, double *dx, const layer_values *v, layer_offsets at) {
    const double *w = g->params;
    linear_backward(g, g->df, dx, w + at.fc2, g->C, g->F);
    linear_weight_gradient(g, g->grads + at.fc2, dx, v->f, g->C, g->F);
    activate_backward(g, g->df, v);
    linear_backward(g, g->dc, g->df, w + at.fc1, g->F, g->C);
    linear_weight_gradient(g, g->grads + at.fc1, g->df, v->b, g->F, g->C);
    rmsnorm_backward(g, dx, g->dc, v->y, v->ms_b, v->scale_b);

    linear_backward(g, g->dc, dx, w + at.wo, g->C, g->C);
    linear_weight_gradient(g, g->grads + at.wo, dx, v->o, g->C, g->C);
    attention_backward(g, g->dqkv, v, g->dc);
    qkv_backward(g, g->dc, g->dqkv, w + at.qkv);
    linear_weight_gradient(g, g->grads + at.qkv, g->dqkv, v->a, 3 * g->C, g->C);
    rmsnorm_backward(g, dx, g->dc, v->x, v->ms_a, v->scale_a);
}

/* ---- loss ---- */

/* e = exp(z - max) in place,  total = sum of e, ascending,  inverse = total^-1          z [V, T] */
static void softmax(const model *g) {
    for (ptrdiff_t t = 0; t < g->n; t += VL) {
        vec max = load(g->z + t), sum = {0};
        for (ptrdiff_t o = 1; o < g->V; o++) {
            vec x = load(g->z + o * g->T + t);
            max = blend(x > max, x, max);
        }
        for (ptrdiff_t o = 0; o < g->V; o++) {
            vec x = load(g->z + o * g->T + t) - max, e = {0};
            for (int lane = 0; lane < lanes_left(t, g->n); lane++) e[lane] = exp(x[lane]);
            store(g->z + o * g->T + t, e);
            sum += e;
        }
        sum = blend(sum > splat(0), sum, splat(1)); /* idle lanes */
        store(g->total + t, sum);
        store(g->inverse + t, vpow(sum, INVERSE, g->ask));
    }
}

/* p = e[target] * inverse,  the loss = (sum of -log p, ascending) * (1 / n) */
static double cross_entropy(const model *g, const int32_t *targets) {
    double sum = 0;
    for (ptrdiff_t t = g->n; t < padded(g->n); t++) g->p[t] = 1; /* idle lanes */
    for (ptrdiff_t t = 0; t < g->n; t++) {
        g->p[t] = g->z[targets[t] * g->T + t] * g->inverse[t];
        sum += log(g->p[t]) * -1.0;
    }
    return sum * (1.0 / (double)g->n);
}

/* dp = (1 / p) * (-1 * (1 / n)),  dtotal = (-1 * total^-2) * (e[target] * dp)
 * dz = e * dtotal,  dz[target] = e * (inverse * dp + dtotal)
 * dx = lm_head^T dz: the target's logit was visited first and gives last, the others descending. In their sum the
 * target's term is 0. */
static void loss_backward(const model *g, double *dx, const int32_t *targets) {
    const ptrdiff_t T = g->T, C = g->C;
    const double *lm_head = g->params + lm_head_at(g);
    for (ptrdiff_t t = 0; t < g->n; t += VL) {
        vec target = {0};
        for (int lane = 0; lane < VL; lane++) target[lane] = t + lane < g->n ? g->z[targets[t + lane] * T + t + lane] : 1;
        vec dp = (splat(1) / load(g->p + t)) * splat(-1.0 * (1.0 / (double)g->n));
        vec slope = splat(-1) * vpow(load(g->total + t), INVERSE_SQUARE, g->ask);
        vec dtotal = slope * (target * dp);
        store(g->p + t, target * (load(g->inverse + t) * dp + dtotal)); /* the target's gradient */
        for (ptrdiff_t o = 0; o < g->V; o++) store(g->z + o * T + t, load(g->z + o * T + t) * dtotal);
    }
    for (ptrdiff_t t = 0; t < g->n; t++) g->z[targets[t] * T + t] = 0;
    linear_backward(g, dx, g->z, lm_head, g->V, C);
    for (ptrdiff_t t = 0; t < g->n; t++) {
        for (ptrdiff_t i = 0; i < C; i++) dx[i * T + t] += lm_head[targets[t] * C + i] * g->p[t];
        g->z[targets[t] * T + t] = g->p[t];
    }
    linear_weight_gradient(g, g->grads + lm_head_at(g), g->z, g->x_out, g->V, C);
}

/* ---- the model ---- */

/* x0 = wte[token] + wpe[position], idle lanes 0;  x = rmsnorm(x0) */
static void embed(const model *g, double *x, const int32_t *tokens, ptrdiff_t first) {
    const double *wte = g->params, *wpe = wte + wpe_at(g) + first * g->C;
    for (ptrdiff_t i = 0; i < g->C; i++)
        for (ptrdiff_t t = 0; t < padded(g->n); t++)
            g->x0[i * g->T + t] = t < g->n ? wte[tokens[t] * g->C + i] + wpe[t * g->C + i] : 0;
    rmsnorm_forward(g, x, g->ms_0, g->scale_0, g->x0);
}
/* dwte[token] += dx, dwpe[position] += dx, positions descending */
static void embed_backward(const model *g, const double *dx, const int32_t *tokens) {
    double *dwte = g->grads, *dwpe = dwte + wpe_at(g);
    memset(dwte, 0, (size_t)lm_head_at(g) * sizeof(double));
    for (ptrdiff_t t = g->n - 1; t >= 0; t--)
        for (ptrdiff_t i = 0; i < g->C; i++) {
            dwte[tokens[t] * g->C + i] += dx[i * g->T + t];
            dwpe[t * g->C + i] += dx[i * g->T + t];
        }
}

static void set_params(model *g, const double *params) {
    g->params = params;
    g->mean_scale = pow((double)g->C, -1.0);
    g->head_scale = pow(pow((double)g->D, 0.5), -1.0);
    g->ask = lanes_to_ask();
}

/* logits may be NULL */
static double document_forward(const model *g, double *logits, const int32_t *tokens) {
    const ptrdiff_t C = g->C, T = g->T;
    embed(g, g->L ? values_of(g, 0).x : g->x_out, tokens, 0);
    for (ptrdiff_t l = 0; l < g->L; l++) {
        layer_values v = values_of(g, l);
        layer_begin(g, &v, offsets_of(g, l));
        attention_forward(g, &v, v.qkv + C * T, v.qkv + 2 * C * T, T, 0);
        layer_end(g, l + 1 < g->L ? values_of(g, l + 1).x : g->x_out, &v, offsets_of(g, l));
    }
    linear_forward(g, g->z, g->x_out, g->params + lm_head_at(g), g->V, C);
    if (logits)
        for (ptrdiff_t t = 0; t < g->n; t++)
            for (ptrdiff_t o = 0; o < g->V; o++) logits[t * g->V + o] = g->z[o * T + t];
    softmax(g);
    return cross_entropy(g, tokens + 1);
}

/* g->grads = the gradient of the document at hand, after its document_forward */
static void document_backward(const model *g, const int32_t *tokens) {
    qkv_order(g);
    loss_backward(g, g->dx, tokens + 1);
    for (ptrdiff_t l = g->L - 1; l >= 0; l--) {
        layer_values v = values_of(g, l);
        layer_backward(g, g->dx, &v, offsets_of(g, l));
    }
    memset(g->dc, 0, (size_t)(g->C * g->T) * sizeof(double));
    rmsnorm_backward(g, g->dc, g->dx, g->x0, g->ms_0, g->scale_0);
    embed_backward(g, g->dc, tokens);
}

/* -1, or the first document with a token or length out of range */
static ptrdiff_t first_bad(const int32_t *tokens, const int64_t *starts, const int32_t *lengths, ptrdiff_t count,
                           const mgf_config *config) {
    for (ptrdiff_t i = 0; i < count; i++) {
        if (lengths[i] < 1 || lengths[i] > config->block_size) return i;
        for (int32_t t = 0; t <= lengths[i]; t++) {
            int32_t token = tokens[starts[i] + t];
            if (token < 0 || token >= config->vocab_size) return i;
        }
    }
    return -1;
}

static size_t gpt_workspace_size(const mgf_config *config, ptrdiff_t N, ptrdiff_t B, const mgf_pool *pool) {
    (void)B, (void)pool;
    model g;
    return lay_out(&g, config, max_of(1, min_of(N, config->block_size)), NULL);
}

static ptrdiff_t gpt_forward(double *losses, double *logits, const double *params, const int32_t *tokens,
                             const int64_t *starts, const int32_t *lengths, ptrdiff_t B, const mgf_config *config,
                             void *memory, mgf_pool *pool) {
    (void)pool;
    ptrdiff_t bad = first_bad(tokens, starts, lengths, B, config);
    if (bad >= 0) return bad;
    model g;
    lay_out(&g, config, lengths[0], memory);
    set_params(&g, params);
    losses[0] = document_forward(&g, logits, tokens + starts[0]);
    return -1;
}

static ptrdiff_t gpt_backward(double *losses, double *grads, const double *params, const int32_t *tokens,
                              const int64_t *starts, const int32_t *lengths, ptrdiff_t B, const mgf_config *config,
                              void *memory, mgf_pool *pool) {
    (void)pool;
    ptrdiff_t bad = first_bad(tokens, starts, lengths, B, config);
    if (bad >= 0) return bad;
    model g;
    lay_out(&g, config, lengths[0], memory);
    set_params(&g, params);
    losses[0] = document_forward(&g, NULL, tokens + starts[0]);
    document_backward(&g, tokens + starts[0]);
    for (ptrdiff_t i = 0; i < num_params(&g); i++) grads[i] += g.grads[i];
    return -1;
}

/* ---- training ---- */

/* m = beta1 * m + (1 - beta1) * g,  v = beta2 * v + (1 - beta2) * g^2
 * p -= lr * (m / c1) / ((v / c2)^0.5 + eps),  c = 1 - beta^step */
typedef struct {
    double lr, beta1, beta2, eps, c1, c2; /* c = 1 - beta^step */
} adam_constants;

/* m = beta1 * m + (1 - beta1) * g,  v = beta2 * v + (1 - beta2) * g^2,  p -= lr * (m / c1) / ((v / c2)^0.5 + eps) */
static void adam_one(double *p, double *m, double *v, double g, const adam_constants *a) {
    *m = a->beta1 * *m + (1 - a->beta1) * g;
    *v = a->beta2 * *v + (1 - a->beta2) * pow(g, 2.0);
    *p -= a->lr * (*m / a->c1) / (pow(*v / a->c2, 0.5) + a->eps);
}

/* the same for some lanes of a vector */
static __attribute__((noinline)) void adam_some(double *p, double *m, double *v, const double *grads, unsigned lanes,
                                                const adam_constants *a) {
    for (; lanes; lanes &= lanes - 1) {
        int lane = __builtin_ctz(lanes);
        adam_one(p + lane, m + lane, v + lane, grads[lane], a);
    }
}

/* The lanes where x + y could come out differently if y were `spread` times larger or smaller. */
INLINE unsigned is_sensitive(vec x, vec y, double spread) {
    return differ(product_plus(y, splat(1 + spread), x), product_plus(y, splat(1 - spread), x));
}

/* A power next to a tie is one of two neighbours. Mostly it does not matter which: an ulp of g^2 changes (1 - beta2) * g^2
 * by at most 2^-51 of itself, an ulp of the root changes the update by at most 0.75 * 2^-50 of itself, and the sum they
 * go into, being rounded, seldom notices. Where it could, and where v or m is so small that this reasoning or the
 * division fails, the library computes. */
static void adam_step(double *restrict p, double *restrict m, double *restrict v, const double *restrict grads, ptrdiff_t n,
                      const adam_constants *a, unsigned ask) {
    const vec lr = splat(a->lr), beta1 = splat(a->beta1), rest1 = splat(1 - a->beta1), beta2 = splat(a->beta2),
              rest2 = splat(1 - a->beta2), eps = splat(a->eps);
    const divisor by_c1 = divisor_of(a->c1), by_c2 = divisor_of(a->c2);
    ptrdiff_t i = 0;
    for (; i + VL <= n; i += VL) {
        const vec g = load(grads + i), square = g * g, old_v = beta2 * load(v + i), step_v = rest2 * square;
        const vec m1 = beta1 * load(m + i) + rest1 * g, v1 = old_v + step_v;
        const vec v_hat = divided(v1, by_c2), root = square_root(v_hat);
        const vec update = lr * divided(m1, by_c1) / (root + eps), old = load(p + i), new = old - update;
        unsigned lanes = near_ties(square, residual(g, g, square), TIE_MARGIN) & is_sensitive(old_v, step_v, 0x1p-50);
        lanes |= roots_near_ties(v_hat, root, TIE_MARGIN) & is_sensitive(old, -update, 0x0.dp-50);
        lanes |= out_of_range(v1, 0x1p-90, HIGHEST_RESULT) | unsafe_dividends(m1) | ask;
        if (__builtin_expect(lanes != 0, 0)) {
            store(p + i, choose(lanes, old, new));
            store(m + i, choose(lanes, load(m + i), m1));
            store(v + i, choose(lanes, load(v + i), v1));
            adam_some(p + i, m + i, v + i, grads + i, lanes, a);
        } else {
            store(p + i, new);
            store(m + i, m1);
            store(v + i, v1);
        }
    }
    for (; i < n; i++) adam_one(p + i, m + i, v + i, grads[i], a);
}

static ptrdiff_t gpt_train_steps(double *losses, double *params, double *m, double *v, const int32_t *tokens,
                                 const int64_t *starts, const int32_t *lengths, ptrdiff_t k, ptrdiff_t B, const double *lr,
                                 const mgf_adam *adam, int64_t first_step, const mgf_config *config, void *memory,
                                 mgf_pool *pool) {
    (void)pool;
    ptrdiff_t bad = first_bad(tokens, starts, lengths, k * B, config);
    if (bad >= 0) return bad;
    for (ptrdiff_t i = 0; i < k; i++) {
        model g;
        lay_out(&g, config, lengths[i], memory);
        set_params(&g, params);
        losses[i] = document_forward(&g, NULL, tokens + starts[i]);
        document_backward(&g, tokens + starts[i]);
        double step = (double)(first_step + i);
        adam_constants a = {lr[i], adam->beta1, adam->beta2, adam->eps, 1 - pow(adam->beta1, step), 1 - pow(adam->beta2, step)};
        adam_step(params, m, v, g.grads, num_params(&g), &a, g.ask);
    }
    return -1;
}

/* ---- decoding ---- */

/* One position in the first lane, and caches of keys and values [L, 2, C, ld]. */
typedef struct {
    model g;
    double *cache;
    ptrdiff_t ld;
} decoder_layout;

static size_t lay_out_decoder(decoder_layout *d, const mgf_config *config, void *memory) {
    arena from = arena_in(memory);
    lay_out_forward(&d->g, &from, config, 1, 1, config->block_size);
    d->ld = row_stride(config->block_size);
    d->cache = take(&from, d->g.L * 2 * d->g.C * d->ld);
    return from.used + 64;
}

static size_t gpt_decoder_size(const mgf_config *config) {
    decoder_layout d;
    return lay_out_decoder(&d, config, NULL);
}

static void gpt_decoder_init(void *decoder, const double *params, const mgf_config *config) {
    (void)params;
    decoder_layout d;
    lay_out_decoder(&d, config, decoder);
    memset(d.cache, 0, (size_t)(d.g.L * 2 * d.g.C * d.ld) * sizeof(double));
}

/* leaves the logits in the first lane of d->g.z */
static void decode(decoder_layout *d, int32_t token, ptrdiff_t position) {
    const model *g = &d->g;
    const ptrdiff_t C = g->C, ld = d->ld;
    layer_values v = values_of(g, 0);
    embed(g, g->x_out, &token, position);
    for (ptrdiff_t l = 0; l < g->L; l++) {
        double *keys = d->cache + l * 2 * C * ld, *values = keys + C * ld;
        memcpy(v.x, g->x_out, (size_t)(C * g->T) * sizeof(double));
        layer_begin(g, &v, offsets_of(g, l));
        for (ptrdiff_t i = 0; i < 2 * C; i++) keys[i * ld + position] = v.qkv[(C + i) * g->T];
        attention_forward(g, &v, keys, values, ld, position);
        layer_end(g, g->x_out, &v, offsets_of(g, l));
    }
    linear_forward(g, g->z, g->x_out, g->params + lm_head_at(g), g->V, C);
}

static void gpt_decode(double *logits, int32_t token, ptrdiff_t position, const double *params, const mgf_config *config,
                       void *decoder) {
    decoder_layout d;
    lay_out_decoder(&d, config, decoder);
    set_params(&d.g, params);
    decode(&d, token, position);
    for (ptrdiff_t o = 0; o < d.g.V; o++) logits[o] = d.g.z[o * d.g.T];
}

/* logits are multiplied by temperature^-1; weights = e * total^-1 */
static ptrdiff_t gpt_generate(int32_t *sample, mgf_random *random, const double *params, int32_t bos, double temperature,
                              const mgf_config *config, void *decoder) {
    decoder_layout d;
    lay_out_decoder(&d, config, decoder);
    set_params(&d.g, params);
    const model *g = &d.g;
    const double sharpness = pow(temperature, -1.0);
    double *weights = g->z; /* compacted from the first lane */
    int32_t token = bos;
    for (ptrdiff_t position = 0; position < g->block; position++) {
        decode(&d, token, position);
        for (ptrdiff_t o = 0; o < g->V; o++) g->z[o * g->T] *= sharpness;
        softmax(g);
        for (ptrdiff_t o = 0; o < g->V; o++) weights[o] = g->z[o * g->T] * g->inverse[0];
        token = (int32_t)mgf_random_choice(random, weights, g->V);
        if (token == bos) return position;
        sample[position] = token;
    }
    return g->block;
}

/* ---- the table ---- */

extern const mgf_exact MGF_EXACT_TABLE;
#define real double
#define KERNEL(result, name, arguments)
#define MGF_MODEL(result, name, arguments) name,
const mgf_exact MGF_EXACT_TABLE = {
#include "microgpt_fast_kernels.h"
};
