"""Which ReLU falls on the other side in float32: there a gradient differs by more than rounding."""

from typing import NamedTuple

import numpy as np

from ..backends import numpy_backend
from ..backends.composed import ComposedEngine

RECTIFIERS = ("relu", "relu2")  # activations with two sides


class ChangedSide(NamedTuple):
    """One ReLU, and its pre-activation in float64 and in float32.

    `document` counts within the batch; all numbers count from 0.
    """

    document: int
    position: int
    layer: int
    unit: int
    float64: float
    float32: float


class _Recorder:
    """The kernels of a backend; keeps what mlp_forward computes before the activation."""

    def __init__(self, kernels):
        self._kernels = kernels
        self.hidden = []

    def __getattr__(self, name):
        return getattr(self._kernels, name)

    def mlp_forward(self, y, h, *inputs):
        self._kernels.mlp_forward(y, h, *inputs)
        self.hidden.append(h)


def first_changed_side(kernels, config, parameters, tokens, starts, lengths):
    """The first ReLU, in the order of the scalar forward pass, that float32 puts on the other side.

    The float64 pre-activations are the NumPy twin's, which are the reference's but for rounding: one within
    about 1e-15 of 0 could be mistaken. The float32 ones come from the backend's kernels one by one, at the
    rounded parameters; a fused training step may add in another order.

    Parameters
    ----------
    kernels : module
        The backend.
    config : GPTConfig
    parameters : float64 array [P]
    tokens, starts, lengths
        The batch, as for an Engine.

    Returns
    -------
    ChangedSide or None
    """
    wanted = _pre_activations(numpy_backend, config, parameters, tokens, starts, lengths)
    got = _pre_activations(kernels, config, parameters.astype(np.float32), tokens, starts, lengths)
    changed = (wanted > 0) != (got > 0)
    if not changed.any():
        return None
    row, layer, unit = map(int, np.unravel_index(changed.argmax(), changed.shape))
    ends = np.cumsum(lengths)
    document = int(np.searchsorted(ends, row, side="right"))
    position = row - int(ends[document] - lengths[document])
    here = row, layer, unit
    return ChangedSide(document, position, layer, unit, float(wanted[here]), float(got[here]))


def _pre_activations(kernels, config, parameters, tokens, starts, lengths):
    """[N, n_layer, 4 n_embd] in the parameters' dtype."""
    recorder = _Recorder(kernels)
    ComposedEngine(recorder, config, parameters.dtype).forward(parameters, tokens, starts, lengths)
    return np.stack(recorder.hidden, axis=1)
