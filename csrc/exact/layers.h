/* The layers of exact.c, forward and backward next to each other; what exact.c says about orders and layout
 * holds here. */
#ifndef MGF_EXACT_LAYERS_H
#define MGF_EXACT_LAYERS_H

#include "exact/product.h"

/* ---- rmsnorm ---- */

/* ms = sum x^2 * C^-1 + eps,  scale = ms^-0.5,  y = x * scale          y, x [C, T]; ms, scale [T] */
static void exact_rmsnorm_forward(const model *g, double *y, double *ms, double *scale, const double *x) {
    for (ptrdiff_t t = 0; t < g->n; t += VL) {
        vec sum = {0};
        for (ptrdiff_t i = 0; i < g->C; i++) {
            vec xi = load(x + i * g->T + t);
            sum += xi * xi;
        }
        const vec mean = sum * splat(g->mean_scale) + splat(RMS_EPS), s = vpow(mean, INVERSE_ROOT, g->ask);
        store(ms + t, mean);
        store(scale + t, s);
        for (ptrdiff_t i = 0; i < g->C; i++) store(y + i * g->T + t, load(x + i * g->T + t) * s);
    }
}

/* dscale = sum x * dy, i descending;  dms = C^-1 * ((-0.5 * ms^-1.5) * dscale)
 * dx += scale * dy, then + x * dms twice: x[i] is both factors of x * x. What dx holds before is the gradient
 * that came past the norm by the residual connection, the last reader of x[i] and so the first to give. */
static void exact_rmsnorm_backward(const model *g, double *dx, const double *dy, const double *x, const double *ms,
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

/* ---- softmax and attention ---- */

/* x[s] = exp(x[s] - max) for rows s of VL positions from t on; 0 in idle lanes and the first s - hidden ones
 * total = sum of the rows, ascending, or 1 in idle lanes;  inverse = total^-1
 * Where the library is to be asked, the first loop leaves the argument to the second, and need not wait. */
static void exps(const model *g, double *x, double *total, double *inverse, vec max, ptrdiff_t t, ptrdiff_t hidden,
                 ptrdiff_t rows) {
    const unsigned live = first_lanes(g->n - t);
    for (ptrdiff_t s = 0; s < rows; s++) {
        const unsigned lanes = live & ~first_lanes(s - hidden);
        vec y;
        g->left[s] = (uint8_t)(lanes & exp_unless_near_tie(&y, load(x + s * g->T) - max, g->ask));
        store(x + s * g->T, choose(lanes, y, (vec){0}));
    }
    vec sum = {0};
    for (ptrdiff_t s = 0; s < rows; s++) {
        double *e = x + s * g->T;
        for (unsigned lanes = g->left[s]; lanes; lanes &= lanes - 1) {
            int lane = __builtin_ctz(lanes);
            e[lane] = exp(e[lane]);
        }
        sum += load(e);
    }
    sum = choose(live, sum, splat(1));
    store(total, sum);
    store(inverse, vpow(sum, INVERSE, g->ask));
}

INLINE vec lane_count_from(ptrdiff_t t) { return __builtin_convertvector(lane_numbers(), vec) + splat((double)t); }

/* VL queries from position t on, keys that begin `first` positions before query 0: e[s] = exp(e[s] - max) for
 * s <= query, else 0;  total and its power -1          e [keys, T] holds the logits */
static void softmax_of_keys(const model *g, double *e, double *total, double *inverse, ptrdiff_t t, ptrdiff_t first,
                            ptrdiff_t keys) {
    vec query = lane_count_from(t + first), max = load(e);
    for (ptrdiff_t s = 1; s < keys; s++) {
        vec x = load(e + s * g->T);
        max = blend((query >= splat((double)s)) & (x > max), x, max);
    }
    exps(g, e, total, inverse, max, t, first + t, keys);
}

/* Where values hold NaN or infinity, "0 for keys after the query" does not leave them out of a sum: then g->careful is set,
 * and sums over keys (and, below, over queries) are taken for each query (or key) alone. */

/* o [D, VL] = sum over keys, ascending, of weights [seen, VL] * values, for the VL queries from t on */
static void sum_of_values(const model *g, double *o, const double *weights, const double *values, ptrdiff_t ld, ptrdiff_t t,
                          ptrdiff_t first, ptrdiff_t seen) {
    if (!g->careful) {
        rows_ascending(o, g->T, weights, VL, values, ld, g->D, VL, seen);
        return;
    }
    for (ptrdiff_t i = 0; i < lanes_left(t, g->n); i++)
        rows_ascending(o + i, g->T, weights + i, VL, values, ld, g->D, 1, first + t + i + 1);
}

/* logit = (q . k, features ascending) * (D^0.5)^-1,  o = sum of e * total^-1 * v, keys ascending
 * q, o [C, T]; k, v [C, ld]; keys and values begin `first` positions before the queries */
static void exact_attention_forward(const model *g, const layer_values *v, const double *keys, const double *values,
                                    ptrdiff_t ld, ptrdiff_t first) {
    for (ptrdiff_t h = 0; h < g->H; h++)
        for (ptrdiff_t t = 0; t < g->n; t += VL) {
            ptrdiff_t seen = first + min_of(t + VL, g->n), at = h * g->D;
            double *e = v->e + h * g->keys * g->T + t, *weights = g->weights;
            double *total = v->total + h * g->T + t, *inverse = v->inverse + h * g->T + t;
            columns_ascending(e, g->T, v->qkv + at * g->T + t, g->T, keys + at * ld, ld, seen, VL, g->D);
            for (ptrdiff_t s = 0; s < seen; s++) store(e + s * g->T, load(e + s * g->T) * splat(g->head_scale));
            softmax_of_keys(g, e, total, inverse, t, first, seen);
            for (ptrdiff_t s = 0; s < seen; s++) store(weights + s * VL, load(e + s * g->T) * load(inverse));
            sum_of_values(g, v->o + at * g->T + t, weights, values + at * ld, ld, t, first, seen);
        }
}

/* x [seen, VL] with rows T apart, for the VL queries from t on: 0 for keys after the query */
static void leave_out_later_keys(const model *g, double *x, ptrdiff_t t, ptrdiff_t seen) {
    if (!g->careful) return; /* it is 0 already */
    for (ptrdiff_t s = t; s < seen; s++) store(x + s * g->T, choose(~first_lanes(s - t), load(x + s * g->T), (vec){0}));
}

/* One head, VL queries from t on: the gradients of their weights and logits, and dq.
 * dweight[s] = do . v[s], features descending: o's elements were summed one after the other
 * dtotal = sum over s, descending, of (-1 * total^-2) * (e * dweight): each weight has a total^-1 of its own
 * de = total^-1 * dweight + dtotal,  dlogit = (D^0.5)^-1 * (e * de)
 * dq = sum over s, descending, of k[s] * dlogit[s] */
static void query_gradients(const model *g, const layer_values *v, double *dq, double *dlogits, double *weights,
                            const double *d_o, ptrdiff_t h, ptrdiff_t t) {
    const ptrdiff_t T = g->T, at = h * g->D, seen = min_of(t + VL, g->n);
    const double *keys = v->qkv + (g->C + at) * T, *values = keys + g->C * T, *e = v->e + h * g->keys * T + t;
    const vec inverse = load(v->inverse + h * T + t);
    const vec slope = splat(-1) * vpow(load(v->total + h * T + t), INVERSE_SQUARE, g->ask);
    vec dtotal = {0};
    columns_descending(dlogits, T, d_o + at * T + t, T, values, T, seen, VL, g->D);
    leave_out_later_keys(g, dlogits, t, seen);
    for (ptrdiff_t s = seen - 1; s >= 0; s--) dtotal += slope * (load(e + s * T) * load(dlogits + s * T));
    for (ptrdiff_t s = 0; s < seen; s++) {
        vec es = load(e + s * T), de = inverse * load(dlogits + s * T) + dtotal;
        store(dlogits + s * T, splat(g->head_scale) * (es * de));
        store(weights + s * T, es * inverse);
    }
    leave_out_later_keys(g, dlogits, t, seen);
    leave_out_later_keys(g, weights, t, seen);
    if (!g->careful) rows_descending(dq + at * T + t, T, dlogits, T, keys, T, g->D, VL, seen);
    else
        for (ptrdiff_t i = t; i < seen; i++)
            rows_descending(dq + at * T + i, T, dlogits + i - t, T, keys, T, g->D, 1, i + 1);
}

/* dk[s] = sum of q * dlogit[s],  dv[s] = sum of do * weight[s], over queries, descending as all positions
 * dqkv [3C, T]; d_o [C, T] */
static void exact_attention_backward(const model *g, double *dqkv, const layer_values *v, const double *d_o) {
    const ptrdiff_t T = g->T, C = g->C, n = g->n;
    for (ptrdiff_t h = 0; h < g->H; h++) {
        const ptrdiff_t at = h * g->D;
        for (ptrdiff_t t = 0; t < n; t += VL) {
            query_gradients(g, v, dqkv, g->scores + t, g->weights + t, d_o, h, t);
            ptrdiff_t seen = min_of(t + VL, n);
            transposed(g->rows + t * T, T, g->scores + t, T, seen, lanes_left(t, n));
            transposed(g->more_rows + t * T, T, g->weights + t, T, seen, lanes_left(t, n));
        }
        const ptrdiff_t columns = g->careful ? 1 : VL;
        for (ptrdiff_t s = 0; s < n; s += columns) { /* queries before s do not see these keys */
            const double *q = v->qkv + at * T + s;
            rows_descending(dqkv + (C + at) * T + s, T, g->rows + s * T + s, T, q, T, g->D, columns, n - s);
            rows_descending(dqkv + (2 * C + at) * T + s, T, g->more_rows + s * T + s, T, d_o + at * T + s, T, g->D, columns,
                            n - s);
        }
    }
}

/* The order in which the input of q, k and v (rows 0 .. 3C - 1 of wqkv) collects its gradient: heads
 * descending, within a head v, k and q, each descending, since q.k of the first key reaches q, that of the
 * query's own position reaches k, and the weighted sum of values comes after. At position 0 the first key is
 * its own: q[j] and k[j] take turns. */
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
    columns_in_order(da, T, dqkv, T, w, C, C, padded(g->n), 3 * C, g->order);
    /* position 0 again, with the lanes along C: row 0 of the transpose (dqkv^T wqkv) */
    columns_in_order(g->rows, C, w, C, dqkv, T, 1, C, 3 * C, g->first_order);
    for (ptrdiff_t i = 0; i < C; i++) da[i * T] = g->rows[i];
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
/* d = (2 * r) * d for the square,  then times 1 or 0: not 0 where r is 0, since 0 times infinity is not */
static void activate_backward(const model *g, double *d, const layer_values *v) {
    for (ptrdiff_t j = 0; j < g->F; j++)
        for (ptrdiff_t t = 0; t < g->n; t += VL) {
            vec r = load(v->r + j * g->T + t), x = load(d + j * g->T + t);
            if (g->relu2) x = (splat(2) * r) * x;
            store(d + j * g->T + t, x * blend(r > splat(0), splat(1), (vec){0}));
        }
}

/* ---- a layer ---- */

static void add(const model *g, double *y, const double *x) {
    for (ptrdiff_t i = 0; i < g->C; i++)
        for (ptrdiff_t t = 0; t < g->n; t += VL) store(y + i * g->T + t, load(y + i * g->T + t) + load(x + i * g->T + t));
}

/* a = rmsnorm(x), q k v = wqkv a */
static void layer_begin(const model *g, const layer_values *v, layer_offsets at) {
    exact_rmsnorm_forward(g, v->a, v->ms_a, v->scale_a, v->x);
    exact_linear_forward(g, v->qkv, v->a, g->params + at.qkv, 3 * g->C, g->C);
}
/* y = wo o + x,  out = fc2 f(fc1 rmsnorm(y)) + y */
static void layer_end(const model *g, double *out, const layer_values *v, layer_offsets at) {
    exact_linear_forward(g, v->y, v->o, g->params + at.wo, g->C, g->C);
    add(g, v->y, v->x);
    exact_rmsnorm_forward(g, v->b, v->ms_b, v->scale_b, v->y);
    exact_linear_forward(g, v->r, v->b, g->params + at.fc1, g->F, g->C);
    activate(g, v);
    exact_linear_forward(g, out, v->f, g->params + at.fc2, g->C, g->F);
    add(g, out, v->y);
}

/* dx [C, T]: the gradient of the layer's output becomes that of its input */
static void layer_backward(const model *g, double *dx, const layer_values *v, layer_offsets at) {
    const double *w = g->params;
    exact_linear_backward(g, g->df, dx, w + at.fc2, g->C, g->F);
    exact_linear_weight_backward(g, g->grads + at.fc2, dx, v->f, g->C, g->F);
    activate_backward(g, g->df, v);
    exact_linear_backward(g, g->dc, g->df, w + at.fc1, g->F, g->C);
    exact_linear_weight_backward(g, g->grads + at.fc1, g->df, v->b, g->F, g->C);
    exact_rmsnorm_backward(g, dx, g->dc, v->y, v->ms_b, v->scale_b);

    exact_linear_backward(g, g->dc, dx, w + at.wo, g->C, g->C);
    exact_linear_weight_backward(g, g->grads + at.wo, dx, v->o, g->C, g->C);
    exact_attention_backward(g, g->dqkv, v, g->dc);
    qkv_backward(g, g->dc, g->dqkv, w + at.qkv);
    exact_linear_weight_backward(g, g->grads + at.qkv, g->dqkv, v->a, 3 * g->C, g->C);
    exact_rmsnorm_backward(g, dx, g->dc, v->x, v->ms_a, v->scale_a);
}

#endif
