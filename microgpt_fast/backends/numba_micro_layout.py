"""The working memory of a narrow model's training steps."""

from typing import NamedTuple

from .composed import RELU2
from .numba_simd import VECTOR_BYTES

# A layer's planes have a row of C (HIDDEN, DH, SQUARED: 4 C) for each row of the batch: h1 = rms(x); q, k, v;
# what attention gives; h2 = rms(x); r = max(h2 fc1^T, 0); gradients of the residual stream after the layer
# and between its two blocks, of what attention gives, of q, k, v and of h2 fc1^T; r^2 for RELU2.
H1, Q, K, V, O, H2, HIDDEN, DX, DX1, D_O, DQ, DK, DV, DH, SQUARED, PLANES = *range(7), *range(10, 17), 20, 24


class Layout(NamedTuple):
    """Sizes of a model, and where its parts lie in the workspaces `work` (of reals) and `rows` (of int32)."""

    L: int
    H: int
    V: int
    T: int
    activation: int
    width: int  # of a row of logits: V padded to whole rows of C, which are masked
    plane: int
    # parameters: wte, wpe; lm_head [width, C]; the layers
    head: int
    w_layer: int
    size: int  # of all; m, v and transposes follow with the same order within
    embedding_grads: int  # 0 between steps
    x: int  # residual stream
    h0: int  # normalised embedding
    dx0: int  # gradient of the embedding
    mask: int  # [width] 0, and MASKED from V on
    logits: int
    scores: int  # of a query block, [T, C]
    tile: int  # of a gradient
    # statistics of rows
    rstd0: int
    total: int
    largest: int
    at_target: int
    row_weight: int
    row_loss: int
    # the layers, of layer_size each, and in a layer behind its planes:
    layer: int
    layer_size: int
    rstd1: int
    rstd2: int
    e: int  # exponentials of scores, see _heads
    # of int32
    tokens: int
    targets: int
    positions: int
    cu_seqlens: int


def micro_layout(L, C, H, V, T, activation, itemsize, N, B):
    """The layout for batches of up to B documents with N rows; and the sizes of `work` and `rows`."""
    D, n = C // H, VECTOR_BYTES // itemsize
    height = max(1, 8 * n // C)
    rows = -(-N // height) * height + D  # a tile, or a block of queries, may begin with the last row
    width, embeddings = -(-V // C) * C, (V + T) * C
    at = dict(L=L, H=H, V=V, T=T, activation=activation, width=width, plane=rows * C)
    at |= dict(head=embeddings, w_layer=embeddings + width * C)
    at["size"] = at["w_layer"] + 12 * L * C * C

    def place(first, sizes):
        for name, size in sizes.items():
            at[name] = first
            first += -(-size // 16) * 16  # the workspace begins at a cache line, and so does each part
        return first

    planes = PLANES if activation == RELU2 else SQUARED
    statistics = rows + n
    blocks = (N + B * (D - 1)) // D  # of queries
    of_layer = dict(rstd1=statistics, rstd2=statistics, e=(blocks * (T + 1) * H) * D)
    at["layer_size"] = place(planes * at["plane"], of_layer)
    size = place(
        4 * at["size"],
        dict(
            x=at["plane"], h0=at["plane"], dx0=at["plane"],
            embedding_grads=embeddings, mask=width, logits=rows * width, scores=T * C, tile=height * C,
            rstd0=statistics, total=statistics, largest=statistics, at_target=statistics,
            row_weight=statistics, row_loss=statistics, layer=L * at["layer_size"],
        ),
    )  # fmt: skip
    integers = place(0, dict(tokens=rows, targets=rows, positions=rows, cu_seqlens=B + 1))
    return Layout(**at), size, integers
