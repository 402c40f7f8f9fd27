"""The coefficients of the vector exponentials: one list in C and Numba, as fitted, and as good as is said."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))
import fit_exp  # noqa: E402

ERRORS = {np.float32: 1.1e-8, np.float64: 1.7e-17}


def in_c():
    """The coefficients of both dtypes in the C sources."""
    text = (ROOT / "csrc" / "base" / "simd.h").read_text()
    lists = re.findall(r"EXP_COEFFICIENTS\[\] = \{([^}]*)\}", text)
    return {dtype: [dtype(number.strip().rstrip("f")) for number in numbers.split(",")]
            for dtype, numbers in zip((np.float32, np.float64), lists, strict=True)}  # fmt: skip


@pytest.mark.parametrize("dtype", ERRORS, ids=lambda dtype: dtype.__name__)
def test_c_has_the_fitted_coefficients(dtype):
    coefficients, fitted = in_c()[dtype], fit_exp.fit(fit_exp.DEGREES[dtype])
    assert len(coefficients) == len(fitted)
    for coefficient, exact in zip(coefficients, fitted):
        assert abs(float(coefficient) - float(exact)) <= 2 * np.spacing(coefficient)
    assert ERRORS[dtype] / 2 < fit_exp.relative_error(coefficients) <= ERRORS[dtype]


def test_a_wrong_digit_shows():
    coefficients = in_c()[np.float64]
    coefficients[5] *= 1 + 1e-9
    assert fit_exp.relative_error(coefficients) > 1e-14


def test_numba_has_those_of_c():
    pytest.importorskip("numba")
    from numba.core import types

    from microgpt_fast.backends.numba_simd.arithmetic import _CONSTANTS

    for dtype, numba_type in ((np.float32, types.float32), (np.float64, types.float64)):
        coefficients = _CONSTANTS[numba_type][5]
        assert [dtype(coefficient) for coefficient in coefficients] == in_c()[dtype]
