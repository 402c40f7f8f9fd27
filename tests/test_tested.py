"""A run of the tests says what it tests, and does not leave half of it out without a word."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tested

from microgpt_fast import backends

ROOT = Path(__file__).parent.parent
QUICK_FILE = "tests/test_schedule.py"
# Plugins that take something away before the tests are looked at.
WITHOUT = {
    "cython": 'import sys\nsys.modules["microgpt_fast.backends.cython_backend"] = None',
    "numba": 'import sys\nsys.modules["numba"] = None',
}


def a_compiled_backend(isas, features):
    return SimpleNamespace(isas=lambda: isas, cpu_features=lambda: features)


@pytest.fixture
def machine(monkeypatch):
    """A function that gives this machine other backends, instruction sets and features."""

    def set_up(reasons=None, isas=("baseline",), features=()):
        found = dict.fromkeys(backends.BACKENDS, "ok") | (reasons or {})
        monkeypatch.setattr(backends, "describe", lambda: {"backends": found})
        monkeypatch.setattr(backends, "load", lambda name: a_compiled_backend(list(isas), list(features)))
        monkeypatch.setattr(tested.build, "FEATURES", {"baseline": [], "avx2": ["avx2", "fma"]})

    return set_up


def test_what_is_missing_is_refused_unless_it_is_allowed(machine):
    machine({"numba": "no llvmlite"})
    assert "  numba: no llvmlite\n" in tested.refusal([])
    assert tested.refusal([]).endswith("--allow-missing=numba")
    assert tested.refusal(["numba"]) is None
    machine()
    assert tested.refusal([]) is None
    assert tested.refusal(["sse"]).startswith(
        "--allow-missing=sse: choose from cython, numba, numpy, baseline, avx2"
    )


def test_an_instruction_set_of_this_processor_must_be_compiled_one_of_others_need_not(machine):
    machine(features=["avx2"])
    assert tested.missing() == {}
    machine(features=["avx2", "fma"])
    assert list(tested.missing()) == ["avx2"]
    assert tested.refusal(["avx2"]) is None
    machine(isas=("avx2",), features=["avx2", "fma"])
    assert list(tested.missing()) == ["baseline"]


def test_without_the_compiled_backend_its_instruction_sets_are_not_asked_for(machine):
    machine({"cython": "no compiler"}, features=["avx2", "fma"])
    assert list(tested.missing()) == ["cython"]


def test_the_summary_names_what_is_left_out(monkeypatch, machine):
    machine({"numba": "no llvmlite"})
    monkeypatch.setattr(tested, "variants", lambda: [("numpy", None, None), ("cython", None, "baseline")])
    assert tested.summary().endswith(
        ": numpy, cython (baseline); not tested: numba, avx2 (not on this processor)"
    )


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a compiled backend; tested.py looks at it."""
    for name in ("csrc/base/tile.h", "csrc/variant.c", "microgpt_fast/include/a.h", "microgpt_fast/config.py",
                 "microgpt_fast/backends/cython_backend.x86.so"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (100, 100))
    monkeypatch.setattr(tested, "ROOT", tmp_path)
    monkeypatch.setattr(tested, "PACKAGE", tmp_path / "microgpt_fast")
    return tmp_path


def test_an_extension_older_than_its_sources_is_told(checkout):
    assert tested.outdated() is None
    os.utime(checkout / "csrc/base/tile.h", (101, 101))
    assert tested.outdated().startswith(
        "the compiled backend is older than csrc/base/tile.h: python setup.py"
    )
    os.utime(checkout / "microgpt_fast/include/a.h", (101, 101))
    assert "csrc/base/tile.h and 1 more" in tested.outdated()
    os.utime(checkout / "microgpt_fast/config.py", (101, 101))  # not compiled
    assert "csrc/base/tile.h and 1 more" in tested.outdated()
    (checkout / "microgpt_fast/backends/cython_backend.x86.so").unlink()
    assert tested.outdated() is None


def test_an_installed_package_of_other_sources_is_told(checkout, monkeypatch):
    site = checkout / "site"
    for path in [*checkout.glob("csrc/**/*.*"), *checkout.glob("microgpt_fast/**/*.*")]:
        name = path.relative_to(checkout)
        copy = site / "microgpt_fast" / name if name.parts[0] == "csrc" else site / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    monkeypatch.setattr(tested, "PACKAGE", site / "microgpt_fast")
    assert tested.outdated() is None
    (checkout / "csrc/variant.c").write_text("changed")
    assert tested.outdated() == "the installed package was not made from csrc/variant.c: install it again"
    (checkout / "microgpt_fast/config.py").write_text("changed")
    assert "csrc/variant.c and 1 more" in tested.outdated()


def run(folder, plugin, *options):
    """Output and exit status of a run of the tests with a plugin."""
    (folder / "without.py").write_text(WITHOUT.get(plugin, ""))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-P", "-m", "pytest", "-p", "without", *options]  # -P: what is installed
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr, done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("missing", WITHOUT)
def test_a_run_without_a_backend_fails_and_says_why(tmp_path, missing):
    output, status = run(tmp_path, missing, "-n1", QUICK_FILE)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "part of what this machine can test is missing" in output and f"\n  {missing}: " in output
    output, status = run(tmp_path, missing, f"--allow-missing={missing}", "-n0", QUICK_FILE)
    assert status == 0 and f"not tested: {missing}" in output


@pytest.mark.slow
@pytest.mark.parametrize("options", [["-n1"], ["-n0", "-qq"], ["-n1", "-v"]])
def test_what_is_tested_is_always_shown(tmp_path, options):
    output, status = run(tmp_path, None, *options, QUICK_FILE)
    assert status == 0
    assert output.count(tested.summary()) == 1 and "\ntests: all\n" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, quick, slow, thorough",
    [
        (["-m", "quick"], True, False, False),
        (["tests"], True, True, False),
        (["tests", "--all"], True, True, True),
        (["-m", "thorough"], False, False, True),
        (["tests/test_mutations.py"], False, False, True),
    ],
)
def test_tiers(tmp_path, options, quick, slow, thorough):
    others = [f"--ignore-glob=*/test_{letter}*" for letter in "abcdefghijklnoqrtuvwxyz"]  # sooner
    output, _ = run(tmp_path, None, "-n0", "--collect-only", *others, *options)
    found = [f"tests/test_{name}.py::" in output for name in ("schedule", "properties", "mutations")]
    assert found == [quick, slow, thorough]
