"""What docs/kernels.md says is so."""

import doctest
import re
from pathlib import Path

import pytest

from microgpt_fast import backends
from microgpt_fast.checking.cases import CASES

KERNELS = Path(__file__).parent.parent / "docs" / "kernels.md"


def test_examples_run():
    pytest.importorskip("numba")
    try:
        backends.load("cython")
    except backends.BackendError as error:
        pytest.skip(str(error))
    blocks = re.findall(r"^```python\n(.*?)^```$", KERNELS.read_text(), re.DOTALL | re.MULTILINE)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, KERNELS.name, str(KERNELS), 0)
    report = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.failed == 0, "".join(report)
    assert result.attempted > 40


def test_bounds_are_those_of_the_cases():
    rows = re.findall(r"`(\w+)` \| (\d+) \|", KERNELS.read_text())
    assert {name: int(bound) for name, bound in rows} == {name: case.bound for name, case in CASES.items()}


def test_every_kernel_has_an_example():
    text = "".join(re.findall(r"^```python\n(.*?)^```$", KERNELS.read_text(), re.DOTALL | re.MULTILINE))
    assert [name for name in CASES if f"ops.{name}" not in text] == ["gemm_nn", "gemm_nt"]  # as gemm_tn
