/* The model in mixed precision for one instruction set: compiled once for each, with the set's flags and MGF_MIXED_TABLE,
 * the name of the table of functions that this unit exports. Multiply-adds are not contracted (-ffp-contract=off): all
 * instruction sets have the same bits. */
#include "microgpt_fast.h"

#include "mixed/peak.h"
#include "mixed/decode.h"

extern const mgf_mixed MGF_MIXED_TABLE;
#define real float
#define KERNEL(result, name, arguments)
#define MGF_MODEL(result, name, arguments) name,
#define MGF_FAST(result, name, arguments) name,
const mgf_mixed MGF_MIXED_TABLE = {
#include "microgpt_fast_kernels.h"
};
