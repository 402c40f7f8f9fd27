/* threads.h for a machine without threads: the caller does all the work, whatever the pool. */
#include "threads.h"

void mgf_pool_run(mgf_pool *pool, ptrdiff_t items, mgf_task *task, void *context) {
    (void)pool;
    for (ptrdiff_t item = 0; item < items; item++) task(context, item);
}

int mgf_pool_threads(const mgf_pool *pool) {
    (void)pool;
    return 1;
}
