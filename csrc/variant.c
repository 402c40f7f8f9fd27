/* All kernels for one instruction set and one `real`: compiled once for each, with the set's flags, REAL_BITS and
 * MGF_TABLE, the name of the table of functions that this unit exports. */
#include "microgpt_fast.h"

#include "kernels/adam.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "base/gemm.h"
#include "kernels/linear.h"
#include "kernels/mlp.h"
#include "base/peak.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "gpt/streams.h"
#include "gpt/train.h"

#define KERNEL(result, name, arguments) .name = name,
#if REAL_BITS == 32
const mgf_kernels_f32 MGF_TABLE = {
#else
const mgf_kernels_f64 MGF_TABLE = {
#endif
#include "microgpt_fast_kernels.h"
};
