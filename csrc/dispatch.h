/* The instruction sets this library was compiled for, and which of them the machine has. */
#ifndef MGF_DISPATCH_H
#define MGF_DISPATCH_H

#include "microgpt_fast.h"

/* Loops that reach what one core can do at best: see base/peak.h. */
typedef struct {
    double (*compute)(ptrdiff_t rounds);               /* returns the operations done */
    double (*read)(const void *data, ptrdiff_t bytes); /* returns the bytes read */
} mgf_peak;

typedef struct {
    const char *name; /* "baseline", "avx2", "avx512", "avx512bf16" */
    const mgf_kernels_f32 *f32;
    const mgf_kernels_f64 *f64;
    const mgf_exact *exact;
    const mgf_mixed *mixed;
    const mgf_peak *peak_f32, *peak_f64, *peak_mixed; /* of bfloat16 there is no `read` */
} mgf_instruction_set;

/* Instruction set i, from the plainest to the widest; NULL past the last. */
const mgf_instruction_set *mgf_instruction_set_at(int i);
/* Name of feature i of the processor among those that matter here, and whether it is there; NULL past the last. */
const char *mgf_cpu_feature(int i, int *present);
/* Whether the processor and the operating system support it. */
int mgf_supported(int i);

#endif
