#include "random.h"

#include <math.h>

enum { STATE = 624, PERIOD = 397 };

static void seed_with(mgf_random *r, uint32_t value) {
    r->state[0] = value;
    for (uint32_t i = 1; i < STATE; i++) r->state[i] = 1812433253u * (r->state[i - 1] ^ (r->state[i - 1] >> 30)) + i;
    r->index = STATE;
}

/* the reference implementation's init_by_array */
void mgf_random_seed(mgf_random *r, const uint32_t *digits, ptrdiff_t count) {
    uint32_t *s = r->state;
    seed_with(r, 19650218u);
    ptrdiff_t i = 1, j = 0;
    for (ptrdiff_t k = count > STATE ? count : STATE; k; k--) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1664525u)) + digits[j] + (uint32_t)j;
        if (++i >= STATE) s[0] = s[STATE - 1], i = 1;
        if (++j >= count) j = 0;
    }
    for (ptrdiff_t k = STATE - 1; k; k--) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1566083941u)) - (uint32_t)i;
        if (++i >= STATE) s[0] = s[STATE - 1], i = 1;
    }
    s[0] = 0x80000000u;
    r->has_gauss = 0;
    r->gauss = 0;
}

static void refill(mgf_random *r) {
    uint32_t *s = r->state;
    for (int i = 0; i < STATE; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % STATE] & 0x7fffffffu);
        s[i] = s[(i + PERIOD) % STATE] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    r->index = 0;
}

static uint32_t next_word(mgf_random *r) {
    if (r->index >= STATE) refill(r);
    uint32_t y = r->state[r->index++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

double mgf_random_uniform(mgf_random *r) {
    uint32_t high = next_word(r) >> 5, low = next_word(r) >> 6;
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0);
}

/* Box and Muller's pairs: cos first, sin kept for the next call. A standard deviation of 0 draws all the same. */
void mgf_random_normal(mgf_random *r, double *out, ptrdiff_t n, double std) {
    for (ptrdiff_t i = 0; i < n; i++) {
        double z = r->gauss;
        if (r->has_gauss) {
            r->has_gauss = 0;
        } else {
            double angle = mgf_random_uniform(r) * 6.283185307179586;
            double radius = sqrt(-2.0 * log(1.0 - mgf_random_uniform(r)));
            z = cos(angle) * radius;
            r->gauss = sin(angle) * radius;
            r->has_gauss = 1;
        }
        out[i] = 0.0 + z * std;
    }
}

/* uniform in [0, n), n > 0, by rejection of words (or pairs of words) of n's bit length */
static uint64_t below(mgf_random *r, uint64_t n) {
    int bits = 64 - __builtin_clzll(n);
    for (;;) {
        uint64_t x = bits <= 32 ? next_word(r) >> (32 - bits) : next_word(r);
        if (bits > 32) x |= (uint64_t)(next_word(r) >> (64 - bits)) << 32;
        if (x < n) return x;
    }
}

void mgf_random_permutation(mgf_random *r, int64_t *out, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = i;
    for (ptrdiff_t i = n - 1; i > 0; i--) {
        uint64_t j = below(r, (uint64_t)i + 1);
        int64_t kept = out[i];
        out[i] = out[j];
        out[j] = kept;
    }
}

/* the first i with random() * (sum of all weights) < sum of weights 0 .. i, the last at the latest; sums in order */
ptrdiff_t mgf_random_choice(mgf_random *r, const double *weights, ptrdiff_t n) {
    double total = 0;
    for (ptrdiff_t i = 0; i < n; i++) total += weights[i];
    double target = mgf_random_uniform(r) * total, sum = 0;
    for (ptrdiff_t i = 0; i < n - 1; i++) {
        sum += weights[i];
        if (target < sum) return i;
    }
    return n - 1;
}
