import csv
import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from microgpt_fast import backends, cli
from microgpt_fast.benchmark import jobs, programs, report, runs, table, timing
from microgpt_fast.checking.cases import CASES
from microgpt_fast.config import UsageError
from microgpt_fast.data.load import BUILTIN
from microgpt_fast.training.trainer import Trainer

PEERS = Path(__file__).parent.parent / "bench"
KEYS = {"job", "dtype", "backend", "isa", "threads", "us_per_step", "tokens_per_s", "fraction_of_peak"} | {
    "peak_rss_mb",
    "loss",
}


@pytest.fixture
def run(capfdbinary):
    """A function of bench's arguments: exit code, stdout and stderr."""

    def run(*arguments):
        code = cli.main(["bench", "--seconds", "0.01", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.fixture
def bench():
    """Times with the best backend here, as shortly as possible."""
    return runs.Bench(backends.load(), "float64", "fast", 1, 0.001)


@pytest.fixture
def compiled():
    module = timing.compiled_backend()
    if module is None:
        pytest.skip("needs the compiled backend")
    return module


def module_from(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["b", "c", "d"])
def test_weights_and_tokens_are_those_of_the_prototype(name, shared, monkeypatch):
    folder = shared / "prototype" / "larger"
    monkeypatch.setitem(sys.modules, "verify", None)
    monkeypatch.setitem(sys.modules, "prototype_bench", None)
    verify = module_from(folder / "verify.py", "verify")
    prototype = module_from(folder / "bench.py", "prototype_bench")
    job, figures = jobs.JOBS[name], verify.CFG[name]
    c = job.config
    shape = (c.n_layer, c.n_head, c.n_embd, c.block_size, job.batch_size, c.vocab_size)
    assert (*shape, job.init_std, job.learning_rate) == figures
    np.testing.assert_array_equal(job.weights("float32"), verify.init(figures))
    tokens, starts, lengths = job.documents()
    np.testing.assert_array_equal(tokens, prototype.synth(figures).ravel())
    assert set(lengths) == {c.block_size} and starts.tolist() == [*range(0, tokens.size, c.block_size + 1)]
    assert job.operations(lengths) == pytest.approx(prototype.flops(figures), rel=1e-12)


def test_operations_of_documents_of_any_length():
    job = jobs.JOBS["a16"]
    C, V = 16, 27
    lengths = np.array([3] * 8 + [5] * 8, np.int32)
    by_hand = 6 * (12 * C * C + V * C) * (8 * 3 + 8 * 5) + 6 * C * (8 * 3**2 + 8 * 5**2)
    assert job.operations(lengths) == pytest.approx(by_hand)
    assert job.operations(np.tile(lengths, 3)) == pytest.approx(by_hand)
    assert job.tokens(lengths) == 64


@pytest.mark.parametrize("name, batch_size", [("a", 1), ("a16", 16)])
def test_jobs_on_names_begin_as_training_does(name, batch_size):
    trainer = Trainer(num_steps=3, batch_size=batch_size, numerics="fast", backend="numpy")
    np.testing.assert_array_equal(jobs.JOBS[name].weights("float64"), trainer.model.parameters)
    losses = next(trainer.chunks())
    ours = timing.Training(jobs.JOBS[name], backends.load("numpy"), "float64", "fast", 1)
    assert ours.losses[0] == pytest.approx(losses[0], rel=1e-12)


def test_every_backend_computes_the_same_losses(backend):
    expected = timing.Training(jobs.JOBS["b"], backends.load("numpy"), "float64", "fast", 1)
    ours = timing.Training(jobs.JOBS["b"], backend, "float64", "fast", 1)
    np.testing.assert_allclose(ours.losses, expected.losses, rtol=1e-9)
    times = ours.measure(0.001)
    assert len(times) >= 1 and (times > 0).all() and ours.step > timing.FIRST_LOSSES
    assert ours.last_loss < ours.losses[0]


def test_documents_are_taken_in_turn(monkeypatch):
    job = jobs.JOBS["c"]
    ours = timing.Training(job, backends.load("numpy"), "float32", "fast", 1)
    calls = []
    monkeypatch.setattr(ours, "engine", Namespace(train_steps=lambda *arguments: calls.append(arguments)))
    ours.step = jobs.BATCHES - 1
    ours._train(2)
    losses, *_, starts, lengths, batch_size, learning_rates, adam, first_step = calls[0]
    document = job.config.block_size + 1
    expected = [*range((jobs.BATCHES - 1) * 12, jobs.BATCHES * 12), *range(12)]
    assert starts.tolist() == [i * document for i in expected] and batch_size == 12
    assert learning_rates.tolist() == [1e-3, 1e-3] and first_step == jobs.BATCHES and ours.step == 65


def test_one_job_is_one_json_object(run):
    code, out, _ = run("--job", "b", "--json", "--dtype", "float64")
    result = json.loads(out)
    assert code == 0 and KEYS <= result.keys()
    assert (result["job"], result["dtype"], result["threads"]) == ("b", "float64", 1)
    assert result["tokens_per_s"] == pytest.approx(64 / result["us_per_step"] * 1e6)
    assert result["us_p20"] <= result["us_per_step"] <= result["us_p80"]
    if result["peak_gflops"]:
        operations = 6 * (12 * 64**2 + 27 * 64) * 64 + 6 * 64 * 64**2
        expected = operations / (result["us_per_step"] * 1e-6) / (result["peak_gflops"] * 1e9)
        assert result["fraction_of_peak"] == pytest.approx(expected)
    assert {"date", "machine", "load", "numpy"} <= result["environment"].keys()


def test_the_peak_counts_for_each_thread():
    once, twice = (runs.efficiency(4e9, np.array([0.5]), 10.0, threads) for threads in (1, 2))
    assert once == {"gflops": 8.0, "peak_gflops": 10.0, "fraction_of_peak": 0.8}
    assert twice["fraction_of_peak"] == 0.4
    assert runs.efficiency(4e9, np.array([0.5]), None, 1)["fraction_of_peak"] is None


def test_several_results_are_a_list(run, tmp_path):
    path = tmp_path / "results.csv"
    code, out, _ = run("--job", "b", "decode", "--kernel", "gemm_nn", "--json", "--csv", path)
    results = json.loads(out)["results"]
    assert code == 0 and [result.get("job", result.get("kernel")) for result in results] == [
        "b", "decode", *["gemm_nn"] * len(CASES["gemm_nn"].timed)
    ]  # fmt: skip
    decode = results[1]
    assert 1 <= decode["mean_length"] <= 16 and decode["tokens_per_s"] > 0
    with open(path, newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert [row["job"] or row["kernel"] for row in rows] == [r.get("job", r.get("kernel")) for r in results]
    assert all(row["machine"] and row["date"] and row["load"] for row in rows)
    assert float(rows[0]["us_per_step"]) == results[0]["us_per_step"]


def test_the_table(run):
    code, out, _ = run("--job", "b", "--kernel", "rmsnorm_forward", "--backend", "numpy")
    assert code == 0 and "b (numpy, float32, fast, 1 thread)\n  microgpt-fast" in out
    assert out.count("rmsnorm_forward") == len(CASES["rmsnorm_forward"].timed)


@pytest.mark.parametrize("name", CASES)
def test_every_kernel_can_be_timed(name):
    for case, size in timing.kernel_sizes(name):
        assert case.operations(**size) > 0
    smallest = size
    for dtype in ("float32", "float64"):
        result = timing.time_kernel(case, smallest, backends.load(), dtype, 0.0)
        assert result["gflops"] == pytest.approx(case.operations(**smallest) / result["us"] / 1e3)


def test_sweep_varies_one_size_at_a_time():
    base = jobs.SWEEP_BASE
    for job in jobs.sweep():
        axis, value = job.name.split("=")
        changed = {**vars(job.config), "batch_size": job.batch_size}
        assert changed == {**vars(base.config), "batch_size": base.batch_size, axis: int(value)}


def test_what_the_machine_can_do(compiled):
    for isa in compiled.isas():
        single, double = (compiled.measure_peak(dtype, isa, 0.001) for dtype in ("float32", "float64"))
        assert single > 0 and double > 0
    with pytest.raises(ValueError, match="'mmx' is not available here: choose one of baseline"):
        compiled.measure_peak("float32", "mmx")
    assert compiled.measure_bandwidth(100, 0.001) > 0 and compiled.measure_bandwidth(1 << 20, 0.001) > 0


def test_startup_runs_the_programs_in_turn(bench, monkeypatch):
    commands = []
    monkeypatch.setattr(programs, "run_program", lambda name, words, environment: commands.append(words))
    result = bench.startup()
    assert [words[1:] for words in commands[:3]] == [
        ["-P", "-m", "microgpt_fast", "train"],
        ["-P", "-c", "import microgpt_fast"],
        ["-c", "import numpy"],
    ]
    assert commands[3:6] == commands[:3]
    assert {"seconds", "import_seconds", "numpy_seconds", "ratio_to_numpy"} <= result.keys()


def test_our_runs_are_of_this_package_wherever_they_start(tmp_path, monkeypatch):
    (tmp_path / "microgpt_fast").mkdir()
    (tmp_path / "microgpt_fast" / "__init__.py").write_text(
        "raise ImportError('the sources in the current folder')"
    )
    monkeypatch.chdir(tmp_path)
    programs.run_program("it", programs.train_command("--num-steps", "1", "--num-samples", "0"))


PROGRAM = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + ' '); sum(range(int(sys.argv[2]) * 20_000))"


def test_a_program_is_timed_by_the_difference_of_two_lengths(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "LONG_SECONDS", 0.001)
    log = tmp_path / "steps"
    seconds = programs.time_by_length("it", [sys.executable, "-c", PROGRAM, str(log), "{steps}"], rounds=2)
    steps = [int(word) for word in log.read_text().split()]
    assert seconds.shape == (2,) and steps[:3] == [1, 1, 16] and steps[-4:] == [steps[-2], 1] * 2
    with pytest.raises(UsageError, match="it takes no more time for more steps"):
        monkeypatch.setattr(programs, "LONG_SECONDS", 1e9)
        programs.time_by_length("it", [sys.executable, "-c", "", "{steps}"])
    with pytest.raises(UsageError, match="it ended with exit code 1: ZeroDivisionError"):
        programs.time_by_length("it", [sys.executable, "-c", "1 / 0"])
    with pytest.raises(UsageError, match="cannot run it: no-such-program: No such file"):
        programs.time_by_length("it", "no-such-program {steps}")


def test_a_program_without_declared_work_gets_no_ratio(bench, monkeypatch):
    monkeypatch.setattr(programs, "time_by_length", lambda name, command: np.array([2e-3]))
    monkeypatch.setattr(runs, "unequal_losses", lambda ours, theirs: "")
    monkeypatch.setattr(programs, "first_losses", lambda name, command: [])
    commands = [("same", "float64", 1, ""), ("other", "float32", 1, ""), ("batch", "float64", 2, "")]
    result = bench.training(jobs.JOBS["b"], commands=[*commands, ("unknown", None, None, "")])
    ratios = [peer["ratio"] for peer in result["peers"]]
    assert ratios[0] == pytest.approx(2000 / result["us_per_step"]) and ratios[1:] == [None] * 3
    assert [peer["note"] for peer in result["peers"]] == [
        "",
        "dtype float32, not float64",
        "batch of 2, not 1",
        "work not declared: --peer NAME:DTYPE:BATCH=COMMAND",
    ]


def test_peer_arguments():
    assert programs.parse_peer("x=run {steps}") == ("x", None, None, "run {steps}")
    assert programs.parse_peer("x:float32:16=a=b {steps}") == ("x", "float32", 16, "a=b {steps}")
    for text in ("run {steps}", "=run {steps}", "x:float32=run {steps}", "x:float32:many=run {steps}"):
        with pytest.raises(UsageError, match="NAME=COMMAND or NAME:DTYPE:BATCH=COMMAND, not"):
            programs.parse_peer(text)
    with pytest.raises(UsageError, match="--peer x must contain {steps}, not 'run'"):
        programs.parse_peer("x=run")


ORIGINAL = """
import itertools
from pathlib import Path
Path(__file__).with_name("seen").write_bytes(Path("input.txt").read_bytes())
for step in itertools.count(1):
    sum(range(1_000_000))  # longer than a busy machine takes to hand over a line
    print(f"step {step:4d} / 1000 | loss {LOSSES[min(step, 3) - 1]:.4f}", end="\\r")
"""


def test_the_original_is_timed_by_its_lines(bench, tmp_path):
    path = tmp_path / "microgpt.py"
    ours = bench.training(jobs.JOBS["a"])
    first = timing.Training(jobs.JOBS["a"], bench.backend, "float64", "fast", 1).losses.tolist()
    path.write_text(f"LOSSES = {first}\n{ORIGINAL}")
    result = bench.training(jobs.JOBS["a"], original=path)
    [original] = result["peers"]
    assert (tmp_path / "seen").read_bytes() == Path(BUILTIN).read_bytes()
    assert original["note"] == "" and original["ratio"] > 0
    assert original["first_loss"] == round(ours["first_loss"], 4)

    path.write_text(f"LOSSES = {[loss + 0.1 for loss in first]}\n{ORIGINAL}")
    [original] = bench.training(jobs.JOBS["a"], original=path)["peers"]
    assert original["ratio"] is None and original["note"] == "its losses differ"

    path.write_text("print('nothing')")
    with pytest.raises(UsageError, match="printed no lines like 'step 1 / 1000 | loss 3.3'"):
        programs.time_original(path)


@pytest.mark.parametrize("module", ["torch", "jax"])
@pytest.mark.parametrize("name, dtype", [("a16", "float32"), ("b", "float64")])
def test_the_frameworks_compute_the_same_losses(module, name, dtype):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (extra bench)")
    bench = runs.Bench(backends.load(), dtype, "fast", 1, 0.01)
    result = bench.training(jobs.JOBS[name], [PEERS / f"{module}_peer.py"])
    [peer] = result["peers"]
    assert peer["note"] == "" and peer["ratio"] > 0 and peer["dtype"] == dtype
    assert peer["batch_size"] == result["batch_size"] and peer["peak_rss_mb"] > 0


def test_a_framework_that_is_not_installed_is_left_out(bench, tmp_path):
    program = tmp_path / "absent_peer.py"
    program.write_text(
        f"import sys\nsys.path.insert(0, {str(PEERS)!r})\n"
        "from peer import serve\nserve('a_module_that_is_absent', None)\n"
    )
    result = bench.training(jobs.JOBS["b"], [program])
    assert result["peers"] == [] and result["notes"] == ["a_module_that_is_absent is not installed"]
    program.write_text("raise SystemExit(3)")
    [failed] = bench.training(jobs.JOBS["b"], [program])["peers"]
    assert failed["ratio"] is None and "absent_peer.py ended with exit code 3" in failed["note"]


def test_a_program_that_fails_is_a_row_with_its_reason(bench, monkeypatch):
    monkeypatch.setattr(programs, "LONG_SECONDS", 0.001)
    code = "print('step 1 / 3 | loss 2.0000\\nstep 2 / 3 | loss 2.0000\\nstep 3 / 3 | loss 2.0000')"
    command = f'{sys.executable} -c "{code}; sum(range({{steps}} * 100000))"'
    silent = f'{sys.executable} -c "sum(range({{steps}} * 100000))"'
    commands = [
        ("broken", "float64", 1, f'{sys.executable} -c "1 / 0" {{steps}}'),
        ("toy", "float64", 1, command),
        ("silent", "float64", 1, silent),
    ]
    result = bench.training(jobs.JOBS["b"], commands=commands)
    assert [peer["ratio"] for peer in result["peers"]] == [None] * 3
    notes = [peer["note"] for peer in result["peers"]]
    assert "ended with exit code 1: ZeroDivisionError" in notes[0] and notes[1] == "its losses differ"
    assert "prints no losses to compare" in notes[2]
    lines = [*table.lines_of(result)]
    assert any("broken" in line and "not compared: broken ended" in line for line in lines)


def test_losses_of_the_same_work_are_compared():
    ours = np.array([3.2189, 3.1, 3.0])
    assert runs.unequal_losses(ours, [3.2189, 3.1004, 2.9996]) == ""
    assert runs.unequal_losses(ours, [3.2189, 3.2, 3.0]) == "its losses differ"


def test_long_times_are_milliseconds():
    row = {"us_per_step": 16_700.0, "us_p20": 16_000.0, "us_p80": 17_100.0}
    assert table.time_text(row, "us_per_step").split() == ["16.70", "ms", "(16.00", "to", "17.10)"]
    assert " us (" in table.time_text(dict.fromkeys(row, 9.0), "us_per_step")


def test_a_peer_with_other_losses_gets_no_ratio(bench, tmp_path):
    program = tmp_path / "other_peer.py"
    program.write_text(
        "import json, sys\nprint(json.dumps({'name': 'other', 'losses': [1, 2, 3]}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'seconds': [1.0], 'peak_rss_mb': 1}), flush=True)\n"
    )
    [peer] = bench.training(jobs.JOBS["b"], [program])["peers"]
    assert peer["ratio"] is None and peer["note"] == "its losses differ" and peer["us_per_step"] == 1e6


@pytest.mark.slow
def test_plots(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    path = tmp_path / "plot.png"
    monkeypatch.setattr(jobs, "SWEEP", {"n_embd": (16, 20)})
    code, _, err = run("--sweep", "--kernel", "rmsnorm_forward", "gemm_nn", "--plot", path)
    assert code == 0, err
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("--job", "e"), "unknown job 'e' (allowed: a, a16, b, c, d, decode, decode-c, decode-c64, decode-d, startup)"),
        (("--kernel", "adamw"), "unknown kernel 'adamw'; did you mean adamw_step? (allowed: "),
        (("--dtype", "float16"), "unknown dtype 'float16'; did you mean bfloat16?"),
        (("--job", "b", "--numerics", "exact"), "exact numerics need dtype float64, not float32"),
        (("--sweep", "--dtype", "float64", "--numerics", "exact"), "exact numerics need batch_size 1, not 4"),
        (("--job", "b", "--threads", 0), "threads must be at least 1, not 0"),
        (("--job", "b", "--seconds", 0), "--seconds must be above 0, not 0.0"),
        (("--job", "b", "c", "--peer", "x=y {steps}"), "--peer times one job: choose it with --job (a, "),
        (("--job", "b", "--original", "x.py"), "--original runs job a: choose it with --job a"),
        (("--job", "a", "--original", "x.py"), "--original: no file x.py"),
        (("--job", "b", "--peers", "no-such-folder"), "no *_peer.py in no-such-folder: give the"),
        (("--job", "b", "--csv", "no-such-folder/x.csv"), "cannot write no-such-folder/x.csv: No such file"),
        (("--job", "b", "--plot", "x.png"), "--plot draws a sweep or kernels: add --sweep or --kernel all"),
    ],
)  # fmt: skip
def test_refusals(run, arguments, text, tmp_path, monkeypatch):
    if "--sweep" in arguments:
        pytest.importorskip("microgpt_fast.backends.cython_backend")  # others have no exact numerics at all
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and f"microgpt-fast: {text}" in err


def test_a_busy_machine_is_reported(monkeypatch, capfd):
    monkeypatch.setattr(report.os, "getloadavg", lambda: (7.0, 1.0, 1.0), raising=False)
    environment = report.describe_environment()
    report.warn_if_busy(environment)
    assert environment["load"] == 7.0 and "this machine is busy (load 7.0)" in capfd.readouterr().err
