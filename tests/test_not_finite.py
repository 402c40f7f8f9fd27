"""NaN and infinity: every kernel gives what its formula gives over the terms that belong to a row, in every backend."""

import zlib

import numpy as np
import pytest
from test_kernels import DTYPES, EVERY_CASE, label

from microgpt_fast.backends import numpy_backend as twin
from microgpt_fast.checking.cases import CASES

pytestmark = pytest.mark.slow

VALUES = [np.nan, np.inf, -np.inf]


def inputs_of(kernel, arguments):
    """The arrays of floats that a kernel reads, those that it adds to included."""
    for name, array in arguments.items():
        if getattr(array, "dtype", None) in DTYPES and np.isfinite(array).any():
            yield name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@EVERY_CASE
@pytest.mark.parametrize("dtype", DTYPES, ids=label)
def test_not_finite_where_the_twin_is(backend, kernel, size, dtype):
    case = CASES[kernel]
    rng = np.random.default_rng(zlib.crc32(repr((kernel, size)).encode()))
    for name in inputs_of(kernel, case.arguments(dtype, seed=1, **size)):
        for value in VALUES:
            arguments, wanted = (case.arguments(dtype, seed=1, **size) for _ in range(2))
            place = rng.choice(np.flatnonzero(np.isfinite(arguments[name]).ravel()))
            for planted in (arguments, wanted):
                planted[name][np.unravel_index(place, planted[name].shape)] = value
            case.run(backend, arguments)
            case.run(twin, wanted)
            for output in case.outputs:
                if wanted[output] is not None:
                    where = f"{output} where {name} has {value} at {place}"
                    got, finite = arguments[output], np.isfinite(wanted[output])
                    np.testing.assert_array_equal(np.isfinite(got), finite, where)
                    error = {"float32": 64 * 2**-23, "float64": 1e-12}[np.dtype(dtype).name]
                    error *= np.abs(wanted[output][finite]).max(initial=0)
                    np.testing.assert_allclose(got[finite], wanted[output][finite], 0, error, err_msg=where)
