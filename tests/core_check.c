/* A program of plain C over csrc: trains small models on made-up tokens and prints the losses, a line a run:
 * n_layer n_embd n_head block_size vocab_size activation batch kind, then the losses. */
#include <stdio.h>
#include <stdlib.h>

#include "dispatch.h"

enum { STEPS = 5, TOKENS = 4096 };

typedef struct {
    mgf_config config;
    ptrdiff_t batch;
} run;

#define RUN(layers, C, heads, T, V, f, documents)                                                                          \
    {.config = {.n_layer = layers, .n_embd = C, .n_head = heads, .block_size = T, .vocab_size = V, .activation = f},       \
     .batch = documents}
static const run runs[] = {
    RUN(1, 16, 4, 16, 27, MGF_RELU, 1), RUN(1, 16, 4, 16, 27, MGF_RELU2, 16), RUN(2, 32, 4, 24, 31, MGF_RELU, 3),
    RUN(2, 20, 5, 9, 30, MGF_RELU, 2),  RUN(1, 15, 3, 70, 5, MGF_RELU2, 4),   RUN(3, 100, 1, 40, 65, MGF_RELU, 1),
};

#define DEFINE_TRAIN(name, real, table)                                                                                    \
    static void name(const table *kernels, const run *r, const int32_t *tokens, double *losses) {                          \
        const mgf_config *c = &r->config;                                                                                  \
        ptrdiff_t P = (2 * c->vocab_size + c->block_size + 12 * c->n_layer * c->n_embd) * c->n_embd;                       \
        real *params = malloc(3 * P * sizeof(real)), *m = params + P, *v = m + P;                                          \
        int64_t *starts = malloc(STEPS * r->batch * sizeof *starts);                                                       \
        int32_t *lengths = malloc(STEPS * r->batch * sizeof *lengths);                                                     \
        double lr[STEPS];                                                                                                  \
        for (ptrdiff_t i = 0; i < P; i++) params[i] = (real)((i * 7919 % 1000 - 500) * 2e-4), m[i] = v[i] = 0;             \
        for (ptrdiff_t i = 0; i < STEPS * r->batch; i++) {                                                                 \
            starts[i] = i * 37 % 1000;                                                                                     \
            lengths[i] = (int32_t)(1 + i * 5 % c->block_size);                                                             \
        }                                                                                                                  \
        for (int i = 0; i < STEPS; i++) lr[i] = 1e-4;                                                                      \
        mgf_adam adam = {0.85, 0.99, 1e-8, 0};                                                                             \
        void *workspace = malloc(kernels->gpt_workspace_size(c, r->batch * c->block_size, r->batch, NULL));                \
        ptrdiff_t bad = kernels->gpt_train_steps(losses, params, m, v, tokens, starts, lengths, STEPS, r->batch, lr,       \
                                                 &adam, 1, c, workspace, NULL);                                            \
        if (bad >= 0) exit(1);                                                                                             \
        free(workspace), free(lengths), free(starts), free(params);                                                        \
    }
DEFINE_TRAIN(train_f32, float, mgf_kernels_f32)
DEFINE_TRAIN(train_f64, double, mgf_kernels_f64)
DEFINE_TRAIN(train_exact, double, mgf_exact)
DEFINE_TRAIN(train_mixed, float, mgf_mixed)

static void print(const run *r, const char *kind, const double *losses) {
    const mgf_config *c = &r->config;
    printf("%td %td %td %td %td %d %td %s", c->n_layer, c->n_embd, c->n_head, c->block_size, c->vocab_size, c->activation,
           r->batch, kind);
    for (int i = 0; i < STEPS; i++) printf(" %.17g", losses[i]);
    printf("\n");
}

int main(void) {
    static int32_t tokens[TOKENS];
    double losses[STEPS];
    const mgf_instruction_set *isa = mgf_instruction_set_at(0);
    for (unsigned i = 0; i < sizeof runs / sizeof *runs; i++) {
        const run *r = &runs[i];
        for (int t = 0; t < TOKENS; t++) tokens[t] = (int32_t)((t * 131 + t / 7) % r->config.vocab_size);
        train_f32(isa->f32, r, tokens, losses), print(r, "f32", losses);
        train_mixed(isa->mixed, r, tokens, losses), print(r, "mixed", losses);
        train_f64(isa->f64, r, tokens, losses), print(r, "f64", losses);
        if (r->batch == 1) train_exact(isa->exact, r, tokens, losses), print(r, "exact", losses);
    }
    return 0;
}
