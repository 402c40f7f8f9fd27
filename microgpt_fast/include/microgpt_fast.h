/* microgpt_fast: the kernels of a small GPT, forward and backward, in float32 (_f32) and float64 (_f64).
 *
 * The functions are reached through tables, one for each instruction set (see dispatch.h in csrc).
 * microgpt_fast_kernels.h tells what each function computes.
 */
#ifndef MICROGPT_FAST_H
#define MICROGPT_FAST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { MGF_RELU = 0, MGF_RELU2 = 1 };

/* The shape of a model; head_dim = n_embd / n_head. */
typedef struct {
    ptrdiff_t n_layer, n_embd, n_head, block_size, vocab_size;
    int activation;
} mgf_config;

typedef struct {
    double beta1, beta2, eps, weight_decay;
} mgf_adam;

/* Threads that share the work of one call; NULL where a pool is asked for means the calling thread alone. */
typedef struct mgf_pool mgf_pool;

/* The generator of Python's random module: MT19937 and the second normal deviate that gauss() keeps for its next call. */
typedef struct {
    uint32_t state[624];
    int32_t index;
    int32_t has_gauss;
    double gauss;
} mgf_random;

#define KERNEL(result, name, arguments) result(*name) arguments;
#define real float
typedef struct {
#include "microgpt_fast_kernels.h"
} mgf_kernels_f32;
#undef real
#define real double
typedef struct {
#include "microgpt_fast_kernels.h"
} mgf_kernels_f64;
#undef KERNEL

/* The float64 model in the scalar original's own order of operations, bit for bit. */
#define KERNEL(result, name, arguments)
#define MGF_MODEL(result, name, arguments) result(*name) arguments;
typedef struct {
#include "microgpt_fast_kernels.h"
} mgf_exact;
#undef real
#undef KERNEL

#ifdef __cplusplus
}
#endif
#endif
