import errno
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import microgpt_fast
from microgpt_fast import cli
from microgpt_fast.cli.commands import common
from microgpt_fast.training import checkpoint

SOURCE = Path(microgpt_fast.__file__).parent.parent
FIRST_LINE = r"microgpt-fast: training on the \w+ path \(.*\)\n"
HEADER = "\n--- inference (new, hallucinated names) ---\n"


def environment(**changes):
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **changes}


def command(*arguments):
    return [sys.executable, "-P", "-m", "microgpt_fast", *map(str, arguments)]


def start(*arguments, **options):
    return subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), **options
    )


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    """A function of arguments: exit code, stdout and stderr of the program, run here in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("anna\nbob\nhannah\n", encoding="utf-8")
    return path


def test_the_default_job_prints_what_the_original_prints(run, original_run):
    original = original_run("census_default").figures
    lines = [f"step {step:4d} / 1000 | loss {loss:.4f}\r" for step, loss in enumerate(original["losses"], 1)]
    samples = [f"sample {number:2d}: {text}\n" for number, text in enumerate(original["samples"], 1)]
    head = "num docs: 5163\nvocab size: 27\nnum params: 4192\n"
    code, out, err = run("train")
    assert code == 0 and out == head + "".join(lines) + HEADER + "".join(samples)
    assert re.search(
        r"^microgpt-fast: 1000 steps in [\d.]+ s: [\d,]+ steps/s, [\d,]+ tokens/s \(.*float64.*\)\n\Z",
        err,
        re.M,
    )
    code, out, _ = run("train", "--quiet")
    assert code == 0 and out == head + HEADER + "".join(samples)


def test_without_samples_the_output_ends_with_the_steps(run, names):
    _, out, _ = run("train", "--data", names, "--num-samples", 0, "--num-steps", 2)
    assert re.fullmatch(
        r"num docs: 3\nvocab size: 6\nnum params: 3520\n(step    \d /    2 \| loss \d\.\d{4}\r){2}\n", out
    )
    _, out, _ = run("train", "--data", names, "--num-samples", 0, "--num-steps", 2, "--quiet")
    assert out.endswith("num params: 3520\n")


def test_without_steps_the_initial_model_is_sampled(run, names):
    code, out, _ = run("train", "--data", names, "--num-steps", 0, "--num-samples", 3)
    assert code == 0 and re.search(
        f"num params: 3520\n{re.escape(HEADER)}(sample  [123]: [abhno]*\n){{3}}$", out
    )


def test_output_is_utf8_in_any_locale(tmp_path):
    (tmp_path / "text").write_text("😀é한\u2028글\n" * 3, encoding="utf-8")
    result = subprocess.run(
        command("train", "--data", tmp_path / "text", "--num-steps", 1, "--num-samples", 50),
        capture_output=True,
        env=environment(LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii", PYTHONCOERCECLOCALE="0"),
    )
    assert result.returncode == 0
    assert set("😀é한글\u2028") <= set(result.stdout.decode("utf-8"))


def test_a_terminal_sees_the_last_step_and_the_samples(names):
    leader, follower = pytest.importorskip("pty").openpty()
    process = subprocess.Popen(
        command("train", "--data", names, "--num-steps", 300, "--num-samples", 2),
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    os.close(follower)
    out = b""
    try:
        while chunk := os.read(leader, 4096):
            out += chunk
    except OSError:  # how Linux tells that the other side is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    lines = [line.rstrip() for line in re.split("[\r\n]+", out.decode())]
    steps = [line for line in lines if line.startswith("step ")]
    assert re.fullmatch(r"step  300 /  300 \| loss \d\.\d{4}", steps[-1]) and len(steps) < 300
    assert lines[lines.index(steps[-1]) + 1] == HEADER.strip() and lines[-2].startswith("sample  2: ")


def test_a_saved_model_is_sampled(run, names):
    _, trained, _ = run(
        "train",
        "--data",
        names,
        "--num-steps",
        5,
        "--temperature",
        0.9,
        "--num-samples",
        4,
        "--save",
        "model",
        "--n-layer",
        2,
    )
    code, out, err = run("sample", "--model", "model")
    assert code == 0 and not err and re.fullmatch(r"(sample  \d: [abhno]*\n){4}", out)
    model = microgpt_fast.load("model")
    assert model.config.n_layer == 2 and model.train_config.temperature == 0.9
    code, out, _ = run("sample", "--model", "model", "--num-samples", 2, "--temperature", 0.1, "--seed", 3)
    expected = microgpt_fast.generate(model, 2, 0.1, seed=3)
    assert code == 0 and out == f"sample  1: {expected[0]}\nsample  2: {expected[1]}\n"


def test_info(run):
    code, out, _ = run("info", "--json")
    report = json.loads(out)
    assert code == 0 and report["version"] == microgpt_fast.__version__
    assert report["backends"]["numpy"] == "ok" and report["dtypes"] == ["float32", "float64", "bfloat16"]
    code, out, _ = run("info")
    assert code == 0 and f"version: {microgpt_fast.__version__}\n" in out and "  numpy: ok\n" in out


def test_version_and_help(run):
    assert run("--version") == (0, f"microgpt-fast {microgpt_fast.__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0 and "examples:" in out
    code, out, _ = run("train", "--help")
    for name in common.CONSTANTS:  # Python 3.13 writes a comma between an option and its other name
        assert code == 0 and re.search(rf"--{name.replace('_', '-')}[ ,]", out), name


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("", "train, sample, score, export, page, plot, data, compare, audit, verify, bench, info"),
        ("trian", "unknown command .trian.; did you mean train\\?"),
        ("train --n-lyer 3", "--n-lyer; did you mean --n-layer?"),
        ("train extra", "unknown argument extra"),
        ("train empty", "unknown argument empty; did you mean --data empty\\?"),
        ("train --n-layer", "--n-layer"),
        ("train --n-layer two", "--n-layer.*'two'"),
        ("train --n-layer 0", "n_layer must be at least 1, not 0"),
        ("train --n-embd -16", "n_embd must be at least 1, not -16"),
        ("train --n-head 3", "multiple of n_head"),
        ("train --n-embd 1000000000", "too large"),
        ("train --batch-size 1000000000000", "batch_size"),
        ("train --learning-rate nan", "learning_rate.*nan"),
        ("train --beta1 inf", "beta1.*inf"),
        ("train --temperature -1", "temperature.*-1"),
        ("train --num-steps -1", "num_steps must be at least 0, not -1"),
        ("train --preset microgtp", "did you mean microgpt?"),
        ("train --backend torch", "unknown backend 'torch'"),
        ("train --dtype float16", "unknown dtype 'float16'"),
        ("train --backend numpy --numerics exact", "no exact numerics"),
        ("train --dtype float32 --numerics exact", "float64, not float32"),
        ("train --batch-size 2 --numerics exact", "exact numerics"),
        ("train --threads 0", "threads must be at least 1"),
        ("train --data missing", "cannot read missing: No such file"),
        ("train --data folder", "folder: no documents: a folder without files"),
        ("train --data empty", "empty: no documents"),
        ("train --data blank", "blank: no documents"),
        ("train --data binary", "binary: not UTF-8 text: byte 0xff at offset 2"),
        ("train --save folder", "cannot write folder: Is a directory"),
        ("train --save missing/model", "cannot write missing/model: No such file"),
        ("train --save /dev/null", "cannot write /dev/null: Not a regular file"),
        ("sample", "name one model"),
        ("sample one --model two", "name one model"),
        ("score model", "name a text"),
        ("sample --model missing", "cannot read missing: No such file"),
        ("sample --model folder", "folder: a folder without a model"),
        ("sample --model binary", "binary: not a model file"),
        ("info --jsno", "--json"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(arguments, message, run, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "blank").write_text("\n \n\t\n")
    (tmp_path / "binary").write_bytes(b"a\n\xff\n")
    before = sorted(os.listdir(tmp_path))
    code, out, err = run(*arguments.split())
    assert (code, out) == (2, "")
    assert re.fullmatch(f"microgpt-fast: .*{message}.*\n", err)
    assert sorted(os.listdir(tmp_path)) == before


def test_too_little_memory_is_a_mistake_too(run, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr("microgpt_fast.model.np.zeros", fail)
    assert run("train", "--backend", "numpy", "--numerics", "fast") == (
        2,
        "",
        "microgpt-fast: not enough memory for this configuration\n",
    )


def test_a_disk_that_fills_up_is_a_failure_of_the_machine(run, names, monkeypatch):
    Path("model").write_bytes(b"what was there")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    code, out, err = run("train", "--data", names, "--num-steps", 1, "--save", "model")
    assert code == 1 and err.endswith("microgpt-fast: cannot write model: No space left on device\n")
    assert Path("model").read_bytes() == b"what was there" and sorted(os.listdir()) == ["model", "names.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_a_failure_of_the_machine(names):
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command("train", "--data", names, "--num-steps", 1),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
        )
    assert result.returncode == 1
    assert (
        result.stderr.decode().splitlines()[-1]
        == "microgpt-fast: cannot write the output: No space left on device"
    )


@pytest.mark.parametrize("save", [False, True])
def test_a_reader_that_goes_away_ends_the_output_quietly(save, names, tmp_path):
    model = tmp_path / "model"
    process = start(
        "train", "--data", names, "--numerics", "fast", "--num-steps", 3000, *["--save", model] * save
    )
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 0
    if save:  # the model is what was asked for
        assert microgpt_fast.load(model).train_config.num_steps == 3000
        copies = r"microgpt-fast: \d+ of 20 samples are lines of the data\n"
        assert re.fullmatch(
            f"{FIRST_LINE}{copies}microgpt-fast: 3000 steps .*\nmicrogpt-fast: next: .*\n", err
        )
    else:
        assert re.fullmatch(FIRST_LINE, err)


@pytest.mark.parametrize("save", [False, True])
def test_ctrl_c_stops_and_saves(save, names, tmp_path):
    model = tmp_path / "model"
    process = start(
        "train", "--data", names, "--numerics", "fast", "--num-steps", 10**9, *["--save", model] * save
    )
    while b"\r" not in process.stdout.read(60):
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130 and out.endswith(b"\n")
    many = "microgpt-fast: a line is written for every step.*\n"
    expected = FIRST_LINE + many + r"microgpt-fast: interrupted after step \d+ of 1000000000"
    assert re.fullmatch(
        f"{expected}; saved {re.escape(str(model))}\n" if save else f"{expected}\n", err.decode()
    )
    assert sorted(os.listdir(tmp_path)) == ["model", "names.txt"][not save :]
    if save:
        assert microgpt_fast.load(model).config.vocab_size == 6


def test_ctrl_c_elsewhere_ends_the_program_in_one_line(run, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("microgpt_fast.training.trainer.load_corpus", interrupt)
    assert run("train") == (130, "", "microgpt-fast: interrupted\n")


def test_closed_streams_do_not_matter(names):
    script = " ".join(command("train", "--data", names, "--num-steps", 1, "--num-samples", 1))
    for redirection in (">&-", "2>&-", "2>/dev/null >&-"):
        assert (
            subprocess.run(
                f"{script} {redirection}",
                shell=True,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ).returncode
            == 0
        )


@pytest.mark.skipif(importlib.util.find_spec("mpi4py") is not None, reason="mpi4py is here")
def test_without_mpi4py_the_message_says_what_to_install(run):
    code, out, err = run("train", "--mpi")
    assert code == 2 and not out and "--mpi needs mpi4py and an MPI library (" in err and err.count("\n") == 1


@pytest.mark.parametrize("size, rank, code, lines", [("4", "0", 2, 1), ("4", "3", 0, 0), ("x", "", 0, 1)])
def test_many_processes_without_mpi_are_refused_by_the_first(size, rank, code, lines):
    done = subprocess.run(
        command("train", "--num-steps", 0, "--num-samples", 0),
        env=environment(PMI_SIZE=size, PMI_RANK=rank),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code and done.stderr.count("\n") == lines
