"""The programs in examples/ build against the installed package, away from the source tree, and run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import microgpt_fast
from microgpt_fast import backends

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parent.parent
IGNORED = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "cython_backend.c"
)


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The environment of a process that imports an installed package, if need be from a wheel."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler, cc")
    if Path(microgpt_fast.__file__).parent.parent != ROOT:
        try:
            backends.load("cython")
        except backends.BackendError as error:
            pytest.skip(str(error))
        return dict(os.environ)
    pytest.importorskip("Cython")
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(ROOT, folder / "source", ignore=IGNORED)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source], folder)
    [wheel] = folder.glob("*.whl")
    run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], folder)
    return {**os.environ, "PYTHONPATH": str(folder / "site")}


def run(command, folder, env=None):
    """Standard output of a command, which must succeed."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def example(name, tmp_path):
    return shutil.copytree(ROOT / "examples" / name, tmp_path / name)


def test_the_package_is_not_that_of_the_source_tree(installed, tmp_path):
    path = run(
        [sys.executable, "-c", "import microgpt_fast; print(microgpt_fast.__file__)"], tmp_path, installed
    )
    assert Path(path.strip()).parent != ROOT / "microgpt_fast"


def test_cython(installed, tmp_path):
    pytest.importorskip("Cython")
    folder = example("cython_kernels", tmp_path)
    run([sys.executable, "setup.py", "build_ext", "--inplace"], folder, installed)
    assert run([sys.executable, "check.py"], folder, installed) == "equal\n"


def test_c_extension(installed, tmp_path):
    folder = example("c_extension", tmp_path)
    run([sys.executable, "setup.py", "build_ext", "--inplace"], folder, installed)
    assert run([sys.executable, "check.py"], folder, installed) == "target 2 is neither 0 nor 1\n"


def test_c_extension_of_another_abi_is_refused(installed, tmp_path):
    folder = example("c_extension", tmp_path)
    source = (folder / "consumer.c").read_text()
    header = Path(microgpt_fast.get_include(), "microgpt_fast.h").read_text()
    assert "<microgpt_fast.h>" in source and "#define MGF_ABI_VERSION 4\n" in header
    (folder / "other.h").write_text(
        header.replace("#define MGF_ABI_VERSION 4\n", "#define MGF_ABI_VERSION 999\n")
    )
    (folder / "consumer.c").write_text(source.replace("<microgpt_fast.h>", '"other.h"'))
    run([sys.executable, "setup.py", "build_ext", "--inplace"], folder, installed)
    done = subprocess.run(
        [sys.executable, "-c", "import consumer"], cwd=folder, env=installed, capture_output=True, text=True
    )
    assert "ImportError: compiled for ABI 999 of microgpt_fast, the installed one has ABI 4" in done.stderr


def test_plain_c(installed, tmp_path):
    if shutil.which("make") is None:
        pytest.skip("needs make")
    folder = example("plain_c", tmp_path)
    ask = "import microgpt_fast as mg; print(f'CSRC={mg.get_sources()}\\nINCLUDE={mg.get_include()}')"
    folders = run([sys.executable, "-c", ask], tmp_path, installed).splitlines()
    assert str(ROOT / "csrc") not in folders[0]
    run(["make", *folders], folder)
    losses, sentence = run([folder / "train"], folder).splitlines()
    assert losses.startswith("loss 3.") and losses.endswith("then 0.00")
    assert sentence == "thequickbrownfoxjumpsoverthelazydog"


def test_numba_and_its_cache_in_a_second_process(installed, tmp_path):
    pytest.importorskip("numba")
    folder = example("numba_kernels", tmp_path)
    first, second = (run([sys.executable, "user.py"], folder, installed) for _ in range(2))
    assert first == "compiled 2, from the cache 0\n"
    assert second == "compiled 0, from the cache 2\n"
