/* What decoding works on, as gpt/decode.h lays it out. */
#ifndef MGF_DECODER_H
#define MGF_DECODER_H

#include "gpt/layout.h"
#include "random.h"

typedef struct {
    gpt g;               /* sizes, parameters and their packed transposes; a row of activations for each stream */
    ptrdiff_t ld_t;      /* keys that a cache has room for: block_size, in whole vectors */
    real *keys, *values; /* [B, L, ld_t, C]; of the keys, blocks of VL are transposed: [B, L, ld_t / VL, C, VL] */
    real *scores;        /* [B, ld_scores] [H, ld_t], and a factor of each head, [H, VL] */
    ptrdiff_t ld_scores;
    double *weights;      /* [B, V] of the next token */
    const int32_t *slots; /* [N] whose row it is; NULL: row i is stream i's */
    int32_t *drawn;       /* [N] the next tokens, drawn at this temperature from `randoms`; NULL: nothing is drawn */
    mgf_random **randoms; /* [N] NULL: this row draws none, and gets -1 */
    double temperature;
} decoder;

#endif
