"""`bench --save` and `--against`, with times that the tests choose."""

import json
import os
import re
from argparse import Namespace

import numpy as np
import pytest

from microgpt_fast import backends, cli
from microgpt_fast.benchmark import against, jobs, report, saved
from microgpt_fast.cli.commands import bench as command
from microgpt_fast.config import UsageError

US = 100.0  # the time of every job, unless a test says otherwise


@pytest.fixture
def run(capfdbinary):
    """A function of bench's arguments: exit code, stdout and stderr, without the note about a busy machine."""

    def run(*arguments):
        code = cli.main(["bench", "--seconds", "0.001", *map(str, arguments)])
        out, err = (text.decode() for text in capfdbinary.readouterr())
        return code, out, re.sub(r"microgpt-fast: note: this machine is busy .*\n", "", err)

    return run


def result_of(job, us, cpu_us=None):
    """A result of the bench as it would be after calls of these times."""
    if job == "startup":
        times = {f"{end}seconds{p}": us * 1e-6 for end in ("", "import_") for p in ("", "_p20", "_p80")}
        cpu = None if cpu_us is None else cpu_us * 1e-6
        return {
            "job": job,
            **times,
            "cpu_seconds": cpu,
            "import_cpu_seconds": cpu,
            "numpy_seconds": 1,
            "ratio_to_numpy": 1,
        }
    how = {"who": "microgpt-fast", "backend": "cython", "isa": None, "dtype": "float32", "numerics": "fast"}
    times = {"us_per_step": us, "us_p20": us, "us_p80": us, "cpu_us_per_step": cpu_us}
    return {"job": job, **how, "threads": 1, **times}


@pytest.fixture
def now(monkeypatch):
    """A dict: what each job is to take from here on, as (microseconds, processor time or None)."""
    times = dict.fromkeys(jobs.NAMES, (US, None))

    def measure(bench, names, *others):
        return [result_of(name, *times[name]) for name in names]

    monkeypatch.setattr(report, "measure", measure)
    return times


@pytest.fixture
def path(run, now, tmp_path):
    """A saved run."""
    path = tmp_path / "before.json"
    code, _, err = run("--job", "a", "b", "startup", "--save", path)
    assert (code, err) == (0, "")
    return path


def change(path, change):
    """Change the content of a saved run by a function of it."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_saved_run_may_lie_in_the_folder_at_hand(run, now, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--job", "a", "--save", "x.json")[0] == 0 and saved.read("x.json")


def test_a_saved_run_says_how_it_came_about(path):
    content = json.loads(path.read_text())
    assert content == saved.read(path)
    assert content["jobs"].keys() == {"a", "b", "startup", "import"}
    environment = content["environment"]
    assert {
        "date",
        "system",
        "machine",
        "cpus",
        "load",
        "python",
        "numpy",
        "microgpt_fast",
    } <= environment.keys()
    assert environment["numpy"] == np.__version__ and environment["cpus"] == os.cpu_count()
    module = backends.load()
    settings = {"dtype": "float32", "numerics": "fast", "backend": backends.name_of(module), "threads": 1}
    assert settings.items() <= content["settings"].items()


def test_ratios_and_the_exit_code(run, now, path):
    now["a"], now["b"] = (109, None), (50, None)
    code, out, err = run("--job", "a", "b", "startup", "--against", path)
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if "ratio" in line]
    assert [(line.split()[0], line.split()[-1]) for line in lines] == [
        ("a", "1.090"), ("b", "0.500"), ("startup", "1.000"), ("import", "1.000")
    ]  # fmt: skip
    code, out, err = run("--job", "a", "b", "--against", path, "--limit", "1.08")
    assert (code, err) == (1, "microgpt-fast: slower than before by more than the limit, 1.08: a\n")
    now["b"] = 116, None
    code, _, err = run("--job", "a", "b", "--against", path)
    assert (code, err) == (1, "microgpt-fast: slower than before by more than the limit, 1.15: b\n")
    code, _, err = run("--job", "b", "a", "--against", path, "--limit", "0.9")
    assert code == 1 and err.endswith("limit, 0.9: b, a\n")


def test_processor_times_are_compared_where_both_runs_have_them(run, now, path):
    def row():
        code, out, _ = run("--job", "a", "--against", path, "--json")
        [row] = json.loads(out)["against"]["rows"]
        return code, row["clock"], row["us"], row["then_us"], row["ratio"]

    now["a"] = 300.0, 90.0
    assert row() == (1, "wall clock", 300, US, 3)
    change(path, lambda content: content["jobs"]["a"].update(cpu_us=60.0))
    assert row() == (1, "processor time", 90, 60, 1.5)
    now["a"] = 30.0, None
    assert row() == (0, "wall clock", 30, US, 0.3)


def test_json_holds_the_comparison(run, now, path):
    code, out, _ = run("--job", "a", "b", "--against", path, "--json", "--limit", "0.5")
    then = json.loads(out)["against"]
    assert code == 1 and then["limit"] == 0.5 and [row["job"] for row in then["rows"]] == ["a", "b"]
    assert then["environment"] == json.loads(path.read_text())["environment"]


def test_a_run_can_replace_the_one_it_is_compared_with(run, now, path):
    now["a"] = 200, None
    code, out, _ = run("--job", "a", "--against", path, "--save", path)
    assert code == 1 and "ratio 2.000" in out and saved.read(path)["jobs"].keys() == {"a"}
    assert run("--job", "a", "--against", path)[0] == 0


def test_what_is_not_the_same_is_named_in_one_line(run, now, path):
    def other(content):
        content["environment"].update(machine="Z80", cpus=9)
        content["settings"].update(threads=7, dtype="float64", isa="mmx")

    change(path, other)
    code, out, err = run("--job", "a", "--against", path)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(f"microgpt-fast: {path} was measured under other conditions: machine Z80 then, ")
    for text in (
        "; cpus 9 then, ",
        "; dtype float64 then, float32 now; ",
        "; isa mmx then, ",
        "threads 7 then, 1 now",
    ):
        assert text in err
    assert "system" not in err and "numerics" not in err and "backend" not in err


def test_jobs_that_were_not_saved(run, now, path):
    code, _, err = run("--job", "a", "c", "d", "--against", path)
    assert (code, err) == (2, f"microgpt-fast: {path} has no times of c, d (it has: a, b, startup, import)\n")
    change(path, lambda content: content["jobs"].pop("import"))
    code, _, err = run("--job", "startup", "--against", path)
    assert code == 2 and "has no times of import (it has: a, b, startup)" in err
    change(path, lambda content: content["jobs"].clear())
    code, _, err = run("--job", "a", "--against", path)
    assert code == 2 and "has no times of a (it has: none)" in err


TIME = "must be microseconds, above 0 and at most 1e+12, not"
THREADS = "settings.threads must be a whole number from 1 to 1024, not"


@pytest.mark.parametrize(
    "key, value, text",
    [
        ("format", "microgpt-fast bench 2", "format must be 'microgpt-fast bench 1', not 'microgpt-fast bench 2'"),
        ("format", ["microgpt-fast bench 1"], "format must be 'microgpt-fast bench 1', not ['microgpt-"),
        ("jobs", [], "jobs must be an object, not []"),
        ("jobs.a", 7, "jobs.a must be an object, not 7"),
        ("jobs.a.us", True, f"jobs.a.us {TIME} True"),
        ("jobs.a.us", "100", f"jobs.a.us {TIME} '100'"),
        ("jobs.a.us", None, f"jobs.a.us {TIME} None"),
        ("jobs.a.us", 0, f"jobs.a.us {TIME} 0"),
        ("jobs.a.us", -1.5, f"jobs.a.us {TIME} -1.5"),
        ("jobs.a.us", 10**15, f"jobs.a.us {TIME} 1000000000000000"),
        ("jobs.a.us", float("nan"), "NaN is not a number"),
        ("jobs.a.us", float("-inf"), "-Infinity is not a number"),
        ("jobs.a.us", 101, "the percentiles of jobs.a are out of order"),
        ("jobs.a.us_p20", 101, "the percentiles of jobs.a are out of order"),
        ("jobs.a.cpu_us", 0.0, f"jobs.a.cpu_us {TIME.replace(', not', ', or null, not')} 0.0"),
        ("jobs.a.cpu", 1, "jobs.a has an unknown key 'cpu'"),
        ("jobs.e", {}, "jobs has an unknown key 'e'"),
        ("jobs.c", {}, "jobs.c has no key 'us'"),
        ("more", 1, "the object has an unknown key 'more'"),
        ("a\nb\ud800", 1, r"the object has an unknown key 'a\nb\ud800'"),
        ("settings.threads", 0, f"{THREADS} 0"),
        ("settings.threads", 1.0, f"{THREADS} 1.0"),
        ("settings.threads", True, f"{THREADS} True"),
        ("settings.threads", 2**40, f"{THREADS} 1099511627776"),
        ("settings.dtype", "float16", "settings.dtype must be 'float32' or 'float64' or 'bfloat16', not 'float16'"),
        ("settings.dtype", {}, "settings.dtype must be 'float32' or 'float64' or 'bfloat16', not {}"),
        ("settings.backend", "auto", "settings.backend must be 'cython' or 'numba' or 'numpy', not 'auto'"),
        ("settings.isa", "", "settings.isa must be printable text of 1 to 200 characters, or null, not ''"),
        ("environment.machine", "x" * 201, "environment.machine must be printable text of 1 to 200 characters, not "),
        ("environment.machine", "a\x1b[2J", r"environment.machine must be printable text of 1 to 200 characters, not "),
        ("environment.machine", "\ud800", r"characters, not '\ud800'"),
        ("environment.cpus", "2", "environment.cpus must be a whole number from 1 to 1048576, or null, not '2'"),
        ("environment.load", -1, "environment.load must be a number from 0, or null, not -1"),
        ("environment.date", "2026-02-30 10:00 UTC", "environment.date must be a date like 2026-01-31 23:59 UTC, not"),
        ("environment.date", "2026-2-3 1:00 UTC", "environment.date must be a date like 2026-01-31 23:59 UTC, not"),
        ("environment.date", 20260101, "environment.date must be a date like 2026-01-31 23:59 UTC, not 20260101"),
    ],
)  # fmt: skip
def test_every_value_of_a_file_is_checked(run, now, path, key, value, text):
    def replace(content):
        *place, last = key.split(".")
        for part in place:
            content = content[part]
        content[last] = value

    change(path, replace)
    code, out, err = run("--job", "b", "--against", path)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(f"microgpt-fast: {path} is not a run saved by bench --save: ") and text in err


def places(value, place=()):
    """The path of every key in nested dicts."""
    for key, part in value.items() if isinstance(value, dict) else ():
        yield (*place, key)
        yield from places(part, (*place, key))


def test_no_key_may_be_missing_but_jobs(run, now, path):
    whole = json.loads(path.read_text())
    for *place, last in places(whole):
        if place == ["jobs"]:
            continue
        content = json.loads(json.dumps(whole))
        part = content
        for key in place:
            part = part[key]
        del part[last]
        path.write_text(json.dumps(content))
        code, _, err = run("--job", "b", "--against", path)
        assert code == 2 and f"{'.'.join(place) or 'the object'} has no key {last!r}" in err


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"[]", "the whole must be an object, not []"),
        (b"null", "the whole must be an object, not None"),
        (b"{} {}", "Extra data"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
        (b'{"format": 1' + b"0" * 5000 + b"}", "a number has 5001 digits"),
        (b'{"format": 1e999}', "format must be 'microgpt-fast bench 1', not inf"),
        (b'{"format": "x", "format": "x"}', "the key 'format' stands twice in one object"),
        (b"\xff\xfe{\x00}\x00", "'utf-8' codec can't decode byte 0xff"),
        (b"\x7fELF\0\0", "Expecting value"),
        (b" " * ((1 << 20) + 1), "it has more than 1048576 bytes"),
    ],
)
def test_files_that_are_no_saved_run(run, now, path, content, text):
    path.write_bytes(content)
    code, out, err = run("--job", "a", "--against", path)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(f"microgpt-fast: {path} is not a run saved by bench --save: ") and text in err


def test_infinite_times_are_refused(run, now, path):
    path.write_text(path.read_text().replace("100.0", "1e999", 1))
    code, _, err = run("--job", "a", "--against", path)
    assert code == 2 and f"jobs.a.us {TIME} inf" in err


def test_any_changed_byte_is_refused_or_harmless(run, now, path):
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for i in range(300):
        broken = bytearray(content)
        broken[random.integers(len(broken))] = random.integers(256)
        path.write_bytes(broken[: random.integers(len(broken))] if i % 3 == 0 else broken)
        try:
            then = saved.read(path)
        except UsageError as error:
            assert str(error).startswith(f"{path} is not a run saved by bench --save: ")
        else:
            assert all(0 < times["us"] < np.inf for times in then["jobs"].values())


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("--save", "x.json"), "--save is for jobs: choose them with --job, without --kernel and --sweep"),
        (("--kernel", "all", "--against", "x.json"), "--against is for jobs: choose them with --job"),
        (("--job", "a", "--sweep", "--against-python", "x"), "--against-python is for jobs: choose them"),
        (("--job", "a", "--against", "no.json"), "cannot read no.json: No such file or directory"),
        (("--job", "a", "--against", "."), "cannot read .: Is a directory"),
        (("--job", "a", "--against", "a\0b"), "cannot read a"),
        (("--job", "a", "--save", "no/x.json"), "cannot write no/x.json: No such file or directory"),
        (("--job", "a", "--save", ""), "cannot write : Is a directory"),
        (("--job", "a", "--limit", "1.1"), "--limit is for --against and --against-python"),
        (("--job", "a", "--against", "x", "--limit", "0"), "--limit must be above 0, such as 1.02, not 0.0"),
        (("--job", "a", "--against", "x", "--limit", "nan"), "--limit must be above 0, such as 1.02, not nan"),
        (("--job", "a", "--against", "x", "--limit", "two"), "argument --limit: invalid float value: 'two'"),
        (("--job", "a", "--against-python", "x", "--csv", "y"), "--against-python times two versions only: "),
        (("--job", "a", "--against-python", "x", "--against", "y"), "--against-python times two versions only: "),
        (("--job", "a", "--against-python", "no-such-python"), "--against-python: no-such-python is neither a Python "),
        (("--job", "a", "--against-python", "."), "--against-python: . is neither a Python interpreter nor "),
    ],
)  # fmt: skip
def test_refusals(run, now, arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and err.startswith(f"microgpt-fast: {text}") and err.count("\n") == 1


def test_help_names_the_default_limits():
    texts = {}
    command.add_arguments(
        Namespace(add_argument=lambda name, **options: texts.update({name: options.get("help")}))
    )
    assert f"(default: {against.IN_TURN_LIMIT} in turn, {against.SAVED_LIMIT} against" in texts["--limit"]
