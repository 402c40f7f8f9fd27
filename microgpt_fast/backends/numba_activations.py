"""The activations of the feed-forward layers, for jitted code: their values, their slopes, and what is kept of h.

What `kept` gives takes h's place in the backward pass, and for value and gradient it is as good as h: either
max(h, 0), or h itself where the slope below 0 is not 0. Here alone is decided what a code computes; codes are
places in config.ACTIVATIONS.

|       | value f(h)   | gradient d f'(h)  | kept      |
|-------|--------------|-------------------|-----------|
| relu  | max(h, 0)    | d where h > 0     | max(h, 0) |
| relu2 | max(h, 0)^2  | d 2 max(h, 0)     | max(h, 0) |
"""

from .numba_compile import inline
from .numba_simd import maximum, where

NAMES = ("relu", "relu2")
RELU, RELU2 = range(len(NAMES))


@inline
def value(h, activation):
    """f(h), lane by lane"""
    positive = maximum(0, h)  # in this order NaN stays NaN
    if activation == RELU:
        return positive
    return positive * positive


@inline
def gradient(d, h, activation):
    """d f'(h), lane by lane"""
    if activation == RELU:
        return where(h > 0, d, 0)
    return d * (2 * maximum(h, 0))


@inline
def kept(h, activation):
    """What the backward pass is given of h."""
    return maximum(0, h)


def keeps_value(activation):
    """Whether what is kept is f(h), so that it need not be stored a second time."""
    return activation == RELU
