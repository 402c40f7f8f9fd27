"""What the documents say is so: the kernels' examples and bounds, the floors, the names of files."""

import doctest
import re
from pathlib import Path

import pytest
from test_architecture import FLOORS

from microgpt_fast import backends
from microgpt_fast.checking.cases import CASES

ROOT = Path(__file__).parent.parent
KERNELS = ROOT / "docs" / "kernels.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.slow
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


def test_floors_are_those_that_imports_are_held_to():
    rows = re.findall(r"^\| \d+ \| (.+?) \|", ARCHITECTURE.read_text(encoding="utf-8"), re.MULTILINE)
    documented = [
        {name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`(.+?)`", row)} for row in rows
    ]
    assert documented == [set(floor) for floor in FLOORS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document):
    folders = "bench|csrc|examples|microgpt_fast|tests"
    names = re.findall(rf"(?<![\w./-])(?:{folders})/[\w./-]*\w", document.read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / name).exists()] == []
