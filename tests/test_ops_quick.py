"""The compiled backend's own checks in front of ops: taken by plain arrays, with the bits of the long way."""

import numpy as np
import pytest
from test_kernels import DTYPES, EVERY_CASE, label
from test_ops import call_ops

from microgpt_fast import ops
from microgpt_fast.checking.cases import CASES
from microgpt_fast.ops._call import ARGUMENTS, quick_calls


@EVERY_CASE
@pytest.mark.parametrize("dtype", DTYPES, ids=label)
def test_the_short_way_has_the_bits_of_the_long_one(kernel, size, dtype, monkeypatch):
    """Plain arrays take the compiled backend's own checks; a case whose arrays are views or empty does not."""
    pytest.importorskip("microgpt_fast.backends.cython_backend")
    quick, seen = quick_calls("cython"), []
    arguments = CASES[kernel].arguments(dtype, seed=7, **size)
    plain = all(
        a.flags.c_contiguous and a.size
        for name, a in arguments.items()
        if isinstance(a, np.ndarray) and name in [b.name for b in sum(ARGUMENTS[kernel], [])]
    )

    def watched(*call):
        seen.append(quick[kernel](*call))
        return seen[-1]

    for module in (ops._call, ops.adam):
        monkeypatch.setattr(module, "quick_calls", lambda backend: {kernel: watched})
    short = call_ops(kernel, arguments, "cython")
    assert (seen[0] is not NotImplemented) == plain
    for module in (ops._call, ops.adam):
        monkeypatch.setattr(module, "quick_calls", lambda backend: {})
    long = call_ops(kernel, CASES[kernel].arguments(dtype, seed=7, **size), "cython")
    for name, result in short.items():
        assert (result is None) == (long[name] is None)
        assert result is None or np.array_equal(result, long[name], equal_nan=True)
