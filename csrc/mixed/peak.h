/* What one core can do at best in products of bfloat16: see base/peak.h. */
#ifndef MGF_MIXED_PEAK_H
#define MGF_MIXED_PEAK_H

#include "dispatch.h"
#include "mixed/bfloat16.h"

/* rounds x CHAINS products of pairs, in independent chains. Returns the operations done, four a pair. */
static double peak_compute(ptrdiff_t rounds) {
    enum { CHAINS = VECTOR_REGISTERS - 4 };
    volatile pair small = 0x3c003c00; /* so that sums stay finite */
    const pairs a = (pairs){0} + small, b = (pairs){0} + small;
    vec x[CHAINS];
    EACH(i, CHAINS) x[i] = splat((float)i);
    for (ptrdiff_t round = 0; round < rounds; round++)
        EACH(i, CHAINS) x[i] = add_products(x[i], a, b);
    UNROLL for (int i = 1; i < CHAINS; i++) x[0] += x[i];
    volatile float sink = x[0][0];
    (void)sink;
    return 4.0 * VL * CHAINS * (double)rounds;
}

#define PEAK_NAME(table) PEAK_NAME_(table)
#define PEAK_NAME_(table) table##_peak
const mgf_peak PEAK_NAME(MGF_MIXED_TABLE) = {peak_compute, NULL};

#endif
