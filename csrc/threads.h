/* A pool of threads for the phases of a step: items 0 .. n - 1 of one task at a time, handed out by a counter. */
#ifndef MGF_THREADS_H
#define MGF_THREADS_H

#include <stddef.h>

#include "microgpt_fast.h"

typedef void mgf_task(void *context, ptrdiff_t item);

/* NULL where there is no memory; fewer threads than asked for where the system has no more. */
mgf_pool *mgf_pool_create(int threads);
void mgf_pool_destroy(mgf_pool *pool);

/* How many threads work for the pool, the caller's among them; 1 for NULL. */
int mgf_pool_threads(const mgf_pool *pool);

/* Runs task(context, item) for every item and returns when all are done. A NULL pool runs them in order. */
void mgf_pool_run(mgf_pool *pool, ptrdiff_t items, mgf_task *task, void *context);

#endif
