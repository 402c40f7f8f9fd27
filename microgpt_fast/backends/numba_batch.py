"""Packed batches in jitted code: their check, their rows, their losses.

Document i of a batch reads tokens[starts[i]] .. tokens[starts[i] + lengths[i]]: each but the last is an
input, each but the first a target. `at` is the layout of a model's workspaces `s` (of reals) and `rows` (of
int32).
"""

from .numba_compile import inline
from .numba_simd import is_null


@inline
def outside(values, i, limit):
    """Whether values[i] is not in 0 .. limit - 1"""
    return values[i] < 0 or values[i] >= limit


@inline
def first_bad_document(tokens, starts, lengths, documents, size, at):
    """The first document with a token or length out of range, or -1; size is that of tokens"""
    for i in range(documents):
        if not 1 <= lengths[i] <= at.T or starts[i] < 0 or starts[i] >= size - lengths[i]:
            return i
        text = tokens + starts[i]
        for t in range(lengths[i] + 1):
            if outside(text, t, at.V):
                return i
    return -1


@inline
def pack_batch(s, rows, tokens, starts, lengths, B, at):
    """The documents end to end, each row with its weight 1 / (B length) in the loss; returns how many
    rows."""
    row = 0
    rows[at.cu_seqlens] = 0
    for b in range(B):
        text, weight = tokens + starts[b], 1 / (float(lengths[b]) * B)
        for t in range(lengths[b]):
            rows[at.tokens + row], rows[at.targets + row] = text[t], text[t + 1]
            rows[at.positions + row] = t
            s[at.row_weight + row] = weight
            row += 1
        rows[at.cu_seqlens + b + 1] = row
    return row


@inline
def document_losses(losses, s, lengths, B, at):
    """losses[b] = mean of the document's row losses; returns their mean. losses may be 0."""
    row, total = at.row_loss, 0.0
    for b in range(B):
        document = 0.0
        for i in range(lengths[b]):
            document += s[row + i]
        row += lengths[b]
        document /= lengths[b]
        if not is_null(losses):
            losses[b] = document
        total += document
    return total / B
