"""Value and slope of every activation, in NumPy."""

import numpy as np


def sigmoid(z):
    """1 / (1 + e^-z), by exponentials that are at most 1"""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def _gated(z, slope_of_z):
    """Value and slope of f(h) = h sigmoid(z(h))."""

    def slope(h):
        s = sigmoid(z(h))
        return s + h * (s * (1 - s)) * slope_of_z(h)

    return lambda h: h * sigmoid(z(h)), slope


GELU_SCALE = 2 * (2 / np.pi) ** 0.5


def _gelu_gate(h):
    # z of gelu's tanh form, h (1 + tanh(z / 2)) / 2; beyond 30 its sigmoid is 0 or 1, and the cube could overflow
    x = np.clip(h, -30, 30)
    return GELU_SCALE * (x + 0.044715 * x * x * x)


def _gelu_gate_slope(h):
    return GELU_SCALE * (1 + 3 * 0.044715 * np.clip(h, -30, 30) ** 2)


# value f(h) and slope f'(h); an activation's code is its place here and in config.ACTIVATIONS
ACTIVATIONS = {
    "relu": (lambda h: np.maximum(h, 0), lambda h: h > 0),
    "relu2": (lambda h: np.maximum(h, 0) ** 2, lambda h: 2 * np.maximum(h, 0)),
    "gelu": _gated(_gelu_gate, _gelu_gate_slope),
    "silu": _gated(lambda h: h, lambda h: 1),
}
BY_CODE = tuple(ACTIVATIONS.values())
