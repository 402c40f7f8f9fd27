/* The C library's exp, and its pow for the exponents the model needs, bit for bit, a vector at a time.
 *
 * The library's results are not always correctly rounded: where the exact value lies almost half way between
 * two doubles, a tie, it may return the farther one. So: compute the value with about twice the precision, as
 * an unevaluated sum high + low; where the sum is close to a tie, ask the library; elsewhere the sum rounds
 * to what the library returns.
 *
 * What is called close rests on the library's error. glibc states for exp at most 0.511 units in the last
 * place (ulp), for pow at most 0.511 + 1.5 * 2^-15 * |ln result| ulp; so TIE_MARGIN is safe for powers from
 * LOWEST_RESULT to HIGHEST_RESULT, beyond which the library is always asked. The first use tests this on the
 * library at hand; where the test fails, all results come from the library.
 */
#ifndef MGF_EXACT_MATH_H
#define MGF_EXACT_MATH_H

#define REAL_BITS 64
#include "base/simd.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define TIE_MARGIN (1.0 / 64)
#define LOWEST_RESULT 0x1p-140
#define HIGHEST_RESULT 0x1p140
#define EXP_MARGIN (1.0 / 24) /* exp_of has an error of its own */
#define LOWEST_EXPONENT -690.0
#define ALL_LANES ((1u << VL) - 1)

#if VECTOR_BYTES > 16 || defined(__aarch64__)
#define HAVE_FMA 1
#else
#define HAVE_FMA 0
#endif

/* The sign bits of the lanes. */
INLINE unsigned mask_bits(ivec mask) {
#if VECTOR_BYTES == 64
    return _mm512_movepi64_mask((__m512i)mask);
#elif VECTOR_BYTES == 32
    return (unsigned)_mm256_movemask_pd((__m256d)mask);
#elif defined(__SSE2__)
    return (unsigned)_mm_movemask_pd((__m128d)mask);
#else
    unsigned bits = 0;
    for (int lane = 0; lane < VL; lane++) bits |= (unsigned)(mask[lane] < 0) << lane;
    return bits;
#endif
}

/* a in the lanes of the bits, else b */
INLINE vec choose(unsigned bits, vec a, vec b) {
#if VECTOR_BYTES == 64
    return (vec)_mm512_mask_blend_pd((__mmask8)bits, (__m512d)b, (__m512d)a);
#else
    ivec powers = {0};
    for (int lane = 0; lane < VL; lane++) powers[lane] = 1 << lane;
    return blend((isplat(bits) & powers) != 0, a, b);
#endif
}

/* the lanes where a <= b does not hold */
INLINE unsigned not_at_most(vec a, vec b) {
#if VECTOR_BYTES == 64
    return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ);
#else
    return ALL_LANES & ~mask_bits(a <= b);
#endif
}
/* the lanes where a is not b */
INLINE unsigned differ(vec a, vec b) {
#if VECTOR_BYTES == 64
    return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NEQ_UQ);
#else
    return mask_bits(a != b);
#endif
}
/* the lanes where x is neither 0 nor from `low` to `high` */
INLINE unsigned out_of_range(vec x, double low, double high) {
    return (not_at_most(splat(low), x) | not_at_most(x, splat(high))) & differ(x, splat(0));
}

/* the bits of the lanes below n */
INLINE unsigned first_lanes(ptrdiff_t n) { return n >= VL ? ALL_LANES : n <= 0 ? 0 : (1u << n) - 1; }

/* correctly rounded, an instruction whatever -fno-builtin makes of sqrt() */
INLINE vec square_root(vec x) {
#if VECTOR_BYTES == 16 && defined(__SSE2__)
    return (vec)_mm_sqrt_pd((__m128d)x);
#else
    return vsqrt(x);
#endif
}

/* a * b - c where that is small enough to be a double */
INLINE vec residual(vec a, vec b, vec c) {
#if HAVE_FMA
    return fused(a, b, -c);
#else
    /* halves of 26 bits (Veltkamp), whose products are exact (Dekker) */
    const vec splitter = splat(0x1p27 + 1);
    vec product = a * b, a_scaled = a * splitter, b_scaled = b * splitter;
    vec a_high = a_scaled - (a_scaled - a), a_low = a - a_high, b_high = b_scaled - (b_scaled - b), b_low = b - b_high;
    vec error = (((a_high * b_high - product) + a_high * b_low) + a_low * b_high) + a_low * b_low;
    return (product - c) + error;
#endif
}

/* ---- powers as unevaluated sums ---- */

typedef struct {
    vec high, low;
} pair;

INLINE pair times(pair a, pair b) {
    vec p = a.high * b.high;
    return (pair){p, residual(a.high, b.high, p) + (a.high * b.low + a.low * b.high)};
}
INLINE pair inverse_of(vec x) {
    vec q = splat(1) / x;
    return (pair){q, -(residual(q, x, splat(1)) * q)};
}
/* (s^2 + d)^-0.5 = (1 - d / 2s^2) / s for s = sqrt(x) and the tiny d = x - s^2 */
INLINE pair inverse_root_of(vec x) {
    vec s = square_root(x), minus_d = residual(s, s, x);
    pair q = inverse_of(s);
    return (pair){q.high, q.low + q.high * (minus_d * splat(0.5) / x)};
}

typedef enum { SQUARE, INVERSE, INVERSE_SQUARE, INVERSE_ROOT, INVERSE_ROOT_CUBED, POWERS } power;
INLINE double exponent_of(power y) {
    return y == SQUARE ? 2.0 : y == INVERSE ? -1.0 : y == INVERSE_SQUARE ? -2.0 : y == INVERSE_ROOT ? -0.5 : -1.5;
}
INLINE pair power_of(vec x, power y) {
    pair plain = {x, {0}};
    switch (y) {
    case SQUARE: return times(plain, plain);
    case INVERSE: return inverse_of(x);
    case INVERSE_SQUARE: return times(inverse_of(x), inverse_of(x));
    case INVERSE_ROOT: return inverse_root_of(x);
    default: return times(inverse_of(x), inverse_root_of(x));
    }
}

/* How much an error is stretched so that it crosses the tie if it comes as close as `margin` ulp. */
#define STRETCH(margin) (0.5 / (0.5 - (margin)))

/* The other double that the library may return for result + error: the one behind the tie if that is close,
 * else result. */
INLINE vec neighbour(vec result, vec error, double margin) { return fused(error, splat(STRETCH(margin)), result); }
INLINE unsigned near_ties(vec result, vec error, double margin) { return differ(neighbour(result, error, margin), result); }
/* The lanes where sqrt(x), which is r + (x - r^2) / 2r, is close to a tie:
 * |x - r^2| > r * ulp * (1 - 2 margin)
 * (Below a power of two the ulp is smaller, but no double has its root between a power of two and the tie in
 * front of it.) */
INLINE unsigned roots_near_ties(vec x, vec r, double margin) {
    vec binade = (vec)((ivec)r & isplat(0x7ff0000000000000)), error = (vec)((ivec)residual(r, r, x) | isplat(INT64_MIN));
    return mask_bits((ivec)fused(binade * r, splat(0x1p-52 * (1 - 2 * margin)), error));
}

NOINLINE vec library_pow(vec result, vec x, double y, unsigned lanes) {
    for (; lanes; lanes &= lanes - 1) {
        int lane = __builtin_ctz(lanes);
        result[lane] = pow(x[lane], y);
    }
    return result;
}

/* pow(x, exponent_of(y)) for positive x; `ask` has the lanes for which the library is asked in any case */
INLINE vec vpow(vec x, const power y, unsigned ask) {
    pair p = power_of(x, y);
    vec result = p.high + p.low, error = p.low - (result - p.high);
    unsigned lanes = ask | near_ties(result, error, TIE_MARGIN) | out_of_range(result, LOWEST_RESULT, HIGHEST_RESULT);
    return __builtin_expect(lanes != 0, 0) ? library_pow(result, x, exponent_of(y), lanes) : result;
}

/* ---- exponentials ---- */

/* exp(x) * 2^-k with k = round(x / ln 2), for -690 <= x <= 0: with x = k ln 2 + r and r = high + low,
 * e^r = 1 + r + r^2/2 + r^3 (1/3! + r/4! + ...). The sum is good to 0.02 ulp. */
INLINE pair exp_of(vec x, ivec *k) {
    static const double inverse_factorials[] = {0x1.5555555555555p-3,  0x1.5555555555555p-5,  0x1.1111111111111p-7,
                                                0x1.6c16c16c16c17p-10, 0x1.a01a01a01a01ap-13, 0x1.a01a01a01a01ap-16,
                                                0x1.71de3a556c734p-19, 0x1.27e4fb7789f5cp-22, 0x1.ae64567f544e4p-26,
                                                0x1.1eed8eff8d898p-29, 0x1.6124613a86d09p-33, 0x1.93974a8c07c9dp-37};
    const vec shift = splat(0x1.8p52), ln2_low = splat(LN2_LOW);
    vec shifted = fused(x, splat(0x1.71547652b82fep0), shift), n = shifted - shift;
    vec rest = fused(n, splat(-LN2_HIGH), x), r = fused(n, -ln2_low, rest);
    vec r_low = -residual(n, ln2_low, rest - r), square = r * r, half = splat(0.5) * square;
    vec sum = splat(inverse_factorials[11]);
    UNROLL for (int i = 10; i >= 0; i--)
        sum = fused(sum, r, splat(inverse_factorials[i]));
    vec two = splat(1) + r, three = two + half;
    vec errors = (r - (two - splat(1))) + (half - (three - two)) + splat(0.5) * residual(r, r, square);
    *k = (ivec)shifted << 52;
    return (pair){three, fused(sum, r * square, fused(r_low, three, errors))};
}

/* the library's exp(x), x <= 0; but x itself in the lanes, returned, for which it has yet to be asked */
INLINE unsigned exp_unless_near_tie(vec *result, vec x, unsigned ask) {
    ivec k;
    pair p = exp_of(x, &k);
    vec y = p.high + p.low, error = p.low - (y - p.high);
    ask |= near_ties(y, error, EXP_MARGIN) | not_at_most(splat(LOWEST_EXPONENT), x);
    *result = choose(ask, x, (vec)((ivec)y + k));
    return ask;
}

/* ---- quotients of many numbers by one ---- */

/* d and the unevaluated sum d^-1 = high + low */
typedef struct {
    double d, high, low;
} divisor;

static divisor divisor_of(double d) {
    pair q = inverse_of(splat(d));
    return (divisor){d, q.high[0], q.low[0]};
}

/* x / d correctly rounded, for d from 2^-100 to 2^100 and x = 0 or |x| from 2^-900 on: q = x * d^-1 is one of
 * the two neighbours of the quotient, its residual is exact, and one correction settles it (Markstein). */
INLINE vec divided(vec x, divisor by) {
#if HAVE_FMA
    vec q = fused(x, splat(by.high), x * splat(by.low));
    return fused(-residual(q, splat(by.d), x), splat(by.high), q);
#else
    return x / splat(by.d);
#endif
}

/* ---- the test ---- */

/* Positive numbers with exponents from -32 to 31. */
INLINE vec test_arguments(uint64_t *state) {
    ivec bits;
    for (int lane = 0; lane < VL; lane++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        bits[lane] = (int64_t)((*state >> 12) | ((1023 - 32 + (*state & 63)) << 52));
    }
    return (vec)bits;
}

/* Of 4,000 arguments for each function, results that are accepted (of powers, with the least margin),
 * against the library. */
static int library_is_as_stated(void) {
    const double wide = 4 * TIE_MARGIN;
    uint64_t state = 1;
    for (int i = 0; i < 4000 / VL; i++) {
        vec x = test_arguments(&state), r = square_root(x);
        unsigned lanes = roots_near_ties(x, r, wide) & ~roots_near_ties(x, r, TIE_MARGIN);
        if (differ(library_pow(r, x, 0.5, lanes), r)) return 0;
        for (power y = 0; y < POWERS; y++) {
            pair p = power_of(x, y);
            vec result = p.high + p.low, error = p.low - (result - p.high);
            lanes = near_ties(result, error, wide) & ~near_ties(result, error, TIE_MARGIN);
            if (differ(library_pow(result, x, exponent_of(y), lanes), result)) return 0;
        }
        x = -x * splat(0x1p-23); /* from -2^9 */
        unsigned asked = exp_unless_near_tie(&r, x, 0);
        for (int lane = 0; lane < VL; lane++)
            if (!(asked >> lane & 1) && r[lane] != exp(x[lane])) return 0;
    }
    return 1;
}

/* The lanes for which the library is to be asked in any case: none where it passes the test, which the first
 * call makes. */
static unsigned lanes_to_ask(void) {
    static int state; /* 0: not tested. Threads that test at the same time store the same. */
    int known = __atomic_load_n(&state, __ATOMIC_RELAXED);
    if (!known) {
        known = library_is_as_stated() ? 1 : 2;
        __atomic_store_n(&state, known, __ATOMIC_RELAXED);
    }
    return known == 1 ? 0 : ALL_LANES;
}

#endif
