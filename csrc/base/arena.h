/* Consecutive pieces of whole cache lines, cut from the caller's memory: the core allocates nothing. */
#ifndef MGF_ARENA_H
#define MGF_ARENA_H

#include <stddef.h>
#include <stdint.h>

enum { CACHE_LINE = 64 };

typedef struct {
    char *base; /* NULL: pieces are only counted */
    size_t used;
} arena;

/* memory: at least CACHE_LINE bytes more than are taken of it; or NULL */
static inline arena arena_in(void *memory) {
    return (arena){memory ? (char *)(((uintptr_t)memory + CACHE_LINE - 1) & ~(uintptr_t)(CACHE_LINE - 1)) : NULL, 0};
}

static inline void *take(arena *a, ptrdiff_t count, size_t size) {
    void *piece = a->base ? a->base + a->used : NULL;
    a->used += ((size_t)count * size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return piece;
}
#define TAKE_REALS(a, count) ((real *)take(a, count, sizeof(real)))

/* what must be asked for, so that `used` bytes begin at a cache line */
static inline size_t arena_size(const arena *a) { return a->used + CACHE_LINE; }

#endif
