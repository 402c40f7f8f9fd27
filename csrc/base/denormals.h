#ifndef MGF_DENORMALS_H
#define MGF_DENORMALS_H

/* Denormal results and arguments count as 0 between the two calls: moments of unused embedding rows decay into that
 * range, where an operation takes a hundred cycles. Returns what denormals_restore puts back. */
#if defined(__x86_64__)
#include <xmmintrin.h>
static inline unsigned denormals_flush(void) {
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    return mode;
}
static inline void denormals_restore(unsigned mode) { _mm_setcsr(mode); }
#else
static inline unsigned denormals_flush(void) { return 0; }
static inline void denormals_restore(unsigned mode) { (void)mode; }
#endif

#endif
