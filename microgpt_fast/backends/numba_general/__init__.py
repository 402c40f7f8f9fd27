"""The whole model for Numba, of any size: the layers' jitted functions in the order of training and decoding.

`layout` says where everything lies, `forward` and `backward` compute, `steps` has what Python calls.
"""

from ..numba_layout import known
from .layout import gpt_layout
from .steps import gpt_backward, gpt_decode, gpt_forward, gpt_train_steps

__all__ = ["gpt_backward", "gpt_decode", "gpt_forward", "gpt_layout", "gpt_train_steps", "serves"]


def serves(config):
    """Whether this serves a model: any whose activation and parameters it knows."""
    return known(config)
