"""Runs on threads, processes and other executors; workers that die, runs that fail, files that go on."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import microgpt_fast as mg
from microgpt_fast.config import UsageError
from microgpt_fast.lab import one_run, runner
from microgpt_fast.lab.compare import Experiment, compare
from microgpt_fast.lab.one_run import Data, Job
from microgpt_fast.lab.runner import Runner

NAMES = ("anna", "bert", "clara", "dora", "emil", "fritz", "gerda", "hans", "ida", "jan")
ARMS = {"small": {"n_embd": 8, "n_head": 2}, "large": {}}
QUICK = {"num_steps": 10, "dtype": "float32"}


class Fake(Executor):
    """Does the work at once; `failing` maps the number of a call to what it raises."""

    def __init__(self, failing=None):
        self.calls, self.failing = 0, failing or {}

    def submit(self, function, *arguments):
        self.calls += 1
        future = Future()
        try:
            if self.calls in self.failing:
                raise self.failing[self.calls]
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def losses(comparison):
    return [arm.losses for arm in comparison.arms]


@pytest.fixture(scope="module")
def wanted():
    return losses(compare(ARMS, 3, NAMES, executor="threads", **QUICK))


def test_threads_give_what_single_runs_give(wanted):
    options = {**QUICK, **ARMS["small"], "val_fraction": 0.1, "threads": 1}
    for seed in (42, 43):
        single = mg.train(NAMES, seed=seed, **options)
        assert wanted[0][seed] == single.evaluations[-1].loss
        result = one_run.run(Data(NAMES, ""), Job(0, options, seed))
        assert result["curve"] == [round(loss, 5) for loss in single.losses.tolist()]
    assert [*wanted[0]] == [42, 43, 44]


def test_a_fake_executor(wanted):
    assert losses(compare(ARMS, 3, NAMES, executor=Fake(), **QUICK)) == wanted


def test_any_thread_pool_that_stays_open(wanted):
    with ThreadPoolExecutor(3) as pool:
        assert losses(compare(ARMS, 3, NAMES, executor=pool, **QUICK)) == wanted
        assert pool.submit(int, 7).result() == 7


@pytest.mark.slow
def test_processes_of_ours_and_of_the_caller(wanted):
    assert losses(compare(ARMS, 3, NAMES, executor="processes", workers=2, **QUICK)) == wanted
    with ProcessPoolExecutor(1, runner.multiprocessing.get_context("spawn")) as pool:
        assert losses(compare(ARMS, 3, NAMES, executor=pool, **QUICK)) == wanted


def test_a_failing_run_is_repeated_once(wanted):
    pool = Fake({2: MemoryError("full")})
    assert losses(compare(ARMS, 3, NAMES, executor=pool, **QUICK)) == wanted
    assert pool.calls == 7


def test_a_run_that_fails_twice_is_reported(wanted):
    comparison = compare(
        ARMS, 3, NAMES, executor=Fake({2: MemoryError("full"), 7: MemoryError("full")}), **QUICK
    )
    assert losses(comparison) == [wanted[0], {43: wanted[1][43], 44: wanted[1][44]}]
    assert "large, seed 42: no result, twice: MemoryError: full" in comparison.sentences
    assert comparison.arms[1].difference.pairs == 2


def test_an_executor_that_breaks_is_told(tmp_path):
    out = tmp_path / "out.jsonl"
    with pytest.raises(UsageError, match="executor broke"):
        compare(ARMS, 3, NAMES, executor=Fake({2: BrokenExecutor("gone")}), out=out, **QUICK)
    assert compare(ARMS, 3, NAMES, executor=Fake(), out=out, **QUICK).done == 6


def test_unknown_executors_are_refused():
    with pytest.raises(UsageError, match="threads, processes"):
        compare(ARMS, 3, NAMES, executor="thread", **QUICK)


class DyingRunner(Runner):
    """Its worker processes die of some seeds: of the first of `once` only until a file is there."""

    def __init__(self, always, once, mark):
        super().__init__("processes", 2)
        self.arguments = (always, once, str(mark))

    def _make(self):
        pool, _ = super()._make()
        return pool, DyingRun(*self.arguments)


class DyingRun:
    def __init__(self, always, once, mark):
        self.always, self.once, self.mark = always, once, mark

    def __call__(self, data, job):
        if job.seed == self.always:
            os._exit(7)
        if job.seed == self.once and not os.path.exists(self.mark):
            with open(self.mark, "w"):
                pass
            os._exit(7)
        return {"arm": job.arm, "seed": job.seed}


def test_jobs_that_were_lost_together_are_repeated_one_by_one():
    died = []
    queue = runner._Queue([Job(0, {}, seed) for seed in range(4)], 3, died)
    submitted = []

    def submit(job):
        submitted.append(job.seed)
        return Future()

    queue.fill(submit)
    queue.lose_all(BrokenExecutor("gone"))
    queue.fill(submit)
    assert submitted == [0, 1, 2, 0]
    for _ in range(3):
        queue.lose_all(BrokenExecutor("gone"))
        queue.fill(submit)
    assert submitted == [0, 1, 2, 0, 1, 2, 0] and died == []
    queue.lose_all(BrokenExecutor("gone"))
    assert [job.seed for job, _ in died] == [0]


@pytest.mark.slow
def test_a_worker_that_dies_costs_no_run_but_that_which_kills_it(tmp_path):
    pool = DyingRunner(always=3, once=6, mark=tmp_path / "mark")
    jobs = [Job(0, {}, seed) for seed in range(10)]
    done = [result["seed"] for result in pool.results(Data(NAMES, ""), jobs)]
    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert [job.seed for job, _ in pool.died] == [3]


def test_stopping_ends_the_runs_and_keeps_the_finished(tmp_path):
    out = tmp_path / "out.jsonl"
    options = {"num_steps": 10**9, "dtype": "float32"}
    experiment = Experiment([{}], 2, NAMES, workers=2, out=out, **options)
    threading.Timer(0.3, lambda: setattr(experiment, "stopping", True)).start()
    assert [comparison.done for comparison in experiment.steps()] == [0]
    assert len(out.read_text().splitlines()) == 1


def test_a_file_goes_on_where_it_was_and_takes_more_seeds(tmp_path, wanted):
    out = tmp_path / "out.jsonl"
    compare(ARMS, 2, NAMES, out=out, **QUICK)
    pool = Fake()
    comparison = compare(ARMS, 3, NAMES, out=out, executor=pool, **QUICK)
    assert pool.calls == 2 and losses(comparison) == wanted
    pool = Fake()
    assert compare(ARMS, 1, NAMES, out=out, executor=pool, **QUICK).done == 2
    assert pool.calls == 0
    with open(out, "a") as file:
        file.write('{"arm": 0, "se')  # the machine stopped here
    assert losses(compare(ARMS, 3, NAMES, out=out, **QUICK)) == wanted
    assert len(out.read_text().splitlines()) == 7


@pytest.mark.parametrize(
    "arms, names, options, what",
    [
        (ARMS, NAMES, {"num_steps": 11}, "arms are"),
        ({**ARMS, "third": {}}, NAMES, {}, "arms are"),
        (ARMS, (*NAMES, "kurt"), {}, "data are"),
    ],
)
def test_the_file_of_another_comparison_is_refused(tmp_path, arms, names, options, what):
    out = tmp_path / "out.jsonl"
    compare(ARMS, 1, NAMES, out=out, **QUICK)
    before = out.read_bytes()
    with pytest.raises(UsageError, match=f"another comparison: its {what} not the same"):
        compare(arms, 1, names, out=out, **{**QUICK, **options})
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["hello", "hello\n", '{"format": 1}\n', "[]\n", "\n", '"' + "[" * 9999 + "\n"]
)
def test_other_files_are_refused(tmp_path, text):
    out = tmp_path / "out.jsonl"
    out.write_text(text)
    with pytest.raises(UsageError, match="not a comparison's file"):
        compare(ARMS, 1, NAMES, out=out, **QUICK)
    assert out.read_text() == text


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"loss": float("nan")}, "loss is nan"),
        ({"loss": "2"}, "loss is '2'"),
        ({"arm": 2}, "there is no arm 2"),
        ({"arm": -1}, "arm is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"curve": [1, "x"]}, "curve is"),
        ({"evaluations": [[1]]}, "evaluations is"),
        ({"more": 1}, "it has not the keys"),
        (None, "no JSON object"),
    ],
)
def test_each_line_is_checked(tmp_path, change, reason):
    out = tmp_path / "out.jsonl"
    compare(ARMS, 1, NAMES, out=out, **QUICK)
    lines = out.read_text().splitlines()
    lines[2] = "x" if change is None else json.dumps({**json.loads(lines[2]), **change})
    out.write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match=f"line 3 is not one of a comparison .*{reason}"):
        compare(ARMS, 1, NAMES, out=out, **QUICK)


@pytest.mark.slow
def test_ctrl_c_keeps_finished_runs(tmp_path):
    command = [
        sys.executable, "-m", "microgpt_fast", "compare", "--vary", "n_layer=1,2", "--seeds", "400",
        "--num-steps", "2000", "--dtype", "float32", "--workers", "2", "--out", "out.jsonl",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out = tmp_path / "out.jsonl"
    while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < 3):
        pass
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate()
    kept = out.read_bytes().count(b"\n") - 1
    assert process.returncode == 130
    assert f"interrupted: {kept} of 800 runs are kept in out.jsonl" in errors and "Traceback" not in errors
    assert text.startswith("arm ")


def test_one_process_at_a_time_writes_to_a_file(tmp_path):
    pytest.importorskip("fcntl")
    out = tmp_path / "out.jsonl"
    steps = Experiment(ARMS, 1, NAMES, out=out, **QUICK).steps()
    next(steps)
    with pytest.raises(UsageError, match="another process writes"):
        compare(ARMS, 1, NAMES, out=out, **QUICK)
    steps.close()
    assert compare(ARMS, 1, NAMES, out=out, **QUICK).done == 2
    assert len(out.read_text().splitlines()) == 3


def test_workers_are_checked():
    for workers in (0, -1, 1.5, "2", 10**6):
        with pytest.raises(UsageError, match="workers must be"):
            compare(ARMS, 1, NAMES, workers=workers, **QUICK)


@pytest.mark.slow
def test_a_program_that_its_own_workers_run_is_told_so(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import microgpt_fast as mg\n"
        f"mg.compare({ARMS}, 3, {NAMES}, executor='processes', workers=1, num_steps=5)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment())
    assert done.returncode == 1 and '__name__ == "__main__"' in done.stderr.splitlines()[-1]


def environment():
    home = os.path.dirname(os.path.dirname(mg.__file__))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
