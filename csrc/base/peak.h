/* What one core can do at best: the bench times these functions and holds everything else against them. */
#ifndef MGF_PEAK_H
#define MGF_PEAK_H

#include "dispatch.h"
#include "base/simd.h"

/* rounds x CHAINS multiply-adds x = x a + b. The chains are independent, and enough to hide the latency; they
 * start from different numbers, lest the compiler see that they are one. Returns the operations done, two a
 * multiply-add. */
static double peak_compute(ptrdiff_t rounds) {
    enum { CHAINS = VECTOR_REGISTERS - 4 };
    volatile real half = (real)0.5, one = 1;
    vec a = splat(half), b = splat(one), x[CHAINS];
    EACH(i, CHAINS) x[i] = splat((real)i);
    for (ptrdiff_t round = 0; round < rounds; round++)
        EACH(i, CHAINS) x[i] = x[i] * a + b;
    UNROLL for (int i = 1; i < CHAINS; i++) x[0] += x[i];
    one = x[0][0];
    return 2.0 * VL * CHAINS * (double)rounds;
}

/* Reads `data`, all but a little at its ends. Returns the number of bytes read. */
static double peak_read(const void *data, ptrdiff_t bytes) {
    enum { CHAINS = 8 };
    const ptrdiff_t skipped = -(intptr_t)data & 63; /* loads across two lines cost twice */
    const real *p = (const real *)((const char *)data + skipped);
    const ptrdiff_t n = max_of(0, bytes - skipped) / (ptrdiff_t)sizeof(real) / (CHAINS * VL) * (CHAINS * VL);
    vec x[CHAINS] = {{0}};
    for (ptrdiff_t i = 0; i < n; i += CHAINS * VL)
        EACH(j, CHAINS) x[j] += load(p + i + j * VL);
    UNROLL for (int j = 1; j < CHAINS; j++) x[0] += x[j];
    volatile real sink = x[0][0];
    (void)sink;
    return (double)n * sizeof(real);
}

#define PEAK_NAME(table) PEAK_NAME_(table)
#define PEAK_NAME_(table) table##_peak
const mgf_peak PEAK_NAME(MGF_TABLE) = {peak_compute, peak_read};

#endif
