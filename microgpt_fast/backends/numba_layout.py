"""Where things lie in memory, as numbers for jitted code: parameters, read from their table, and workspaces."""

from typing import NamedTuple

from ..parameters import of_a_layer, outside_layers, placed
from .numba_activations import NAMES

OUTSIDE = ("wte", "wpe", "lm_head")
QKV = ("attn_wq", "attn_wk", "attn_wv")
OF_A_LAYER = (*QKV, "attn_wo", "mlp_fc1", "mlp_fc2")
CACHE_LINE = 16  # elements, at least


class Places(NamedTuple):
    """Where parameters begin in a flat buffer; those of a layer: how far behind the layer's beginning.

    attn_wq, attn_wk and attn_wv follow each other, one matrix [3 C, C], and so have one place.
    """

    wte: int
    wpe: int
    lm_head: int
    layers: int  # the first of them
    layer_size: int
    attn_wq: int
    attn_wo: int
    mlp_fc1: int
    mlp_fc2: int
    size: int  # of all


def places(config, outside=None):
    """Where the parameters of a model are; `outside` replaces the table of those before the layers."""
    outside = tuple(placed(outside or outside_layers(config)))
    of_layer = tuple(placed(of_a_layer(config)))
    at = {p.name: p.offset for p in (*outside, *of_layer) if p.name in Places._fields}
    end, layer_size = (table[-1].place.stop for table in (outside, of_layer))
    size = end + config.n_layer * layer_size
    return Places(**at, layers=end, layer_size=layer_size, size=size)


def known(config):
    """Whether a model has an activation and parameters that jitted code knows: these, each a matrix of its own, in any
    order in which attn_wq, attn_wk and attn_wv make one."""
    outside, of_layer = outside_layers(config), of_a_layer(config)
    names = [p.name for p in of_layer]
    if sorted(names) != sorted(OF_A_LAYER) or sorted(p.name for p in outside) != sorted(OUTSIDE):
        return False
    qkv = of_layer[names.index(QKV[0]) :][: len(QKV)]
    return (
        config.activation in NAMES
        and not config.variations
        and not any(p.tied_to or not p.decays for p in (*outside, *of_layer))
        and tuple(p.name for p in qkv) == QKV
        and len({p.shape for p in qkv}) == 1
    )


def place(at, first, sizes):
    """Writes into `at` where parts of these sizes begin, each at a cache line; returns where they end."""
    for name, size in sizes.items():
        at[name] = first
        first += -(-size // CACHE_LINE) * CACHE_LINE
    return first
