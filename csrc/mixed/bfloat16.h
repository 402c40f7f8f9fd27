/* Numbers of bfloat16, the upper half of a float32, in pairs: two neighbours along the index that a product sums over make
 * one lane of 32 bits, the element of the even index in its lower half.
 *
 * The product of two bfloat16 numbers is exact in float32. A pair adds two of them to a float32 sum, each rounded to
 * nearest even, the odd element first, denormals counting as 0: this is what the instruction vdpbf16ps does, and what the
 * other instruction sets compute with float32's multiply-adds, to the same bits. (Where an instruction set has no fused
 * multiply-add, a product below float32's normal range is 0 before it is added.)
 */
#ifndef MGF_BFLOAT16_H
#define MGF_BFLOAT16_H

#include "base/simd.h"

#if REAL_BITS != 32
#error "sums of bfloat16 products are float32: compile with REAL_BITS=32"
#endif

typedef uint16_t bfloat16;
typedef uint32_t pair;
typedef pair pairs __attribute__((vector_size(VECTOR_BYTES)));
typedef pair unaligned_pairs __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

INLINE pairs load_pairs(const pair *p) { return *(const unaligned_pairs *)p; }
INLINE void store_pairs(pair *p, pairs x) { *(unaligned_pairs *)p = x; }

/* A pair in all lanes. Compilers would take its halves in scalar registers and send each to all lanes, which costs more than
 * a load: the empty instruction hides the scalar from them. */
INLINE pairs splat_pair(const pair *p) {
#if VECTOR_BYTES == 32
    return (pairs)_mm256_broadcast_ss((const float *)p);
#else
    pairs x = (pairs){0} + *p;
#if defined(__x86_64__)
    __asm__("" : "+v"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#endif
    return x;
#endif
}

/* the elements of pairs, as float32 */
INLINE vec even_of(pairs x) { return (vec)(x << 16); }
INLINE vec odd_of(pairs x) { return (vec)(x & 0xffff0000u); }

/* x + the products of two pairs in every lane */
INLINE vec add_products(vec x, pairs a, pairs b) {
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(x, (__m512bh)a, (__m512bh)b);
#else
    return fused(even_of(a), even_of(b), fused(odd_of(a), odd_of(b), x));
#endif
}

/* x rounded to bfloat16, to nearest even, in the upper half of each lane; below is what is left. NaN stays NaN. */
INLINE pairs rounded(vec x) {
    const pairs u = (pairs)x;
    return (pairs)blend(x == x, (vec)(u + 0x7fff + ((u >> 16) & 1)), (vec)(u | 0x400000));
}

/* the pairs (even, odd) of two rows' elements */
INLINE pairs pair_up(vec even, vec odd) {
#ifdef __AVX512BF16__
    const pairs lanes = (pairs)lane_numbers(), order = lanes | (lanes + 16) << 16;
    return (pairs)_mm512_permutexvar_epi16((__m512i)order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
#else
    return rounded(even) >> 16 | (rounded(odd) & 0xffff0000u);
#endif
}

typedef bfloat16 halves __attribute__((vector_size(VECTOR_BYTES)));

/* 2 VL elements of a row, neighbours in pairs */
INLINE pairs row_of_pairs(vec low, vec high) {
#ifdef __AVX512BF16__
    return (pairs)_mm512_cvtne2ps_pbh(high, low);
#else
    const halves a = (halves)rounded(low), b = (halves)rounded(high);
    halves row = {0};
#ifdef __clang__
    EACH(i, VL) row[i] = a[2 * i + 1], row[i + VL] = b[2 * i + 1];
#else
    halves upper = {0};
    EACH(i, 2 * VL) upper[i] = (bfloat16)(2 * i + 1);
    row = __builtin_shuffle(a, b, upper);
#endif
    return (pairs)row;
#endif
}
/* VL elements of a row */
INLINE void store_row(bfloat16 *to, vec x) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x));
#else
    typedef bfloat16 row __attribute__((vector_size(VECTOR_BYTES / 2)));
    typedef bfloat16 unaligned_row __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));
    *(unaligned_row *)to = __builtin_convertvector(rounded(x) >> 16, row);
#endif
}

/* Sums over the elements of a row are taken in sixteen lanes, however many a vector has, so that their bits are the same:
 * lane i adds up the elements i, i + 16, ..., and the lanes are added in pairs, those 8 apart, 4 apart, 2 and 1. */
enum { LANES = 16, PARTS = LANES / VL };

INLINE ptrdiff_t in_lanes(ptrdiff_t n) { return (n + LANES - 1) / LANES * LANES; }

INLINE vec sum_parts(vec sum[PARTS]) {
    UNROLL for (int n = PARTS / 2; n; n /= 2)
        EACH(k, n) sum[k] += sum[k + n];
    return sum_lanes(sum[0]);
}

/* sum over n elements of a b, in every lane; n is a multiple of LANES */
INLINE vec dot_in_lanes(const float *a, const float *b, ptrdiff_t n) {
    vec sum[PARTS] = {{0}};
    for (ptrdiff_t i = 0; i < n; i += LANES)
        EACH(k, PARTS) sum[k] += load(a + i + k * VL) * load(b + i + k * VL);
    return sum_parts(sum);
}

#endif
