"""Calls of the system that fail while files are written: a clear error or success, nothing lost, old files whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import USES, build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, whose loader puts the shim first"),
]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function of code or arguments: what Python says with the shim loaded."""
    try:
        shim = build(tmp_path_factory.mktemp("shim"))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a C compiler")

    def run(*arguments):
        environment = {
            **os.environ,
            "LD_PRELOAD": str(shim),
            "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)]),
        }
        command = [
            sys.executable,
            "-P",
            *map(str, arguments),
        ]  # the installed package, not the sources beside
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize("count", [50, pytest.param(400, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("use", USES)
def test_nothing_is_lost(run, use, count):
    output = run("-m", "tests.faults", "--use", use, "--faults", count)
    assert f"{use}: {count} faults in" in output and output.endswith(" 0 failed\n"), output


def test_a_file_that_is_not_replaced_at_once_is_found(run):
    output = run(
        "-c",
        """
from tests import faults
from microgpt_fast.training import checkpoint

def replace_file(path, content):
    with open(path, "wb") as file:
        file.write(content)

checkpoint.replace_file = replace_file
print("failures:", len(faults.try_faults("save", 0, 50)[2]))
""",
    )
    assert output.startswith("failures: ") and output != "failures: 0\n", output
