/* The generator of Python's random module, draw for draw: MT19937 (Matsumoto and Nishimura 1998) and what is built on it. */
#ifndef MGF_RANDOM_H
#define MGF_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#include "microgpt_fast.h"

/* random.seed(n) for an integer whose absolute value has these 32-bit digits, lowest first; 0 is one digit */
void mgf_random_seed(mgf_random *r, const uint32_t *digits, ptrdiff_t count);
/* random.random(): 53 bits in [0, 1) */
double mgf_random_uniform(mgf_random *r);
/* random.gauss(0, std) n times */
void mgf_random_normal(mgf_random *r, double *out, ptrdiff_t n, double std);
/* random.shuffle(list(range(n))) */
void mgf_random_permutation(mgf_random *r, int64_t *out, ptrdiff_t n);
/* random.choices(range(n), weights)[0] */
ptrdiff_t mgf_random_choice(mgf_random *r, const double *weights, ptrdiff_t n);

#endif
