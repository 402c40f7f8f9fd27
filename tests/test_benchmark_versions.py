"""`bench --against-python`: two versions in turn, with times that the tests choose where times matter."""

import json
import re
import shutil
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast
from microgpt_fast import backends, cli
from microgpt_fast.benchmark import against, processes, programs, runs, side, timing, versions
from microgpt_fast.config import UsageError

SOURCES = Path(microgpt_fast.__file__).parent.parent


@pytest.fixture
def run(capfdbinary):
    """A function of bench's arguments: exit code, stdout and stderr, without the note about a busy machine."""

    def run(*arguments):
        code = cli.main(["bench", "--seconds", "0.001", *map(str, arguments)])
        out, err = (text.decode() for text in capfdbinary.readouterr())
        return code, out, re.sub(r"microgpt-fast: note: this machine is busy .*\n", "", err)

    return run


class Side:
    """A process that would take as long as the test says: see `sides`."""

    def __init__(self, log, number, hello, seconds):
        self.log, self.number, self.hello, self.seconds = log, number, hello, seconds
        log.append(("start", number))

    def measure(self, seconds):
        self.log.append(("measure", self.number))
        return np.array([next(self.seconds)] * 3)

    def close(self):
        self.log.append(("close", self.number))


@pytest.fixture
def sides(monkeypatch):
    """Two versions whose processes are `Side`s: their log, first lines and seconds can be set by the test."""
    pair = [versions.Version(name, "python", {}) for name in ("this", "other")]
    hello = {"version": "1", "isa": "avx2", "threads": 1, "by_processor": True, "losses": [3.0, 2.0, 1.0]}
    control = Namespace(
        log=[],
        pair=pair,
        hellos=[{**hello, "package": "/this"}, {**hello, "package": "/other"}],
        seconds=[iter(lambda: 2e-6, 0), iter(lambda: 1e-6, 0)],
    )

    def start(version, request):
        number = pair.index(version)
        return Side(control.log, number, control.hellos[number], control.seconds[number])

    monkeypatch.setattr(versions, "start", start)
    monkeypatch.setattr(versions, "this_version", lambda: pair[0])
    monkeypatch.setattr(versions, "other_version", lambda place: pair[1])
    return control


def test_versions_take_turns(sides):
    times, by_processor = versions.time_job(sides.pair, {"job": "a", "dtype": "float32"}, 1.0)
    assert times.shape == (2, versions.PROCESSES * versions.TURNS) and by_processor
    assert (times[0] == 2e-6).all() and (times[1] == 1e-6).all()
    order = [number for what, number in sides.log if what == "measure"]
    pairs = [order[i : i + 2] for i in range(0, len(order), 2)]
    assert all(sorted(pair) == [0, 1] for pair in pairs) and pairs.count([0, 1]) == pairs.count([1, 0])
    starts = [number for what, number in sides.log if what == "start"]
    assert starts == [0, 1, 1, 0, 0, 1, 1, 0, 0, 1] and sides.log.count(("close", 1)) == versions.PROCESSES


def test_the_ratio_is_the_median_of_pairs():
    then = np.array([1.0, 2.0, 4.0, 8.0, 16.0])  # a machine that becomes slower and slower
    row = versions.row_of("a", np.array([then * [1.1, 1.1, 1.1, 1.2, 0.5], then]), True)
    assert row["ratio"] == pytest.approx(1.1) and row["pairs"] == 5 and row["clock"] == "processor time"
    assert row["ratio_p20"] == pytest.approx(0.98) and row["ratio_p80"] == pytest.approx(1.12)
    assert "(0.980 to 1.120 in 5 pairs)  limit within this spread" in against.line_of(row, 1.02)
    assert "limit within" not in against.line_of(row, 1.2)


def test_two_versions_pass_or_fail(run, sides):
    code, out, err = run("--job", "a", "decode", "--against-python", "x")
    assert (code, err) == (1, "microgpt-fast: slower than before by more than the limit, 1.03: a, decode\n")
    assert out.count("ratio 2.000  (2.000 to 2.000 in 20 pairs)") == 2 and "now: /this\nthen: /other\n" in out
    sides.seconds.reverse()
    code, out, _ = run("--job", "a", "--against-python", "x", "--json")
    report = json.loads(out)
    assert code == 0 and report["rows"][0]["ratio"] == 0.5 and report["packages"]["then"] == "/other"
    sides.seconds.reverse()
    assert run("--job", "a", "--against-python", "x", "--limit", "2")[0] == 0


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"losses": [3.0, 2.0, 1.1]}, "job a in other has other losses, so the times cannot be compared"),
        ({"threads": 2}, "job a in other runs on 2 threads, not 1"),
        ({"isa": None}, "other runs on other instructions: None then, avx2 now"),
    ],
)
def test_versions_that_do_other_work(run, sides, changes, text):
    sides.hellos[1].update(changes)
    code, _, err = run("--job", "a", "--against-python", "x")
    assert (code, err) == (2, f"microgpt-fast: {text}\n")


def test_a_folder_must_hold_what_is_imported(run, sides):
    sides.pair[1] = versions.Version("other", "python", {}, Path("/elsewhere"))
    code, _, err = run("--job", "a", "--against-python", "x")
    assert (code, err) == (2, "microgpt-fast: other imports /other, not what /elsewhere holds\n")


def test_on_one_thread_the_clock_stands_still_while_others_run(monkeypatch):
    monkeypatch.setattr(timing, "perf_counter", wall := timing.perf_counter)  # restored afterwards
    request = {"job": "a", "dtype": "float32", "numerics": "fast", "backend": "numpy"}
    hello, _ = side.prepare(**request, threads=2)
    assert not hello["by_processor"] and timing.perf_counter is wall
    hello, measure = side.prepare(**request, threads=1)
    assert hello["by_processor"] == (timing.perf_counter is time.thread_time)
    assert hello["by_processor"] or time.get_clock_info("thread_time").resolution > side.FINE
    assert hello["threads"] == 1 and len(hello["losses"]) == 3 and min(measure(0.0)) > 0


def test_startup_is_timed_as_whole_processes(sides, monkeypatch, capfd):
    commands = []

    def time_program(name, words, environment):
        commands.append((name, words[-1]))
        return (3.0, 2.0) if name == "this" else (1.0, 4.0)

    monkeypatch.setattr(programs, "time_program", time_program)
    rows = [*versions.compare(["startup"], {}, 1.0, sides.pair)]
    assert [(row["job"], row["ratio"], row["clock"]) for row in rows] == [
        ("startup", 0.5, "processor time"), ("import", 0.5, "processor time")
    ]  # fmt: skip
    assert commands[:4] == [("this", "train"), ("other", "train"), ("other", "train"), ("this", "train")]
    monkeypatch.setattr(programs, "time_program", lambda name, *_: (3.0 if name == "this" else 1.0, np.nan))
    row = next(versions.compare(["startup"], {}, 1.0, sides.pair))
    assert row["ratio"] == 3 and row["clock"] == "wall clock"
    assert capfd.readouterr().err == ""
    sides.pair[1] = versions.Version("other", "another python", {})
    next(versions.compare(["startup"], {}, 1.0, sides.pair))
    assert "note: startup includes what python and another python load at their own" in capfd.readouterr().err


def test_where_the_other_version_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "this version")
    assert versions.this_version().environment["PYTHONPATH"].endswith("this version")
    other = versions.other_version(sys.executable)
    assert other.python == sys.executable and "PYTHONPATH" not in other.environment and other.folder is None
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    assert versions.other_version(str(tmp_path)).python == str(python)
    (tmp_path / "microgpt_fast").mkdir()
    (tmp_path / "microgpt_fast" / "__init__.py").touch()
    other = versions.other_version(str(tmp_path))
    assert other.python == sys.executable and other.environment["PYTHONPATH"] == str(tmp_path) == str(
        other.folder
    )


def test_both_sides_are_processes_that_run_their_version(run, monkeypatch):
    monkeypatch.setattr(versions, "PROCESSES", 1)
    monkeypatch.setattr(versions, "TURNS", 1)
    code, out, err = run("--job", "a", "decode", "--against-python", SOURCES, "--limit", "1e9")
    assert code == 0 and out.count(" in 1 pairs") == 2
    assert err == f"microgpt-fast: note: both versions are {SOURCES / 'microgpt_fast'}: " + (
        "the ratios show how much this machine varies\n"
    )


@pytest.mark.parametrize(
    "init, text",
    [
        ("1 / 0", "{path}: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "{path} ended with exit code 3"),
        ("print('hello')\nraise SystemExit", "{path} wrote 'hello\\n', not an answer to the bench"),
        ("import sys\nsys.exit('a\\nb')", "{path} ended with exit code 1: b"),
        ("print({})\nraise SystemExit", "{path} wrote {{}}, not which version it is"),
    ],
)
def test_another_version_that_fails_is_one_line(run, tmp_path, init, text):
    (tmp_path / "microgpt_fast").mkdir()
    (tmp_path / "microgpt_fast" / "__init__.py").write_text(init)
    code, out, err = run("--job", "a", "--against-python", tmp_path)
    assert (code, out, err) == (2, "", f"microgpt-fast: {text.format(path=tmp_path)}\n")


def test_an_interpreter_without_the_package(run, tmp_path):
    isolated = tmp_path / "python"
    isolated.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    isolated.chmod(0o755)
    code, _, err = run("--job", "a", "--against-python", isolated)
    assert (code, err) == (
        2,
        f"microgpt-fast: {isolated}: ModuleNotFoundError: No module named 'microgpt_fast'\n",
    )
    if echo := shutil.which("echo"):
        code, _, err = run("--job", "a", "--against-python", echo)
        assert code == 2 and err.startswith(f"microgpt-fast: {echo} wrote '-P ") and err.count("\n") == 1


def test_a_version_without_a_job(monkeypatch):
    monkeypatch.setattr(versions, "this_version", lambda: None)
    settings = runs.Bench(backends.load(), "float32", "fast", 1, 1.0).settings()
    version = versions.other_version(str(SOURCES))
    with pytest.raises(UsageError, match="this version has no job 'new'"):
        versions.start(version, {"job": "new", **settings})


@pytest.mark.parametrize(
    "answer", ['{"seconds": []}', '{"seconds": [NaN]}', '{"seconds": [-1.0]}', '{"seconds": "x"}']
)
def test_times_that_are_none(answer):
    program = f"import sys\nprint('{{}}', flush=True)\nfor line in sys.stdin: print({answer!r}, flush=True)"
    side = processes.TimedProcess("it", [sys.executable, "-c", program], None)
    try:
        with pytest.raises(UsageError, match="it answered {'seconds': .*}, not its seconds per step"):
            side.measure(0.1)
    finally:
        side.close()
