/* Vectors of `real`: VL lanes, as wide as the instruction set this unit is compiled for.
 *
 * Arithmetic (+ - * /) is GNU C's on vector types, contracted to fused multiply-adds where the instruction set has
 * them. Here is what the language lacks: partial loads and stores, maximum, square root, sums over lanes, exp, and the
 * transposition of a VL x VL block. Every function also has a plain form, so that a new instruction set starts to work
 * with nothing but its width.
 */
#ifndef MGF_SIMD_H
#define MGF_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if REAL_BITS == 32
typedef float real;
typedef int32_t integer;
#else
typedef double real;
typedef int64_t integer;
#endif

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#ifdef __aarch64__
#include <arm_neon.h>
#endif
#endif

/* Registers: what the largest tile of base/gemm.h may use. */
#if VECTOR_BYTES == 64 || defined(__aarch64__)
#define VECTOR_REGISTERS 32
#else
#define VECTOR_REGISTERS 16
#endif

#define VL (VECTOR_BYTES * 8 / REAL_BITS)
#define INLINE static inline __attribute__((always_inline, unused))
#define NOINLINE static __attribute__((noinline, unused))
#define SHARED static __attribute__((unused)) /* a function of a header of which a unit may need another part */
#define UNROLL _Pragma("GCC unroll 64")
#define EACH(i, n) UNROLL for (int i = 0; i < (n); i++)

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real unaligned_vec __attribute__((vector_size(VECTOR_BYTES), aligned(REAL_BITS / 8), may_alias));
typedef integer ivec __attribute__((vector_size(VECTOR_BYTES)));

INLINE ptrdiff_t min_of(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
INLINE ptrdiff_t max_of(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
/* n rounded up to whole vectors */
INLINE ptrdiff_t padded(ptrdiff_t n) { return (n + VL - 1) / VL * VL; }

/* how many of the VL lanes from index i on lie below n */
INLINE int lanes_left(ptrdiff_t i, ptrdiff_t n) { return (int)min_of(VL, n - i); }

INLINE vec load(const real *p) { return *(const unaligned_vec *)p; }
INLINE void store(real *p, vec x) { *(unaligned_vec *)p = x; }
INLINE vec splat(real x) { return x - (vec){0}; }
INLINE ivec isplat(integer x) { return x - (ivec){0}; }

/* a b + c, rounded once where the instruction set can, else twice. Of the expression compilers make the same instruction,
 * but, tuned for some processors, not where a loop has one chain of sums alone: bits would depend on a tile's shape. */
INLINE vec fused(vec a, vec b, vec c) {
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    return _mm512_fmadd_ps(a, b, c);
#elif VECTOR_BYTES == 64
    return _mm512_fmadd_pd(a, b, c);
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
    return _mm256_fmadd_ps(a, b, c);
#elif VECTOR_BYTES == 32
    return _mm256_fmadd_pd(a, b, c);
#elif defined(__aarch64__) && REAL_BITS == 32
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(__aarch64__)
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

/* The first n lanes, 0 < n <= VL; the others are 0 when loaded and untouched when stored. */
#if VECTOR_BYTES == 64 && REAL_BITS == 32
INLINE vec load_n(const real *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)(0xffffu >> (VL - n)), p); }
INLINE void store_n(real *p, vec x, int n) { _mm512_mask_storeu_ps(p, (__mmask16)(0xffffu >> (VL - n)), x); }
#elif VECTOR_BYTES == 64
INLINE vec load_n(const real *p, int n) { return _mm512_maskz_loadu_pd((__mmask8)(0xffu >> (VL - n)), p); }
INLINE void store_n(real *p, vec x, int n) { _mm512_mask_storeu_pd(p, (__mmask8)(0xffu >> (VL - n)), x); }
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
INLINE __m256i mask_n(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
INLINE vec load_n(const real *p, int n) { return n == VL ? load(p) : (vec)_mm256_maskload_ps(p, mask_n(n)); }
INLINE void store_n(real *p, vec x, int n) { n == VL ? store(p, x) : _mm256_maskstore_ps(p, mask_n(n), x); }
#elif VECTOR_BYTES == 32
INLINE __m256i mask_n(int n) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)); }
INLINE vec load_n(const real *p, int n) { return n == VL ? load(p) : (vec)_mm256_maskload_pd(p, mask_n(n)); }
INLINE void store_n(real *p, vec x, int n) { n == VL ? store(p, x) : _mm256_maskstore_pd(p, mask_n(n), x); }
#else
INLINE vec load_n(const real *p, int n) {
    if (n == VL) return load(p);
    vec x = {0};
    EACH(lane, VL - 1)
        if (lane < n) x[lane] = p[lane];
    return x;
}
INLINE void store_n(real *p, vec x, int n) {
    if (n == VL) store(p, x);
    else
        EACH(lane, VL - 1)
            if (lane < n) p[lane] = x[lane];
}
#endif

/* lanes 0, 1, 2, ... */
INLINE ivec lane_numbers(void) {
    ivec lanes = {0};
    EACH(lane, VL) lanes[lane] = lane;
    return lanes;
}

/* a where the mask (a comparison's result: all bits of a lane) is set, else b */
INLINE vec blend(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

/* Largest of two; where either is NaN, b. */
#if VECTOR_BYTES == 64 && REAL_BITS == 32
INLINE vec vmax(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec vsqrt(vec a) { return _mm512_sqrt_ps(a); }
#elif VECTOR_BYTES == 64
INLINE vec vmax(vec a, vec b) { return _mm512_max_pd(a, b); }
INLINE vec vsqrt(vec a) { return _mm512_sqrt_pd(a); }
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
INLINE vec vmax(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec vsqrt(vec a) { return _mm256_sqrt_ps(a); }
#elif VECTOR_BYTES == 32
INLINE vec vmax(vec a, vec b) { return _mm256_max_pd(a, b); }
INLINE vec vsqrt(vec a) { return _mm256_sqrt_pd(a); }
#else
INLINE vec vmax(vec a, vec b) { return blend(a > b, a, b); }
INLINE vec vsqrt(vec a) {
    for (int lane = 0; lane < VL; lane++) a[lane] = REAL_BITS == 32 ? (real)sqrtf((float)a[lane]) : (real)sqrt(a[lane]);
    return a;
}
#endif

/* max(|a|, b), b >= 0 */
#if VECTOR_BYTES == 64 && REAL_BITS == 32
INLINE vec vmax_abs(vec a, vec b) { return _mm512_range_ps(a, b, 11); }
#elif VECTOR_BYTES == 64
INLINE vec vmax_abs(vec a, vec b) { return _mm512_range_pd(a, b, 11); }
#else
INLINE vec vmax_abs(vec a, vec b) { return vmax((vec)((ivec)a & ~(ivec)splat(-(real)0)), b); }
#endif

/* ROOT_FACTOR sqrt(a) + b for finite a >= 0, by multiplications: with y = 1 / sqrt(a) to 14 bits and s = a y,
 * 2 sqrt(a) = s (3 - s y) to 27 bits (Newton's step for y, times a). For float64 s and y take that step first, each twice
 * as large as it should be. The root's error is at most 2 units in the last place (float64: 3), larger for a below 1e-30
 * (float64: 1e-290). Where roots and divisions set the pace, some are better computed so. */
#if VECTOR_BYTES == 64 && REAL_BITS == 32
#define ROOT_FACTOR 2
INLINE vec root_by_steps_plus(vec a, vec b) {
    vec y = _mm512_rsqrt14_ps(a + splat(1e-37f)), s = a * y; /* finite for 0, where s then is 0 */
    return s * (splat(3) - s * y) + b;
}
#elif VECTOR_BYTES == 64
#define ROOT_FACTOR 16
INLINE vec root_by_steps_plus(vec a, vec b) {
    vec y = _mm512_rsqrt14_pd(a + splat(1e-300)), s = a * y, twice = splat(3) - s * y;
    s *= twice, y *= twice;
    return s * (splat(12) - s * y) + b;
}
#else
#define ROOT_FACTOR 1
INLINE vec root_by_steps_plus(vec a, vec b) { return vsqrt(a) + b; }
#endif

/* 1 / sqrt(a) for normal a > 0, its error at most two units in the last place */
INLINE vec vrsqrt(vec a) {
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    vec y = _mm512_rsqrt14_ps(a);
    return y + y * (splat(0.5f) - splat(0.5f) * a * y * y);
#else
    return splat(1) / vsqrt(a);
#endif
}

/* lanes i and i ^ distance change places */
INLINE vec swap_lanes(vec x, const int distance) {
    vec y = x;
#ifdef __clang__
    EACH(lane, VL) y[lane] = x[lane ^ distance];
#else
    y = __builtin_shuffle(x, lane_numbers() ^ isplat(distance));
#endif
    return y;
}
/* the sum, or the maximum, over the lanes, in every lane */
INLINE vec sum_lanes(vec x) {
    UNROLL for (int distance = VL / 2; distance; distance /= 2) x += swap_lanes(x, distance);
    return x;
}
INLINE vec max_lanes(vec x) {
    UNROLL for (int distance = VL / 2; distance; distance /= 2) x = vmax(x, swap_lanes(x, distance));
    return x;
}

/* whether any lane of a comparison's result is set */
INLINE int any(ivec mask) {
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif VECTOR_BYTES == 64
    return _mm512_movepi64_mask((__m512i)mask) != 0;
#elif VECTOR_BYTES == 32
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
    integer set = 0;
    EACH(lane, VL) set |= mask[lane];
    return set != 0;
#endif
}

/* exp(x) for x <= 0 (the softmax's arguments; up to 80 is served): e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2,
 * and e^r by a polynomial fitted at Chebyshev nodes (relative error 1.0e-8 for float32, 1.7e-17 for float64).
 * Maximal error 1.5 units in the last place; below the normal range the result is 0; NaN as an operation
 * makes it stays NaN. */
#if REAL_BITS == 32
#define EXP_ROUND 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, kept in the low bits */
#define EXP_LOWEST -87.33654f
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440e-4f
static const real EXP_COEFFICIENTS[] = {1.0f, 1.0f, 0.5f, 0.16666577f, 0.041666555f, 0.0083631731f, 0.0013926176f};
#else
#define EXP_ROUND 6755399441055744.0
#define EXP_LOWEST -708.3964185322641
#define LN2_HIGH 0.6931471803691238
#define LN2_LOW 1.9082149292705878e-10
static const real EXP_COEFFICIENTS[] = {
    1.0, 1.0, 0.5000000000000001, 0.16666666666666668, 0.04166666666662416, 0.008333333333330064,
    0.001388888891719672, 0.00019841269863040545, 2.4801521322368693e-05, 2.755726848031003e-06,
    2.7620075879983366e-07, 2.510037583256123e-08};
#endif
INLINE vec vexp(vec x) {
    enum { DEGREE = sizeof EXP_COEFFICIENTS / sizeof *EXP_COEFFICIENTS - 1 };
    x = vmax(splat(EXP_LOWEST - 1), x); /* far below, infinity would be taken from infinity */
    vec shifted = x * splat((real)1.4426950408889634) + splat(EXP_ROUND);
    vec n = shifted - splat(EXP_ROUND);
    vec r = x - n * splat(LN2_HIGH);
    r = r - n * splat(LN2_LOW);
    vec r2 = r * r, p = splat(EXP_COEFFICIENTS[DEGREE]); /* by r^2: half as long a chain as by r */
    if (DEGREE % 2) p = p * r + splat(EXP_COEFFICIENTS[DEGREE - 1]);
    UNROLL for (int i = (DEGREE - 1) / 2 * 2 - (DEGREE % 2 ? 2 : 0); i >= 0; i -= 2)
        p = p * r2 + (splat(EXP_COEFFICIENTS[i + 1]) * r + splat(EXP_COEFFICIENTS[i]));
    p = (vec)((ivec)p + ((ivec)shifted << (REAL_BITS == 32 ? 23 : 52)));
    return blend(x < splat(EXP_LOWEST), (vec){0}, p);
}

/* log(x) for positive normal x: x = 2^n z with sqrt(1/2) <= z < sqrt(2), s = (z - 1) / (z + 1), |s| <= 0.172,
 * log z = 2 s (1 + s^2/3 + s^4/5 + ...). Maximal error 2 units in the last place, or of 1 where |log x| < 1.
 * Infinity and NaN stay what they are. */
INLINE vec vlog(vec x) {
    enum { TERMS = REAL_BITS == 32 ? 5 : 11, MANTISSA = REAL_BITS == 32 ? 23 : 52 };
    const ivec root_half = (ivec)splat((real)0.7071067811865476);
    ivec n = ((ivec)x - root_half) >> MANTISSA;
    vec z = (vec)((ivec)x - (n << MANTISSA));
    vec s = (z - splat(1)) / (z + splat(1)), s2 = s * s;
    vec p = splat((real)1 / (2 * TERMS + 1));
    UNROLL for (int i = TERMS - 1; i >= 0; i--) p = p * s2 + splat((real)1 / (2 * i + 1));
    vec exponent = __builtin_convertvector(n, vec);
    vec y = exponent * splat(LN2_HIGH) + ((s + s) * p + exponent * splat(LN2_LOW));
    return blend((x > (vec){0}) & (x < splat((real)INFINITY)), y, x);
}

/* lane i of every group of n lanes, in all lanes of the group */
INLINE vec group_lane(vec x, const int n, const int i) {
    vec y = x;
#ifdef __clang__
    EACH(lane, VL) y[lane] = x[(lane & -n) | i];
#else
    y = __builtin_shuffle(x, (lane_numbers() & isplat(-n)) | isplat(i));
#endif
    return y;
}

/* Rows that differ in bit `half` of their number exchange the lanes that do: rows[i][j + half] <-> rows[i + half][j] */
INLINE void exchange_lanes(vec rows[], const int n, const int half) {
    UNROLL for (int first = 0; first < n; first += 2 * half) {
        UNROLL for (int i = first; i < first + half; i++) {
            vec a = rows[i], b = rows[i + half];
#ifdef __clang__
            EACH(lane, VL) {
                rows[i][lane] = lane & half ? b[lane - half] : a[lane];
                rows[i + half][lane] = lane & half ? b[lane] : a[lane + half];
            }
#else
            ivec lanes = lane_numbers(), right = (lanes & isplat(half)) != 0;
            rows[i] = __builtin_shuffle(a, b, lanes + (right & isplat(VL - half)));
            rows[i + half] = __builtin_shuffle(a, b, lanes + (right & isplat(VL)) + (~right & isplat(half)));
#endif
        }
    }
}

/* a and b become a0 b0 a1 b1 and a2 b2 a3 b3 in every four lanes: cheaper than exchanging single lanes */
INLINE void interleave_quads(vec *a, vec *b) {
    vec x = *a, y = *b;
#ifdef __clang__
    EACH(lane, VL) {
        int from = (lane & ~3) | (lane & 3) / 2;
        (*a)[lane] = (lane & 1 ? y : x)[from];
        (*b)[lane] = (lane & 1 ? y : x)[from + 2];
    }
#else
    ivec lanes = lane_numbers(), from = (lanes & isplat(~3)) + ((lanes & isplat(2)) >> 1) + (lanes & isplat(1)) * isplat(VL);
    *a = __builtin_shuffle(x, y, from);
    *b = __builtin_shuffle(x, y, from + isplat(2));
#endif
}

/* rows[i][j] <-> rows[j][i] within every group of n lanes of n rows */
INLINE void transpose_groups(vec rows[], const int n) {
    UNROLL for (int half = n / 2; half >= 4; half /= 2) exchange_lanes(rows, n, half);
    if (n < 4 || REAL_BITS == 64) {
        UNROLL for (int half = n < 4 ? n / 2 : 2; half; half /= 2) exchange_lanes(rows, n, half);
        return;
    }
    UNROLL for (int i = 0; i < n; i += 2) interleave_quads(rows + i, rows + i + 1);
    exchange_lanes(rows, n, 2);
    UNROLL for (int i = 0; i < n; i += 4) {
        vec second = rows[i + 1];
        rows[i + 1] = rows[i + 2], rows[i + 2] = second;
    }
}
INLINE void transpose(vec rows[VL]) { transpose_groups(rows, VL); }

/* sums over every group of n lanes, a power of two and at most VL, of n rows: row i's in lane i of its group */
INLINE vec sum_groups(vec rows[], const int n) {
    UNROLL for (int distance = 1; distance < n; distance *= 2)
        UNROLL for (int i = 0; i < n; i += 2 * distance) {
            vec a = rows[i], b = rows[i + distance];
#ifdef __clang__
            vec kept, other;
            EACH(lane, VL) {
                kept[lane] = (lane & distance ? b : a)[lane];
                other[lane] = (lane & distance ? b : a)[lane ^ distance];
            }
            rows[i] = kept + other;
#else
            ivec lanes = lane_numbers(), second = (lanes & isplat(distance)) != 0;
            rows[i] = __builtin_shuffle(a, b, lanes + (second & isplat(VL))) +
                      __builtin_shuffle(a, b, (lanes ^ isplat(distance)) + (second & isplat(VL)));
#endif
        }
    return rows[0];
}
/* the sum over all lanes of each of n rows, a power of two and at most VL: row i's in every lane of index i modulo n */
INLINE vec sum_rows(vec rows[], const int n) {
    vec sum = sum_groups(rows, n);
    UNROLL for (int distance = n; distance < VL; distance *= 2) sum += swap_lanes(sum, distance);
    return sum;
}

/* to[j * ld_to + i] = from[i * ld_from + j] * scale for i < n_rows, j < n_columns (each at most VL); every one of the
 * n_columns rows written has VL lanes, those from n_rows on are 0. */
INLINE void transpose_block(real *to, ptrdiff_t ld_to, const real *from, ptrdiff_t ld_from, int n_rows, int n_columns,
                            real scale) {
    vec rows[VL];
    if (n_rows == VL && n_columns == VL) {
        EACH(i, VL) rows[i] = load(from + i * ld_from) * splat(scale);
        transpose(rows);
        EACH(j, VL) store(to + j * ld_to, rows[j]);
    } else {
        EACH(i, VL)
            rows[i] = i < n_rows ? load_n(from + i * ld_from, n_columns) * splat(scale) : (vec){0};
        transpose(rows);
        EACH(j, VL) if (j < n_columns) store(to + j * ld_to, rows[j]);
    }
}

#endif
