/* Compiled without flags for an instruction set, since it runs before one is chosen. */
#include "dispatch.h"

/* The instruction sets whose tables are linked, from the plainest to the widest, each with the one whose kernels of float32
 * and float64 it takes. A build of some of them says which: -D'MGF_ISAS(X)=X(baseline, baseline) X(avx2, avx2)'. */
#ifndef MGF_ISAS
#if defined(__x86_64__)
#define MGF_ISAS(X) X(baseline, baseline) X(avx2, avx2) X(avx512, avx512) X(avx512bf16, avx512)
#else
#define MGF_ISAS(X) X(baseline, baseline)
#endif
#endif

/* The processor's features, and how many of them each instruction set takes, in their order. */
#if defined(__x86_64__)
#define FEATURES(X)                                                                                                        \
    X(0, "sse4.2")                                                                                                         \
    X(1, "avx2") X(2, "fma") X(3, "avx512f") X(4, "avx512dq") X(5, "avx512bw") X(6, "avx512vl") X(7, "avx512bf16")
#else
#define FEATURES(X)
#endif
enum { baseline_features = 0, avx2_features = 3, avx512_features = 7, avx512bf16_features = 8 };

/* an instruction set that shares another's kernels declares them again, which C allows */
#define DECLARE(name, kernels)                                                                                             \
    extern const mgf_kernels_f32 mgf_f32_##kernels;                                                                        \
    extern const mgf_kernels_f64 mgf_f64_##kernels;                                                                        \
    extern const mgf_exact mgf_exact_##kernels;                                                                            \
    extern const mgf_mixed mgf_mixed_##name;                                                                               \
    extern const mgf_peak mgf_f32_##kernels##_peak;                                                                        \
    extern const mgf_peak mgf_f64_##kernels##_peak;                                                                        \
    extern const mgf_peak mgf_mixed_##name##_peak;
#define TABLES(name, kernels)                                                                                              \
    {#name,                                                                                                                \
     &mgf_f32_##kernels,                                                                                                   \
     &mgf_f64_##kernels,                                                                                                   \
     &mgf_exact_##kernels,                                                                                                 \
     &mgf_mixed_##name,                                                                                                    \
     &mgf_f32_##kernels##_peak,                                                                                            \
     &mgf_f64_##kernels##_peak,                                                                                            \
     &mgf_mixed_##name##_peak},
#define NEEDED(name, kernels) name##_features,

MGF_ISAS(DECLARE)
static const mgf_instruction_set instruction_sets[] = {MGF_ISAS(TABLES)};
static const int needed[] = {MGF_ISAS(NEEDED)};

const mgf_instruction_set *mgf_instruction_set_at(int i) {
    return i < (int)(sizeof instruction_sets / sizeof *instruction_sets) ? &instruction_sets[i] : NULL;
}

const char *mgf_cpu_feature(int i, int *present) {
#define FEATURE(index, name)                                                                                               \
    if (i == index) return *present = __builtin_cpu_supports(name) != 0, name;
#if defined(__x86_64__)
    __builtin_cpu_init(); /* what follows looks at the operating system's support as well */
#endif
    FEATURES(FEATURE)
    (void)i, (void)present;
    return NULL;
}

int mgf_supported(int i) {
    for (int feature = 0; feature < needed[i]; feature++) {
        int present = 0;
        mgf_cpu_feature(feature, &present);
        if (!present) return 0;
    }
    return 1;
}
