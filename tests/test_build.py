"""What a build compiles: every unit once, again only after a change of what it is made from."""

import os
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("setuptools")
from setuptools.errors import CompileError

from microgpt_fast.native import build

DISPATCH = Path(__file__).parent.parent / "csrc" / "dispatch.c"


def test_a_build_of_one_instruction_set_has_the_units_of_the_full_one():
    """The same flags, hence the same bits."""
    full = list(build.core_units())
    for isa in build.FEATURES:
        *units, dispatch = build.core_units([isa])
        assert all(unit in full for unit in units)
        kernels = build.kernels_of(isa)
        assert dispatch.source == "csrc/dispatch.c"
        assert dispatch.macros == [("MGF_ISAS(X)", f"X({isa}, {kernels})")]
        assert [(unit.source, unit.folder) for unit in units if unit.folder != "common"] == [
            ("csrc/narrow.c", f"{kernels}_f64"),
            ("csrc/variant.c", f"{kernels}_f64"),
            ("csrc/narrow.c", f"{kernels}_f32"),
            ("csrc/variant.c", f"{kernels}_f32"),
            ("csrc/mixed.c", f"{isa}_mixed"),
            ("csrc/exact.c", f"{kernels}_exact"),
        ]
        assert len(units) == 8


@pytest.mark.skipif("avx2" not in build.FEATURES, reason="needs an x86-64 processor")
def test_the_build_and_the_dispatcher_name_the_same_instruction_sets_and_features():
    text = DISPATCH.read_text()
    [isas] = re.findall(r"#define MGF_ISAS\(X\) (X\(baseline, baseline\) X.*)", text)
    assert re.findall(r"X\((\w+), (\w+)\)", isas) == [(isa, build.kernels_of(isa)) for isa in build.FEATURES]
    features = re.findall(r'X\(\d, "([\w.]+)"\)', text)
    for isa, count in re.findall(r"(\w+)_features = (\d)", text):
        assert set(build.FEATURES[isa]) <= set(features[: int(count)])


@pytest.fixture
def compile_again(tmp_path, monkeypatch):
    """A function that compiles a unit made from unit.c, used.h and below/deep.h, and tells whether it had to."""
    from setuptools.command.build_ext import build_ext
    from setuptools.dist import Distribution

    command = build_ext(Distribution())
    command.ensure_finalized()
    command.extensions = []
    command.setup_shlib_compiler()
    compiler = command.shlib_compiler
    if compiler.compiler_type != "unix" or shutil.which(compiler.compiler[0]) is None:
        pytest.skip("needs a C compiler")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    texts = {
        "unit.c": '#include "used.h"\nint f(void) { return USED; }',
        "used.h": '#include "below/deep.h"\n#define USED DEEP',
        "below/deep.h": "#define DEEP 1",
        "unused.h": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (1, 1))

    def run(**changes):
        unit = build.Unit("unit.c", "objects")._replace(**changes)
        target = tmp_path / build.compile_unit(compiler, unit, "made", ["-w"])
        is_new = target.stat().st_mtime_ns != 2
        os.utime(target, ns=(2, 2))
        return is_new

    return run


@pytest.mark.parametrize("name", ["unit.c", "used.h", "below/deep.h"])
def test_a_touched_source_is_compiled_again_once(compile_again, name):
    assert [compile_again(), compile_again()] == [True, False]
    os.utime(name)
    assert [compile_again(), compile_again()] == [True, False]


def test_what_a_unit_does_not_include_does_not_matter(compile_again):
    compile_again()
    os.utime("unused.h")
    assert not compile_again()


def test_other_flags_macros_or_a_lost_file_compile_again(compile_again):
    compile_again()
    assert [compile_again(flags=["-O1"]), compile_again(flags=["-O1"]), compile_again()] == [
        True,
        False,
        True,
    ]
    assert [compile_again(macros=[("X", "1")]), compile_again(macros=[("X", "2")])] == [True, True]
    for suffix in ("o", "d", "stamp"):
        Path(f"made/objects/unit.{suffix}").unlink()
        assert [compile_again(macros=[("X", "2")]), compile_again(macros=[("X", "2")])] == [True, False], (
            suffix
        )


def test_after_a_failure_it_is_compiled_again_though_the_old_object_is_there(compile_again):
    compile_again()
    Path("used.h").write_text("#error broken")
    for _ in range(2):
        with pytest.raises(CompileError):
            compile_again()
    Path("used.h").write_text("#define USED 2")
    os.utime("used.h", (1, 1))  # older than the failed compilation
    assert [compile_again(), compile_again()] == [True, False]


def test_names_with_spaces_and_long_lists(tmp_path):
    (tmp_path / "a.d").write_text("a.o: a.c /usr/my\\ headers/b.h \\\n c.h \\\n  d.h\n")
    assert [str(path) for path in build.made_from(tmp_path / "a.d")] == [
        "a.c",
        "/usr/my headers/b.h",
        "c.h",
        "d.h",
    ]
