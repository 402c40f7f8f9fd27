"""Nothing trained is lost: runs are kept by themselves, and the next command is named."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.cli import keeping
from microgpt_fast.training.runs import read_metrics

OPTIONS = "--n-embd 8 --n-head 2 --dtype float32 --num-samples 2".split()


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    """A function of arguments: exit code, stdout and stderr of the program, run beside my names.txt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my names.txt").write_text("anna\nbob\nhannah\notto\neve\n" * 3)
    monkeypatch.setattr(keeping, "KEPT_FROM", 0.0)

    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_a_run_of_some_seconds_is_kept_by_itself(run):
    for number in (1, 2):
        code, _, err = run("train", "--data", "my names.txt", *OPTIONS, "--num-steps", 30)
        folder = f"runs/my-names-{number}"
        assert code == 0 and f"keeping this run in {folder} (--no-out" in err
        assert f"next: microgpt-fast sample {folder} --prompt TEXT" in err
        assert {"config.toml", "last.safetensors", "samples.txt"} <= {*os.listdir(folder)}
    code, out, err = run("train", "--resume", "runs/my-names-1", "--num-steps", 40)
    assert code == 0 and [line["step"] for line in read_metrics("runs/my-names-1")] == [*range(1, 41)]


def test_what_is_begun_late_has_everything_of_before(run, monkeypatch):
    begin = keeping.Keeping.begin_if_due
    monkeypatch.setattr(
        keeping.Keeping, "begin_if_due", lambda self, run: begin(self, run) if run.step > 1000 else None
    )
    monkeypatch.setattr(mg.training.pace, "CHUNK_SECONDS", 0.001)
    options = ["--num-steps", 3000, "--val-fraction", 0.3, "--eval-interval", 100, "--keep-best", "true"]
    assert run("train", "--data", "my names.txt", *OPTIONS, *options)[0] == 0
    metrics = read_metrics("runs/my-names-1")
    assert sorted(line["step"] for line in metrics if "loss" in line) == [*range(3, 3001, 3)]
    assert sorted(line["step"] for line in metrics if "val_loss" in line) == [*range(100, 3001, 100)]
    best, last = (mg.load(f"runs/my-names-1/{name}.safetensors") for name in ("best", "last"))
    state = mg.resume_training("runs/my-names-1/last.safetensors", Path("my names.txt"))
    assert np.array_equal(best.parameters, state.best_parameters)
    assert best.parameters.shape == last.parameters.shape


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-out", "--num-steps", 5],
        ["--save", "model", "--num-steps", 5],
        [],  # the default job, with the user's data
    ],
)
def test_what_is_not_kept(arguments, run):
    options = OPTIONS if arguments else []
    code, _, err = run("train", "--data", "my names.txt", *options, *arguments)
    assert code == 0 and "keeping" not in err and not os.path.exists("runs")


def test_a_folder_that_cannot_be_written_does_not_end_the_training(run, tmp_path):
    (tmp_path / "runs").write_text("a file")
    code, out, err = run("train", "--data", "my names.txt", *OPTIONS, "--num-steps", 5)
    assert code == 0 and "this run is not kept: cannot write runs/my-names-1" in err and "sample  2: " in out


@pytest.mark.parametrize(
    "data, name", [(["-"], "laptop"), (["a b/é.txt"], "é"), (["..."], "laptop"), (None, "laptop")]
)
def test_names_of_folders(data, name):
    assert keeping.name_of(data, "laptop") == name


def test_a_model_is_named_by_its_place(run):
    run("train", "--data", "my names.txt", *OPTIONS, "--num-steps", 5)
    sampled = run("sample", "runs/my-names-1", "--num-samples", 2)
    assert sampled == run("sample", "--model", "runs/my-names-1", "--num-samples", 2) and sampled[0] == 0
    scored = run("score", "runs/my-names-1", "my names.txt")
    assert scored == run("score", "my names.txt", "--model", "runs/my-names-1") and scored[0] == 0


def test_prompts_are_asked_for_one_after_another(run, monkeypatch):
    run("train", "--data", "my names.txt", *OPTIONS, "--num-steps", 5)
    monkeypatch.setattr("sys.stdin", io.StringIO("an\nxyz\nbo\n"))
    code, out, err = run("sample", "runs/my-names-1", "-i")
    assert code == 0 and re.fullmatch("an.*\nbo.*\n", out) and err.count("not in the vocabulary") == 1


def test_quiet_means_the_samples_alone(run):
    code, out, err = run("train", "--data", "my names.txt", *OPTIONS, "--num-steps", 5, "--quiet", "--no-out")
    assert code == 0 and err == "" and "step" not in out


def test_many_lines_in_a_file_are_said_to_be_too_many(run):
    _, _, err = run("train", "--data", "my names.txt", *OPTIONS, "--num-steps", 20_000, "--no-out")
    assert "--quiet leaves them out" in err
