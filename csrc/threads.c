#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/denormals.h"

/* How long to look for a change before giving the processor away: where another program holds a core, waiting at full
 * speed would keep the thread that is waited for from running. */
enum {
    SPINS = 2000, /* then yield, some 20 microseconds */
    YIELDS = 200, /* then sleep */
    STACK_BYTES = 2 << 20,
};

struct mgf_pool {
    int workers; /* besides the caller */
    int forks;   /* the process's count when the workers were started */
    pthread_t *threads;
    mgf_task *task; /* the phase at hand */
    void *context;
    ptrdiff_t items;
    atomic_ptrdiff_t next; /* item to hand out */
    atomic_int busy;       /* workers that have not finished the phase */
    atomic_uint phase;     /* counts phases; workers wait for it to change */
    atomic_int stop;
    atomic_int asleep;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

/* A child of fork() has no workers: its calls run on the calling thread. */
static atomic_int forks;
static void count_fork(void) { atomic_fetch_add(&forks, 1); }
static void watch_forks(void) { pthread_atfork(NULL, NULL, count_fork); }

static inline void relax(int looks) {
    if (looks > SPINS) {
        sched_yield();
        return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(mgf_pool *pool) {
    ptrdiff_t item;
    while ((item = atomic_fetch_add(&pool->next, 1)) < pool->items) pool->task(pool->context, item);
}

/* returns when the phase is no longer `seen` */
static void wait_for_phase(mgf_pool *pool, unsigned seen) {
    for (int looks = 0; looks < SPINS + YIELDS; looks++) {
        if (atomic_load(&pool->phase) != seen) return;
        relax(looks);
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->asleep, 1);
    while (atomic_load(&pool->phase) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->asleep, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void next_phase(mgf_pool *pool) {
    atomic_fetch_add(&pool->phase, 1);
    if (!atomic_load(&pool->asleep)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker(void *argument) {
    mgf_pool *pool = argument;
    denormals_flush(); /* as the calling thread does: the bits are the same on both */
    for (unsigned seen = 0;;) {
        wait_for_phase(pool, seen);
        seen++;
        if (atomic_load(&pool->stop)) return NULL;
        work(pool);
        atomic_fetch_sub(&pool->busy, 1);
    }
}

mgf_pool *mgf_pool_create(int threads) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    mgf_pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pool->forks = atomic_load(&forks);
    pool->threads = calloc((size_t)threads, sizeof *pool->threads);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_attr_t attributes; /* blocks of kernels live on the stack, and some systems give threads little of it */
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    while (pool->threads && pool->workers < threads - 1 &&
           pthread_create(&pool->threads[pool->workers], &attributes, worker, pool) == 0)
        pool->workers++;
    pthread_attr_destroy(&attributes);
    return pool;
}

void mgf_pool_destroy(mgf_pool *pool) {
    if (!pool) return;
    if (pool->forks == atomic_load(&forks)) {
        atomic_store(&pool->stop, 1);
        next_phase(pool);
        for (int i = 0; i < pool->workers; i++) pthread_join(pool->threads[i], NULL);
        pthread_mutex_destroy(&pool->lock);
        pthread_cond_destroy(&pool->wake);
    }
    free(pool->threads);
    free(pool);
}

int mgf_pool_threads(const mgf_pool *pool) { return pool ? pool->workers + 1 : 1; }

void mgf_pool_run(mgf_pool *pool, ptrdiff_t items, mgf_task *task, void *context) {
    if (!pool || items < 2 || !pool->workers || pool->forks != atomic_load(&forks)) {
        for (ptrdiff_t item = 0; item < items; item++) task(context, item);
        return;
    }
    pool->task = task, pool->context = context, pool->items = items;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->busy, pool->workers);
    next_phase(pool);
    work(pool);
    for (int looks = 0; atomic_load(&pool->busy); looks += looks <= SPINS) relax(looks);
}
