"""Checks the extension module that setup.py built, in both dtypes, on a read-only input."""

import numpy as np
from consumer import norm_and_project

rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    x, w = rng.standard_normal((5, 20)).astype(dtype), rng.standard_normal((7, 20)).astype(dtype)
    x.flags.writeable = False
    expected = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5) @ w.T
    assert np.allclose(norm_and_project(x, w), expected, atol=1e-5)
print("equal")
