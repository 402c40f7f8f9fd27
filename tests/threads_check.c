/* A program of plain C that has pools of threads do everything that they are for, for ThreadSanitizer and valgrind:
 * phases, sleep, training, several pools at once, fork. Prints "fine", or what differs from a single thread. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dispatch.h"
#include "threads.h"

enum { PHASES = 400, ITEMS = 37, STEPS = 3, TOKENS = 4096, POOLS = 3 };

static void fail(const char *what) {
    printf("%s\n", what);
    exit(1);
}

/* ---- phases: each item is counted once in each, by whichever thread */

static void count(void *context, ptrdiff_t item) { ((int *)context)[item]++; }

static void check_phases(int threads) {
    mgf_pool *pool = mgf_pool_create(threads);
    int counts[ITEMS] = {0};
    for (int phase = 0; phase < PHASES; phase++) {
        if (phase % 100 == 99) usleep(20000); /* the workers fall asleep */
        mgf_pool_run(pool, phase % ITEMS + 1, count, counts);
    }
    for (int item = 0; item < ITEMS; item++) {
        int expected = 0;
        for (int phase = 0; phase < PHASES; phase++) expected += phase % ITEMS >= item;
        if (counts[item] != expected) fail("an item was lost");
    }
    mgf_pool_destroy(pool);
}

/* ---- training: parameters after some steps, whose bits do not depend on the pool */

typedef struct {
    mgf_config config;
    ptrdiff_t batch;
} run;
static const run runs[] = {{{2, 32, 4, 24, 31, MGF_RELU}, 60}, {{2, 24, 3, 30, 40, MGF_RELU2}, 20}};

static float *trained(const run *r, mgf_pool *pool) {
    const mgf_config *c = &r->config;
    const mgf_kernels_f32 *kernels = mgf_instruction_set_at(0)->f32;
    const ptrdiff_t P = (2 * c->vocab_size + c->block_size + 12 * c->n_layer * c->n_embd) * c->n_embd, n = STEPS * r->batch;
    float *params = calloc((size_t)(3 * P), sizeof *params);
    int32_t *tokens = calloc(TOKENS, sizeof *tokens), *lengths = calloc((size_t)n, sizeof *lengths);
    int64_t *starts = calloc((size_t)n, sizeof *starts);
    double losses[STEPS], lr[STEPS] = {1e-3, 1e-3, 1e-3};
    mgf_adam adam = {0.85, 0.99, 1e-8, 0};
    for (ptrdiff_t i = 0; i < P; i++) params[i] = (float)((i * 7919 % 1000 - 500) * 2e-4);
    for (ptrdiff_t i = 0; i < n; i++) starts[i] = i * 37 % 1000, lengths[i] = (int32_t)(1 + i * 5 % c->block_size);
    for (int t = 0; t < TOKENS; t++) tokens[t] = (int32_t)((t * 131 + t / 7) % c->vocab_size);
    void *workspace = malloc(kernels->gpt_workspace_size(c, r->batch * c->block_size, r->batch, pool));
    ptrdiff_t bad = kernels->gpt_train_steps(losses, params, params + P, params + 2 * P, tokens, starts, lengths, STEPS,
                                             r->batch, lr, &adam, 1, c, workspace, pool);
    if (bad >= 0) fail("a document is refused");
    free(workspace), free(starts), free(lengths), free(tokens);
    return params;
}

static void check_training(int threads) {
    mgf_pool *pool = mgf_pool_create(threads);
    for (unsigned i = 0; i < sizeof runs / sizeof *runs; i++) {
        const mgf_config *c = &runs[i].config;
        const ptrdiff_t P = (2 * c->vocab_size + c->block_size + 12 * c->n_layer * c->n_embd) * c->n_embd;
        float *one = trained(&runs[i], NULL), *several = trained(&runs[i], pool);
        if (memcmp(one, several, (size_t)(3 * P) * sizeof *one)) fail("bits depend on the threads");
        free(one), free(several);
    }
    mgf_pool_destroy(pool);
}

static void *side_by_side(void *context) {
    (void)context;
    check_phases(2);
    check_training(2);
    return NULL;
}

/* ---- fork: the child has no workers, and does everything itself */

static void check_fork(void) {
    mgf_pool *pool = mgf_pool_create(3);
    int counts[ITEMS] = {0}, status;
    mgf_pool_run(pool, ITEMS, count, counts);
    pid_t child = fork();
    if (!child) {
        mgf_pool_run(pool, ITEMS, count, counts);
        for (int item = 0; item < ITEMS; item++)
            if (counts[item] != 2) _exit(1);
        mgf_pool_destroy(pool);
        _exit(0);
    }
    mgf_pool_run(pool, ITEMS, count, counts);
    if (waitpid(child, &status, 0) != child || status) fail("a fork cannot use its pool");
    mgf_pool_destroy(pool);
}

int main(void) {
    pthread_t threads[POOLS];
    for (int n = 1; n <= 4; n++) check_phases(n);
    check_training(3);
    for (int i = 0; i < POOLS; i++) pthread_create(&threads[i], NULL, side_by_side, NULL);
    for (int i = 0; i < POOLS; i++) pthread_join(threads[i], NULL);
    check_fork();
    printf("fine\n");
    return 0;
}
