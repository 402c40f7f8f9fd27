"""The working memory of a narrow model's training steps."""

from collections import namedtuple
from itertools import accumulate
from typing import NamedTuple

from ...parameters import outside_layers
from ..numba_activations import RELU2
from ..numba_layout import Places, place, places
from ..numba_simd import VECTOR_BYTES

WIDTHS, HEAD_WIDTHS, LONGEST_BLOCK = (16, 32), (4, 8, 16), 64
MASKED = -1e30  # a score or logit whose exponential is to be 0

# A layer's planes have for each row of the batch a row of so many times C elements.
_PLANE_WIDTHS = dict(
    h1=1,  # rms(x)
    q=1, k=1, v=1,
    o=1,  # what attention gives
    h2=1,  # rms of the residual stream between the layer's two blocks
    r=4,  # max(h2 fc1^T, 0)
    dx=1, dx1=1,  # gradients of the residual stream after the layer, and between its two blocks
    d_o=1, dq=1, dk=1, dv=1, dh=4,  # dh: of h2 fc1^T
    squared=4,  # r^2, for relu2 alone
)  # fmt: skip
PLANE = namedtuple("Plane", (*_PLANE_WIDTHS, "end"))(*accumulate(_PLANE_WIDTHS.values(), initial=0))


class Layout(NamedTuple):
    """Sizes of a model, and where its parts lie in the workspaces `work` (of reals) and `rows` (of int32)."""

    L: int
    V: int
    T: int
    activation: int
    width: int  # of a row of logits: V padded to whole rows of C, which are masked
    plane: int
    # parameters, with lm_head [width, C]; m, v and transposes follow with the same order within, w.size apart
    w: Places
    layers_outside: (
        int  # where the first layer begins in the caller's buffers, in which lm_head is not padded
    )
    embeddings: int  # size of wte and wpe
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
    layers: int
    layer_size: int
    rstd1: int
    rstd2: int
    e: int  # exponentials of scores, see attention.py
    # of int32
    tokens: int
    targets: int
    positions: int
    cu_seqlens: int


def narrow_layout(config, activation, itemsize, N, B):
    """The layout for batches of up to B documents with N rows; and the sizes of `work` and `rows`."""
    L, C, D, V, T = config.n_layer, config.n_embd, config.head_dim, config.vocab_size, config.block_size
    n = VECTOR_BYTES // itemsize
    height = max(1, 8 * n // C)
    rows = -(-N // height) * height + D  # a tile, or a block of queries, may begin with the last row
    width = -(-V // C) * C
    padded = [p._replace(shape=(width, C)) if p.name == "lm_head" else p for p in outside_layers(config)]
    w, outside = places(config, padded), places(config)

    at = dict(L=L, V=V, T=T, activation=activation, width=width, plane=rows * C, w=w)
    at |= dict(layers_outside=outside.layers, embeddings=w.lm_head)
    statistics = rows + n
    blocks = (N + B * (D - 1)) // D  # of queries
    planes = PLANE.end if activation == RELU2 else PLANE.squared
    of_layer = dict(rstd1=statistics, rstd2=statistics, e=blocks * (T + 1) * C)
    at["layer_size"] = place(at, planes * at["plane"], of_layer)
    work = dict(
        x=at["plane"], h0=at["plane"], dx0=at["plane"],
        embedding_grads=at["embeddings"], mask=width, logits=rows * width, scores=T * C, tile=height * C,
        rstd0=statistics, total=statistics, largest=statistics, at_target=statistics,
        row_weight=statistics, row_loss=statistics, layers=L * at["layer_size"],
    )  # fmt: skip
    size = place(at, 4 * w.size, work)
    integers = place(at, 0, dict(tokens=rows, targets=rows, positions=rows, cu_seqlens=B + 1))
    return Layout(**at), size, integers
