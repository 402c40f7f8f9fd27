"""Training steps of models so narrow that rows of theirs are rows of registers (numba_rows.py).

`layout` says where everything lies, `forward`, `attention` and `backward` compute, `update` moves the weights, `steps`
puts it together for each width.
"""

from ...parameters import outside_layers
from ..numba_layout import OUTSIDE, known
from .layout import HEAD_WIDTHS, LONGEST_BLOCK, WIDTHS, narrow_layout
from .steps import TRAIN_STEPS

__all__ = ["narrow_layout", "serves", "train_steps"]


def serves(config):
    """Whether this serves a model: one of these widths whose blocks are short, with relu or its square, and lm_head,
    which is padded, the last parameter before the layers."""
    return (
        known(config)
        and tuple(p.name for p in outside_layers(config)) == OUTSIDE
        and config.n_embd in WIDTHS
        and config.head_dim in HEAD_WIDTHS
        and config.block_size <= LONGEST_BLOCK
        and config.mlp_width == 4 * config.n_embd
        and config.activation in ("relu", "relu2")
    )


def train_steps(config):
    """The training steps of a model that this serves."""
    return TRAIN_STEPS[config.n_embd, config.head_dim]
