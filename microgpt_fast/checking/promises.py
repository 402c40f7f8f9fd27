"""What `verify` holds a backend to."""

from typing import NamedTuple

FLOOR = 0.01  # of the largest of all tensors; see Promise


class Promise(NamedTuple):
    """What must hold.

    Errors are relative to the largest element of the reference's tensor; or to FLOOR times the largest of
    all tensors where that is more, as a tensor's gradient may be nothing but what cancellation leaves. Errors
    of a loss are relative to it, or to 1.

    With bfloat16 every element is rounded, and a ReLU may change side anywhere: there the error of a gradient or
    moment is the Euclidean norm of the difference, over all tensors, relative to the norm.

    Attributes
    ----------
    text : str
    loss, gradient, moment : float
        Largest error of a single step's loss, gradient, and Adam's moments.
    update : float
        Largest error of the new parameters, given the new moments: Adam divides by the root of a moment,
        which makes of the rounding of a gradient that is nearly 0 any fraction of the learning rate.
    """

    text: str
    loss: float = 0.0
    gradient: float = 0.0
    moment: float = 0.0
    update: float = 0.0


PROMISES = {
    ("exact", "float64"): Promise("every number identical, bit for bit"),
    ("fast", "float64"): Promise(
        "the run's first 1000 losses print alike; in single steps, gradients within 1e-12, moments within "
        "1e-11, losses and, given the moments, parameters within 1e-12",
        1e-12, 1e-12, 1e-11, 1e-12,
    ),
    ("fast", "float32"): Promise(
        "in single steps, gradients within 1e-4 and moments within 1e-3 where no ReLU changes side, losses "
        "within 1e-5 and, given the moments, parameters within 1e-6",
        1e-5, 1e-4, 1e-3, 1e-6,
    ),
    ("fast", "bfloat16"): Promise(
        "in single steps, the whole gradient and the whole of each moment within 0.1 of their norm, losses within "
        "0.01 and, given the moments, parameters within 1e-6",
        0.01, 0.1, 0.1, 1e-6,
    ),
}  # fmt: skip
