/* The C core for wasm32, for one `real`: what web/core.js calls. Compiled with -DREAL_BITS=32 or 64.
 *
 * The functions are those of microgpt_fast_kernels.h, without pointers to structs: the page lays out nothing but arrays. The
 * page allocates with malloc and free, which are exported too. */
#include <stdlib.h>

#include "gpt/streams.h"
#include "gpt/train.h"

#define EXPORT(name) __attribute__((export_name(#name)))

/* NULL where no path serves such a model, or there is no memory */
EXPORT(model)
mgf_config *model(ptrdiff_t n_layer, ptrdiff_t n_embd, ptrdiff_t n_head, ptrdiff_t block_size, ptrdiff_t vocab_size,
                  int activation) {
    const mgf_config wanted = {.n_layer = n_layer,
                               .n_embd = n_embd,
                               .n_head = n_head,
                               .block_size = block_size,
                               .vocab_size = vocab_size,
                               .activation = activation};
    mgf_config *config = gpt_serves(&wanted) ? malloc(sizeof wanted) : NULL;
    if (config) *config = wanted;
    return config;
}

EXPORT(workspace_size) size_t workspace_size(const mgf_config *config, ptrdiff_t N) {
    return gpt_workspace_size(config, N, 1, NULL);
}

/* one document; returns -1, or 0 where a token or the length is out of range */
EXPORT(forward)
ptrdiff_t forward_one(double *loss, real *logits, const real *params, const int32_t *tokens, int32_t length,
                      const mgf_config *config, void *workspace) {
    return gpt_forward(loss, logits, params, tokens, &(int64_t){0}, &length, 1, config, workspace, NULL);
}

EXPORT(backward)
ptrdiff_t backward_one(double *loss, real *grads, const real *params, const int32_t *tokens, int32_t length,
                       const mgf_config *config, void *workspace) {
    return gpt_backward(loss, grads, params, tokens, &(int64_t){0}, &length, 1, config, workspace, NULL);
}

/* k steps of one document each */
EXPORT(train_steps)
ptrdiff_t train_steps(double *losses, real *params, real *m, real *v, const int32_t *tokens, const int64_t *starts,
                      const int32_t *lengths, ptrdiff_t k, const double *lr, double beta1, double beta2, double eps,
                      double weight_decay, double first_step, const mgf_config *config, void *workspace) {
    const mgf_adam adam = {beta1, beta2, eps, weight_decay};
    return gpt_train_steps(losses, params, m, v, tokens, starts, lengths, k, 1, lr, &adam, (int64_t)first_step, config,
                           workspace, NULL);
}

/* Adam's step with these gradients, which become 0 */
EXPORT(update)
void update(real *params, real *m, real *v, real *grads, double lr, double beta1, double beta2, double eps,
            double weight_decay, double step, const mgf_config *config) {
    const mgf_adam adam = {beta1, beta2, eps, weight_decay};
    gpt_update(params, m, v, grads, lr, &adam, (int64_t)step, 1, 0, config, NULL);
}

EXPORT(decoder_size) size_t decoder_size(const mgf_config *config) { return gpt_decoder_size(config); }

EXPORT(decoder_init) void decoder_init(void *decoder, const real *params, const mgf_config *config) {
    gpt_decoder_init(decoder, params, config);
}

EXPORT(decode)
void decode_one(real *logits, int32_t token, ptrdiff_t position, const real *params, const mgf_config *config,
                void *decoder) {
    gpt_decode(logits, token, position, params, config, decoder);
}

EXPORT(generate)
ptrdiff_t generate(int32_t *sample, mgf_random *random, const real *params, int32_t bos, double temperature,
                   const mgf_config *config, void *decoder) {
    return gpt_generate(sample, random, params, bos, temperature, config, decoder);
}

/* ---- what `forward` left in the workspace, for one document of N tokens */

static gpt inside(ptrdiff_t N, const mgf_config *config, void *workspace) {
    gpt g;
    gpt_lay_out(&g, config, N, 1, workspace);
    return g;
}

/* x [N, C], the residual stream: at stage 2l what layer l reads, at 2l + 1 the same with its attention's output, at 2L what
 * lm_head reads. Stored are rows after rmsnorm, y = x rstd. */
EXPORT(residual) void residual(real *x, ptrdiff_t stage, ptrdiff_t N, const mgf_config *config, void *workspace) {
    const gpt g = inside(N, config, workspace);
    for (ptrdiff_t i = 0; i < N; i++) {
        const real *row = g.x + i * g.ld_c;
        real rstd = 1;
        if (stage < 2 * g.L) {
            const layer_activations y = activations_of(&g, stage / 2);
            row = (stage % 2 ? y.h2 : y.h1) + i * g.ld_c;
            rstd = (stage % 2 ? y.rstd2 : y.rstd1)[i];
        }
        for (ptrdiff_t c = 0; c < g.C; c++) x[i * g.C + c] = row[c] / rstd;
    }
}

/* p [H, N, N] of a layer: p_hij = exp(scale q_i . k_j - lse_i) for j <= i, else 0 */
EXPORT(attention) void attention(real *p, ptrdiff_t layer, ptrdiff_t N, const mgf_config *config, void *workspace) {
    const gpt g = inside(N, config, workspace);
    const layer_activations y = activations_of(&g, layer);
    const double scale = 1 / sqrt((double)g.D);
    for (ptrdiff_t h = 0; h < g.H; h++)
        for (ptrdiff_t i = 0; i < N; i++)
            for (ptrdiff_t j = 0; j < N; j++) {
                const real *q = y.qkv + i * g.ld_3c + h * g.D, *k = y.qkv + j * g.ld_3c + g.C + h * g.D;
                double s = 0;
                for (ptrdiff_t d = 0; d < g.D; d++) s += (double)(q[d] * k[d]);
                p[(h * N + i) * N + j] = j <= i ? (real)exp(s * scale - (double)y.lse[i * g.H + h]) : 0;
            }
}

/* a [N, F] of a layer: the feed-forward block after its activation */
EXPORT(hidden) void hidden(real *a, ptrdiff_t layer, ptrdiff_t N, const mgf_config *config, void *workspace) {
    const gpt g = inside(N, config, workspace);
    const layer_activations y = activations_of(&g, layer);
    for (ptrdiff_t i = 0; i < N; i++) memcpy(a + i * g.F, y.a + i * g.ld_f, (size_t)g.F * sizeof(real));
}

/* ---- the generator of Python's random module */

EXPORT(random_new) mgf_random *random_new(const uint32_t *digits, ptrdiff_t count) {
    mgf_random *random = malloc(sizeof *random);
    if (random) mgf_random_seed(random, digits, count);
    return random;
}
EXPORT(random_uniform) double random_uniform(mgf_random *random) { return mgf_random_uniform(random); }
EXPORT(random_normal) void random_normal(mgf_random *random, double *out, ptrdiff_t n, double std) {
    mgf_random_normal(random, out, n, std);
}
EXPORT(random_permutation) void random_permutation(mgf_random *random, int64_t *out, ptrdiff_t n) {
    mgf_random_permutation(random, out, n);
}
EXPORT(random_choice) ptrdiff_t random_choice(mgf_random *random, const double *weights, ptrdiff_t n) {
    return mgf_random_choice(random, weights, n);
}
