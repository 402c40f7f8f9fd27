/* All kernels for one instruction set and one `real`: compiled once for each, with the set's flags, REAL_BITS and
 * MGF_TABLE, the name of the table of functions that this unit exports. */
#include "microgpt_fast.h"

#include "adam.h"
#include "attention.h"
#include "cross_entropy.h"
#include "embedding.h"
#include "gemm.h"
#include "linear.h"
#include "mlp.h"
#include "peak.h"
#include "rmsnorm.h"
#include "streams.h"
#include "train.h"

#define KERNEL(result, name, arguments) .name = name,
#if REAL_BITS == 32
const mgf_kernels_f32 MGF_TABLE = {
#else
const mgf_kernels_f64 MGF_TABLE = {
#endif
#include "microgpt_fast_kernels.h"
};
