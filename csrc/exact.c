/* The float64 model in the scalar original's own order of operations: losses, gradients, parameters and
 * samples are equal bit for bit, for any shape of model, one document per step.
 *
 * Compile apart, with -ffp-contract=off -fno-builtin: every product is rounded, and exp, log and pow are the
 * C library's, as Python calls them. MGF_EXACT_TABLE names the table of functions that this instruction set's
 * unit defines.
 *
 * Preconditions beyond those of microgpt_fast_kernels.h: B == 1, weight_decay == 0; the pool is not used.
 *
 * Where the orders come from. The original's backward pass walks the reversed post-order of a depth-first
 * search which starts at the loss and visits each node's operands from left to right. The sum of the losses
 * hangs position 0 lowest, so backward goes from the last position to the first, and a position is done, in
 * all layers, before the one in front of it begins: keys and values then have the gradients of all later
 * queries. Within a position, the first sum that reaches a vector visits its elements in ascending order, one
 * subtree after the other; so an element which many sums read collects its gradient from the last of these
 * sums first. A gradient starts from 0, as every sum does, hence it is never -0, and adding a product that is
 * 0 changes nothing: idle lanes and masked terms may carry zeros. Where a term is NaN or infinity that is not so: then
 * NaN reaches the loss, or the embedding's gradient, and the document is computed again without masked terms.
 *
 * Layout. Lanes are positions: an activation of C features is a matrix [C, T], with T >= n positions per row.
 * No order depends on the position except one at position 0, so each lane does what the original does at its
 * position, and weights are used as they lie. Sums over positions (gradients of weights, keys and values)
 * have their lanes along the other axis.
 */
#include <string.h>

#include "base/documents.h"
#include "exact/adam.h"
#include "exact/layers.h"
#include "random.h"

/* ---- loss ---- */

/* e = exp(z - max) in place          z [V, T] */
static void softmax(const model *g) {
    for (ptrdiff_t t = 0; t < g->n; t += VL) {
        vec max = load(g->z + t);
        for (ptrdiff_t o = 1; o < g->V; o++) {
            vec x = load(g->z + o * g->T + t);
            max = blend(x > max, x, max);
        }
        exps(g, g->z + t, g->total + t, g->inverse + t, max, t, g->V, g->V);
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
 * dx = lm_head^T dz: the target's logit was visited first and gives last, the others descending. In their sum
 * the target's term is 0. */
static void loss_backward(const model *g, double *dx, const int32_t *targets) {
    const ptrdiff_t T = g->T, C = g->C;
    const double *lm_head = g->params + g->lm_head;
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
    exact_linear_backward(g, dx, g->z, lm_head, g->V, C);
    for (ptrdiff_t t = 0; t < g->n; t++) {
        for (ptrdiff_t i = 0; i < C; i++) dx[i * T + t] += lm_head[targets[t] * C + i] * g->p[t];
        g->z[targets[t] * T + t] = g->p[t];
    }
    exact_linear_weight_backward(g, g->grads + g->lm_head, g->z, g->x_out, g->V, C);
}

/* ---- the model ---- */

/* x0 = wte[token] + wpe[position], idle lanes 0;  x = rmsnorm(x0) */
static void embed(const model *g, double *x, const int32_t *tokens, ptrdiff_t first) {
    const double *wte = g->params + g->table.outside[WTE].at;
    const double *wpe = g->params + g->table.outside[WPE].at + first * g->C;
    for (ptrdiff_t i = 0; i < g->C; i++)
        for (ptrdiff_t t = 0; t < padded(g->n); t++)
            g->x0[i * g->T + t] = t < g->n ? wte[tokens[t] * g->C + i] + wpe[t * g->C + i] : 0;
    exact_rmsnorm_forward(g, x, g->ms_0, g->scale_0, g->x0);
}
/* dwte[token] += dx, dwpe[position] += dx, positions descending */
static void embed_backward(const model *g, const double *dx, const int32_t *tokens) {
    double *dwte = g->grads + g->table.outside[WTE].at, *dwpe = g->grads + g->table.outside[WPE].at;
    memset(dwte, 0, (size_t)(g->V * g->C) * sizeof(double));
    memset(dwpe, 0, (size_t)(g->block * g->C) * sizeof(double));
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
static double run_forward(const model *g, double *logits, const int32_t *tokens) {
    const ptrdiff_t C = g->C, T = g->T;
    embed(g, g->L ? values_of(g, 0).x : g->x_out, tokens, 0);
    for (ptrdiff_t l = 0; l < g->L; l++) {
        layer_values v = values_of(g, l);
        layer_begin(g, &v, offsets_of(g, l));
        exact_attention_forward(g, &v, v.qkv + C * T, v.qkv + 2 * C * T, T, 0);
        layer_end(g, l + 1 < g->L ? values_of(g, l + 1).x : g->x_out, &v, offsets_of(g, l));
    }
    exact_linear_forward(g, g->z, g->x_out, g->params + g->lm_head, g->V, C);
    if (logits)
        for (ptrdiff_t t = 0; t < g->n; t++)
            for (ptrdiff_t o = 0; o < g->V; o++) logits[t * g->V + o] = g->z[o * T + t];
    softmax(g);
    return cross_entropy(g, tokens + 1);
}

/* g->grads = the gradient of the document at hand, after its run_forward */
static void run_backward(const model *g, const int32_t *tokens) {
    qkv_order(g);
    loss_backward(g, g->dx, tokens + 1);
    for (ptrdiff_t l = g->L - 1; l >= 0; l--) {
        layer_values v = values_of(g, l);
        layer_backward(g, g->dx, &v, offsets_of(g, l));
    }
    memset(g->dc, 0, (size_t)(g->C * g->T) * sizeof(double));
    exact_rmsnorm_backward(g, g->dc, g->dx, g->x0, g->ms_0, g->scale_0);
    embed_backward(g, g->dc, tokens);
}

static double document_forward(model *g, double *logits, const int32_t *tokens) {
    g->careful = 0;
    double loss = run_forward(g, logits, tokens);
    if (loss == loss) return loss;
    g->careful = 1;
    return run_forward(g, logits, tokens);
}

/* the loss, and g->grads = its gradient */
static double document_backward(model *g, const int32_t *tokens) {
    const double loss = document_forward(g, NULL, tokens);
    run_backward(g, tokens);
    int is_nan = 0; /* a NaN in keys' or values' gradients reaches every feature of the position */
    for (ptrdiff_t t = 0; t < g->n; t++) is_nan |= g->dc[t] != g->dc[t];
    if (!is_nan || g->careful) return loss;
    g->careful = 1;
    run_forward(g, NULL, tokens);
    run_backward(g, tokens);
    return loss;
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
    ptrdiff_t bad = first_bad_document(tokens, starts, lengths, B, config);
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
    ptrdiff_t bad = first_bad_document(tokens, starts, lengths, B, config);
    if (bad >= 0) return bad;
    model g;
    lay_out(&g, config, lengths[0], memory);
    set_params(&g, params);
    losses[0] = document_backward(&g, tokens + starts[0]);
    for (ptrdiff_t i = 0; i < g.table.count; i++) grads[i] += g.grads[i];
    return -1;
}

/* ---- training ---- */

static ptrdiff_t gpt_train_steps(double *losses, double *params, double *m, double *v, const int32_t *tokens,
                                 const int64_t *starts, const int32_t *lengths, ptrdiff_t k, ptrdiff_t B, const double *lr,
                                 const mgf_adam *adam, int64_t first_step, const mgf_config *config, void *memory,
                                 mgf_pool *pool) {
    (void)pool;
    ptrdiff_t bad = first_bad_document(tokens, starts, lengths, k * B, config);
    if (bad >= 0) return bad;
    for (ptrdiff_t i = 0; i < k; i++) {
        model g;
        lay_out(&g, config, lengths[i], memory);
        set_params(&g, params);
        losses[i] = document_backward(&g, tokens + starts[i]);
        exact_adam_step(params, m, v, g.grads, g.table.count, lr[i], adam, (double)(first_step + i), g.ask);
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
    d->ld = position_stride(config->block_size);
    d->cache = TAKE_REALS(&from, d->g.L * 2 * d->g.C * d->ld);
    return arena_size(&from);
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
        exact_attention_forward(g, &v, keys, values, ld, position);
        layer_end(g, g->x_out, &v, offsets_of(g, l));
    }
    exact_linear_forward(g, g->z, g->x_out, g->params + g->lm_head, g->V, C);
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
