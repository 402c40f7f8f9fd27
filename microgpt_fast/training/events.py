"""What a training yields."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Steps(NamedTuple):
    """Some training steps were taken: `step` is the number of all so far, `losses` are those of these steps."""

    step: int
    losses: NDArray[np.float64]


class Evaluation(NamedTuple):
    """A validation: its loss in nats per token, ends of documents included, and whether it is the best so far."""

    step: int
    loss: float
    is_best: bool
