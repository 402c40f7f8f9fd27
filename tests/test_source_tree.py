"""Python started in a clone imports its sources: where they are not compiled, messages say so, and what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
COMPILED = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
USES = {
    "from microgpt_fast import backends; backends.load()": "using the slower",
    "import microgpt_fast; microgpt_fast.c_api": "ImportError: backend 'cython' is not installed:",
    "import microgpt_fast.numba_kernels": "BackendError: backend 'cython' is not installed:",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with the sources of the package, not compiled."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "microgpt_fast", folder / "microgpt_fast", ignore=COMPILED)
    (folder / "setup.py").touch()
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with another copy, as pip would leave it."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "microgpt_fast", folder / "microgpt_fast", ignore=COMPILED)
    return folder


def last_line(code, folder, *path, options=()):
    """What Python, started in a folder, says last on stderr."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("use", USES)
def test_the_sources_are_named(clone, installed, use):
    line = last_line(use, clone, installed)
    assert USES[use] in line
    assert (
        f"Python imports the sources in {clone}, which are not compiled, and not the package installed in "
        f"{installed}: start it in another folder, or as python -P" in line
    )
    assert str(clone) not in last_line(use, clone, installed, options=["-P"])


def test_sources_alone_are_to_be_compiled(clone):
    line = last_line("import microgpt_fast; microgpt_fast.c_api", clone, options=["-S"])  # nothing installed
    assert f"these are the sources in {clone}, which are not compiled: pip install -e {clone}" in line


def test_an_installation_without_a_compiler_is_called_so(installed, tmp_path):
    [use, *_] = USES
    assert "the package was installed without a C compiler" in last_line(use, tmp_path, installed)
