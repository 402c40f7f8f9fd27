/* Compiled without flags for an instruction set, since it runs before one is chosen. */
#include "dispatch.h"

#define DECLARE(name)                              \
    extern const mgf_kernels_f32 mgf_f32_##name;   \
    extern const mgf_kernels_f64 mgf_f64_##name;   \
    extern const mgf_exact mgf_exact_##name;
#define TABLES(name) {#name, &mgf_f32_##name, &mgf_f64_##name, &mgf_exact_##name}

DECLARE(baseline)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
#endif

static const mgf_instruction_set instruction_sets[] = {
    TABLES(baseline),
#if defined(__x86_64__)
    TABLES(avx2),
    TABLES(avx512),
#endif
};

const mgf_instruction_set *mgf_instruction_set_at(int i) {
    return i < (int)(sizeof instruction_sets / sizeof *instruction_sets) ? &instruction_sets[i] : NULL;
}

int mgf_supported(int i) {
#if defined(__x86_64__)
    __builtin_cpu_init(); /* these look at the operating system's support as well */
    if (i == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (i == 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#endif
    return i == 0;
}
