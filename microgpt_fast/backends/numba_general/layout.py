"""The working memory of the whole model: sizes, and where activations, gradients and packed weights lie."""

from typing import NamedTuple

from ..numba_activations import keeps_value
from ..numba_layout import Places, place, places
from ..numba_simd import VECTOR_BYTES


class Layout(NamedTuple):
    """Sizes of a model, and where its parts lie in the workspaces `work` (of reals) and `rows` (of int32)."""

    L: int
    C: int
    F: int
    H: int
    D: int
    V: int
    T: int
    activation: int
    keeps_value: bool  # what the activation keeps for the backward pass is its value
    w: Places  # of parameters, in their own buffer
    # rows of activations: their lengths, padded to whole vectors
    ld_c: int
    ld_3c: int
    ld_f: int
    ld_v: int
    # packed transposes: of lm_head; from the first layer on of each layer's
    packed_head: int
    packed_layers: int
    packed_layer_size: int
    packed_qkv: int
    packed_wo: int
    packed_fc1: int
    packed_fc2: int
    # activations: x, embedding and loss; from the first layer on each layer's
    x: int
    h0: int
    rstd0: int
    logits: int
    row_loss: int
    row_weight: int
    layers: int
    layer_size: int
    h1: int
    rstd1: int
    qkv: int
    o: int
    lse: int
    h2: int
    rstd2: int
    kept: int  # what the activation's gradient needs of h2 fc1^T
    a: int  # the activation's value: what is kept, or beside it
    # gradients
    dx: int
    dx1: int
    dh: int
    df: int
    d_o: int
    dqkv: int
    delta: int
    grads: int
    # of int32
    tokens: int
    targets: int
    positions: int
    cu_seqlens: int


def gpt_layout(config, activation, itemsize, N, B):
    """The layout for batches of up to B documents with N rows; and the sizes of `work` and `rows`."""
    L, C, F, H, V = config.n_layer, config.n_embd, config.mlp_width, config.n_head, config.vocab_size
    n, w = VECTOR_BYTES // itemsize, places(config)

    def padded(size):
        return -(-size // n) * n

    at = dict(L=L, C=C, F=F, H=H, D=config.head_dim, V=V, T=config.block_size, w=w)
    at |= dict(activation=activation, keeps_value=keeps_value(activation))
    at |= dict(ld_c=padded(C), ld_3c=padded(3 * C), ld_f=padded(F), ld_v=padded(V))
    packed = dict(
        packed_qkv=at["ld_3c"] * C, packed_wo=at["ld_c"] * C, packed_fc1=at["ld_f"] * C,
        packed_fc2=at["ld_c"] * F,
    )  # fmt: skip
    at["packed_layer_size"] = place(at, 0, packed)

    c, f, qkv = N * at["ld_c"], N * at["ld_f"], N * at["ld_3c"]
    of_layer = dict(h1=c, rstd1=N, qkv=qkv, o=c, lse=N * H, h2=c, rstd2=N, kept=f)
    if not at["keeps_value"]:
        of_layer["a"] = f
    at["layer_size"] = place(at, 0, of_layer)
    at.setdefault("a", at["kept"])
    work = dict(
        packed_head=at["ld_v"] * C, packed_layers=L * at["packed_layer_size"], x=c, h0=c, rstd0=N,
        logits=N * at["ld_v"], row_loss=N, row_weight=N, layers=L * at["layer_size"], dx=c, dx1=c, dh=c,
        df=f, d_o=c, dqkv=qkv, delta=N * H, grads=w.size,
    )  # fmt: skip
    size = place(at, 0, work)
    rows = place(at, 0, dict(tokens=N, targets=N, positions=N, cu_seqlens=B + 1))
    return Layout(**at), size, rows
