/* What a batch of documents is made of, before it is packed. */
#ifndef MGF_DOCUMENTS_H
#define MGF_DOCUMENTS_H

#include "microgpt_fast.h"

/* the first document whose length or one of whose tokens is out of range, or -1 */
static inline ptrdiff_t first_bad_document(const int32_t *tokens, const int64_t *starts, const int32_t *lengths,
                                           ptrdiff_t n, const mgf_config *c) {
    for (ptrdiff_t i = 0; i < n; i++) {
        if (lengths[i] < 1 || lengths[i] > c->block_size || starts[i] < 0) return i;
        const int32_t *document = tokens + starts[i];
        uint32_t largest = 0; /* a negative token is a large unsigned number */
        for (ptrdiff_t t = 0; t <= lengths[i]; t++)
            largest = (uint32_t)document[t] > largest ? (uint32_t)document[t] : largest;
        if (largest >= (uint64_t)c->vocab_size) return i;
    }
    return -1;
}

/* A large batch passes in pieces of documents: the activations of more rows would leave the cache before they are read. */
enum { PIECE_ROWS = 2048 };

/* how many of B documents make the next piece */
static inline ptrdiff_t piece_of(const int32_t *lengths, ptrdiff_t B) {
    ptrdiff_t n = 1;
    for (ptrdiff_t rows = lengths[0]; n < B && (rows += lengths[n]) <= PIECE_ROWS;) n++;
    return n;
}

#endif
