/* What the general path hands to the narrow one, which is a unit of its own. */
#ifndef MGF_NARROW_H
#define MGF_NARROW_H

#include "gpt/decoder.h"
#include "threads.h"

/* All of it for models that `micro_serves`. */
typedef struct {
    size_t (*workspace_size)(const mgf_config *config, ptrdiff_t N, ptrdiff_t B);
    void (*train_steps)(double *losses, real *params, real *m, real *v, const int32_t *tokens, const int64_t *starts,
                        const int32_t *lengths, ptrdiff_t k, ptrdiff_t B, const double *lr, const mgf_adam *adam,
                        int64_t first_step, const mgf_config *config, void *workspace, mgf_pool *pool);
    void (*decode)(decoder *d, int32_t token, ptrdiff_t position);
} narrow_path;

/* NARROW, of the unit whose table of kernels is MGF_TABLE */
#define NARROW NARROW_OF(MGF_TABLE)
#define NARROW_OF(table) NARROW_OF_(table)
#define NARROW_OF_(table) table##_narrow
extern const narrow_path NARROW;

#endif
