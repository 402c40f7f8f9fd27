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

/* in the order of config.ACTIVATIONS; docs/kernels.md has the formulas */
enum { MGF_RELU, MGF_RELU2, MGF_GELU, MGF_SILU, MGF_ACTIVATIONS };

/* in the orders of config.POSITIONS and config.RESIDUALS */
enum { MGF_LEARNED, MGF_NO_POSITION, MGF_ALIBI, MGF_ROPE, MGF_POSITIONS };
enum { MGF_PLAIN_RESIDUAL, MGF_ATTENTION, MGF_ATTENTION_BLOCK, MGF_HYPER, MGF_RESIDUALS };

/* The shape of a model; head_dim = n_embd / n_head. From tie_embeddings on, 0 is what the original's model has;
 * docs/models.md has the formulas of what else there is. */
typedef struct {
    ptrdiff_t n_layer, n_embd, n_head, block_size, vocab_size;
    int activation;
    int tie_embeddings, position, qk_norm, norm_gain, final_norm, gated, value_embedding, residual, residual_scalars;
    ptrdiff_t mlp_hidden;       /* width of the feed-forward layers; 0: 4 n_embd, or 8 times a third of it if gated */
    ptrdiff_t layers_per_block; /* with MGF_ATTENTION_BLOCK */
    double qk_norm_scale, logit_softcap; /* with qk_norm; 0: no limit */
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

/* The list's macros are the includer's only while it is read: names of yours come back after it. */
#pragma push_macro("KERNEL")
#pragma push_macro("MGF_MODEL")
#pragma push_macro("MGF_FAST")
#pragma push_macro("real")
#undef KERNEL
#undef MGF_MODEL
#undef MGF_FAST
#undef real
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

/* The whole model in mixed precision: parameters, gradients, moments and sums are float32, operands of products bfloat16. */
#define MGF_MODEL(result, name, arguments) result(*name) arguments;
#define MGF_FAST(result, name, arguments) result(*name) arguments;
#define real float
typedef struct {
#include "microgpt_fast_kernels.h"
} mgf_mixed;
#undef real
#undef KERNEL
#pragma pop_macro("real")
#pragma pop_macro("MGF_FAST")
#pragma pop_macro("MGF_MODEL")
#pragma pop_macro("KERNEL")

/* What an installed microgpt_fast offers to other extension modules, behind the capsule MGF_API_CAPSULE.
 *
 * MGF_ABI_VERSION changes when anything above or below changes its layout or its meaning, but not when members are added
 * at the end of mgf_api: `size` says how many bytes of it there are. The struct stays where it is for the life of the
 * process. Its tables are those of the instruction set in use, which changes them: read them anew at every call.
 */
#define MGF_ABI_VERSION 4
#define MGF_API_CAPSULE "microgpt_fast.c_api"

typedef struct {
    int32_t abi_version;
    uint32_t size;       /* sizeof(mgf_api) of the library */
    uint32_t table_size; /* sizeof(mgf_kernels_f32) of the library */
    const char *isa;     /* "baseline", "avx2", "avx512", "avx512bf16" */
    const mgf_kernels_f32 *f32;
    const mgf_kernels_f64 *f64;
    const mgf_exact *exact;
    /* a pool of this many threads, NULL where there is no memory; and its end */
    mgf_pool *(*pool_create)(int threads);
    void (*pool_destroy)(mgf_pool *pool);
    /* the state of random.seed(n) for n = sum over i of digits[i] 2^(32 i) */
    void (*random_seed)(mgf_random *random, const uint32_t *digits, ptrdiff_t count);
    const mgf_mixed *mixed;
} mgf_api;

/* For extension modules of Python: the API, or NULL with a Python exception set (ImportError where the installed package
 * has no compiled backend or another ABI). Call it once, when your module is initialised. These are macros, so that Python.h
 * may be included before or after this header. */
#define mgf_import() (!MGF_FOUND ? (const mgf_api *)NULL : mgf_is_this_abi(MGF_FOUND) ? MGF_FOUND : MGF_REFUSED)
#define MGF_FOUND ((const mgf_api *)PyCapsule_Import(MGF_API_CAPSULE, 0))
#define MGF_REFUSED                                                                                                        \
    (PyErr_Format(PyExc_ImportError, "compiled for ABI %d of microgpt_fast, the installed one has ABI %d",                 \
                  MGF_ABI_VERSION, (int)MGF_FOUND->abi_version),                                                           \
     (const mgf_api *)NULL)

static inline int mgf_is_this_abi(const mgf_api *api) {
    return api->abi_version == MGF_ABI_VERSION && api->size >= sizeof(mgf_api) &&
           api->table_size == sizeof(mgf_kernels_f32);
}

#ifdef __cplusplus
}
#endif
#endif
