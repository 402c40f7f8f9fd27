/* Trains a small GPT on one sentence, in plain C, and samples from it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "microgpt_fast.h"
#include "random.h"

extern const mgf_kernels_f32 kernels; /* the table of functions in variant.o; the Makefile names it */

enum { STEPS = 300, END = 26 };

int main(void) {
    const char *text = "thequickbrownfoxjumpsoverthelazydog";
    const int32_t n = (int32_t)strlen(text);
    const ptrdiff_t V = 27, T = n + 1, C = 32, L = 1, P = (2 * V + T + 12 * L * C) * C;
    const mgf_config config = {.n_layer = L, .n_embd = C, .n_head = 4, .block_size = T, .vocab_size = V};

    int32_t *tokens = malloc((n + 2) * sizeof *tokens);
    tokens[0] = tokens[n + 1] = END;
    for (int i = 0; i < n; i++) tokens[i + 1] = text[i] - 'a';

    mgf_random random;
    mgf_random_seed(&random, (uint32_t[]){42}, 1);
    double *normal = malloc(P * sizeof *normal);
    float *params = malloc(P * sizeof *params), *moments = calloc(2 * P, sizeof *moments);
    mgf_random_normal(&random, normal, P, 0.08);
    for (ptrdiff_t i = 0; i < P; i++) params[i] = (float)normal[i];

    double losses[STEPS], lr[STEPS];
    int64_t starts[STEPS] = {0};
    int32_t lengths[STEPS];
    for (int i = 0; i < STEPS; i++) lengths[i] = n + 1, lr[i] = 0.01 * (1 - (double)i / STEPS);
    const mgf_adam adam = {.beta1 = 0.85, .beta2 = 0.99, .eps = 1e-8};
    void *workspace = malloc(kernels.gpt_workspace_size(&config, n + 1, 1, NULL));
    if (kernels.gpt_train_steps(losses, params, moments, moments + P, tokens, starts, lengths, STEPS, 1, lr, &adam, 1,
                                &config, workspace, NULL) >= 0)
        return fprintf(stderr, "a token or a length is out of range\n"), 1;
    printf("loss %.2f, then %.2f\n", losses[0], losses[STEPS - 1]);

    int32_t *sample = malloc(config.block_size * sizeof *sample);
    void *decoder = malloc(kernels.gpt_decoder_size(&config));
    kernels.gpt_decoder_init(decoder, params, &config);
    ptrdiff_t length = kernels.gpt_generate(sample, &random, params, END, 0.1, &config, decoder);
    for (ptrdiff_t i = 0; i < length; i++) putchar('a' + sample[i]);
    putchar('\n');
    free(decoder), free(sample), free(workspace), free(moments), free(params), free(normal), free(tokens);
    return 0;
}
