"""The activations of the feed-forward layers, for jitted code: their values, their slopes, and what is kept of h.

What `kept` gives takes h's place in the backward pass, and for value and gradient it is as good as h: either
max(h, 0), or h itself where the slope below 0 is not 0. Here alone is decided what a code computes; codes are
places in config.ACTIVATIONS.

|       | value f(h)   | gradient d f'(h)               | kept      |
|-------|--------------|--------------------------------|-----------|
| relu  | max(h, 0)    | d [h > 0]                      | max(h, 0) |
| relu2 | max(h, 0)^2  | d 2 max(h, 0)                  | max(h, 0) |
| gelu  | h sigmoid(z) | d (s + h s (1 - s) z'),        | h         |
| silu  | h sigmoid(z) | with s = sigmoid(z)            | h         |

For silu z = h. For gelu z = 2 sqrt(2 / pi) (h + 0.044715 h^3), which makes f(h) the tanh form
h (1 + tanh(z / 2)) / 2 (Hendrycks and Gimpel 2016, arXiv:1606.08415; PyTorch's approximate="tanh").
"""

import math

from .numba_compile import inline
from .numba_simd import exp, maximum, where

NAMES = ("relu", "relu2", "gelu", "silu")
RELU, RELU2, GELU, SILU = range(len(NAMES))
GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR


@inline
def _sigmoid(z):
    """1 / (1 + e^-z), by exponentials that are at most 1; NaN stays NaN."""
    e = exp(where(z < 0, z, 0 - z))
    return where(z < 0, e, 1) / (1 + e)


@inline
def _within_30(h):
    """h, at most 30 from 0: farther out gelu's sigmoid is 0 or 1, and the cube would overflow. NaN stays NaN."""
    return 0 - maximum(-30, 0 - maximum(-30, h))


@inline
def _gate(h, activation):
    """z, where f(h) = h sigmoid(z)"""
    if activation == GELU:
        x = _within_30(h)
        return x * (GELU_LINEAR + GELU_CUBIC * (x * x))
    return h


@inline
def _gated_gradient(d, h, activation):
    s = _sigmoid(_gate(h, activation))
    if activation == GELU:
        x = _within_30(h)
        return d * (s + h * (s * (1 - s)) * (GELU_LINEAR + 3 * GELU_CUBIC * (x * x)))
    return d * (s + h * (s * (1 - s)))


@inline
def value(h, activation):
    """f(h), lane by lane"""
    if activation == RELU:
        return maximum(0, h)  # in this order NaN stays NaN
    if activation == RELU2:
        return maximum(0, h) * maximum(0, h)
    return h * _sigmoid(_gate(h, activation))


@inline
def gradient(d, h, activation):
    """d f'(h), lane by lane"""
    if activation == RELU:
        return where(h > 0, d, d * 0)  # NaN times 0 is NaN
    if activation == RELU2:
        return d * (2 * maximum(0, h))
    return _gated_gradient(d, h, activation)


@inline
def kept(h, activation):
    """What the backward pass is given of h."""
    if activation == RELU or activation == RELU2:
        return maximum(0, h)
    return h


def keeps_value(activation):
    """Whether what is kept is f(h), so that it need not be stored a second time."""
    return activation == RELU
