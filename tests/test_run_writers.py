"""A run's folder has one writer; a model's file holds one whole model, whoever writes to it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import cli, locks
from microgpt_fast.config import UsageError
from microgpt_fast.locks import Writer

SOURCE = Path(mg.__file__).parent.parent
SMALL = "--num-steps 3 --num-samples 0 --quiet".split()
HOLD = """
import sys
from microgpt_fast.locks import Writer
writer = Writer(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(locks.fcntl is None, reason="needs locks")]


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    """A function of arguments: exit code and stderr of the program, run beside names.txt."""
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("anna\nbob\nhannah\n")

    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        return code, capfdbinary.readouterr()[1].decode()

    return run


@pytest.fixture
def held():
    """A function of a folder: a process that has the right to write to it, until it ends."""
    processes = []

    def hold(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("has_checkpoint", [True, False])
@pytest.mark.parametrize("arguments", [("--data", "names.txt", "--out", "one"), ("--resume", "one")])
def test_the_second_writer_is_refused_and_touches_nothing(arguments, has_checkpoint, run, held):
    if has_checkpoint:
        assert run("train", "--data", "names.txt", *SMALL, "--out", "one")[0] == 0
        assert ".lock" not in os.listdir("one")
    else:
        os.mkdir("one")
    process = held("one")
    Path("one/.microgpt_fast-1-ab.tmp").write_text("of the first")
    before = contents("one")
    code, err = run("train", *arguments, *SMALL)
    assert code == 2 and contents("one") == before
    assert err.splitlines()[-1] == (
        f"microgpt-fast: one: process {process.pid} on {socket.gethostname()} is writing to this folder: "
        "wait until it has ended, or choose another folder"
    )


def test_a_killed_writer_holds_nothing(run, held):
    os.mkdir("one")
    process = held("one")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run("train", "--data", "names.txt", *SMALL, "--out", "one")[0] == 0
    assert ".lock" not in os.listdir("one")


def test_of_trainings_that_start_together_one_is_kept(run, tmp_path):
    command = [sys.executable, "-m", "microgpt_fast", "train", "--data", "names.txt", "--out", "one"]
    processes = [
        subprocess.Popen(
            [*command, "--num-samples", "0", "--num-steps", "2000", "--seed", str(seed), "--quiet"],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2, 3)
    ]
    errors = [process.communicate()[1].strip() for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2, 2], errors
    for code, error in zip(codes, errors):
        assert code == 0 or re.search("is writing to this folder|there is a run already", error)
    assert mg.load("one/last.safetensors").train_config.seed == 1 + codes.index(0)
    steps = [line["step"] for line in mg.training.runs.read_metrics("one")]
    assert len(steps) == len(set(steps)) == 1000


def test_the_right_is_given_back_after_errors(run):
    assert run("train", "--data", "names.txt", *SMALL, "--out", "one")[0] == 0
    assert run("train", "--resume", "one", "--seed", 7)[0] == 2
    assert run("train", "--resume", "one", "--num-steps", 5)[0] == 0
    Writer("one").release()


def test_one_process_has_one_writer_too(tmp_path):
    writer = Writer(tmp_path)
    with pytest.raises(UsageError, match=f"process {os.getpid()} on"):
        Writer(tmp_path)
    writer.release()
    Writer(tmp_path).release()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_gives_nothing_back(tmp_path):
    writer = Writer(tmp_path)
    child = os.fork()
    if not child:
        writer.release()
        os._exit(0)
    os.waitpid(child, 0)
    writer.check()
    with pytest.raises(UsageError, match="is writing"):
        Writer(tmp_path)
    writer.release()


def test_a_run_does_not_write_into_the_folder_that_replaced_its_own(run):
    trainer = mg.Trainer(["anna", "bob"], num_steps=3)
    with mg.Run.create("one", trainer) as kept:
        os.rename("one", "moved")
        os.mkdir("one")
        with pytest.raises(FileNotFoundError, match="removed or replaced"):
            kept.checkpoint()
    assert os.listdir("one") == []


def test_without_locks_runs_are_written_all_the_same(run, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    assert run("train", "--data", "names.txt", *SMALL, "--out", "one")[0] == 0
    assert run("train", "--resume", "one", "--num-steps", 5)[0] == 0


def test_a_lock_that_cannot_be_written_is_given_back(tmp_path, monkeypatch, capfd):
    def fails(*arguments):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(locks.os, "write", fails)
        Writer(tmp_path)
    writer = Writer(tmp_path)
    close, descriptor = os.close, writer._descriptor
    monkeypatch.setattr(locks.os, "close", lambda descriptor: (close(descriptor), fails()))
    del writer  # whose lock cannot be closed without an error
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    monkeypatch.undo()
    Writer(tmp_path).release()
    assert "Traceback" not in capfd.readouterr().err


class Windows:
    """What msvcrt.locking does, with the locks that there are here."""

    LK_NBLCK = 2

    @staticmethod
    def locking(descriptor, mode, count, fcntl=locks.fcntl):
        assert mode == Windows.LK_NBLCK and os.lseek(descriptor, 0, os.SEEK_CUR) == locks.BEYOND
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None


def test_the_locks_of_windows(run, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "msvcrt", Windows, raising=False)
    monkeypatch.delattr(os, "O_NOFOLLOW")
    assert run("train", "--data", "names.txt", *SMALL, "--out", "one")[0] == 0
    assert ".lock" not in os.listdir("one")
    writer = Writer("one")
    assert Path("one/.lock").read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    before = contents("one")
    code, err = run("train", "--resume", "one", "--num-steps", 5)
    assert code == 2 and contents("one") == before and f"process {os.getpid()} on" in err
    writer.release()
    assert run("train", "--resume", "one", "--num-steps", 5)[0] == 0
    assert ".lock" not in os.listdir("one")
    with pytest.raises(OSError, match="no locks") as error:  # of folders there are none
        locks.locked("one", os.O_RDONLY)
    assert error.value.errno in locks.NO_LOCKS


def test_a_lock_that_is_a_link_is_not_followed(run):
    Path("victim").write_text("of another")
    os.mkdir("one")
    os.symlink(os.path.abspath("victim"), "one/.lock")
    code, err = run("train", "--data", "names.txt", *SMALL, "--out", "one")
    assert code == 2 and "cannot write one: Too many levels" in err
    assert Path("victim").read_text() == "of another"


def test_a_file_with_several_writers_is_always_one_whole_model(tmp_path):
    models = [mg.train(["anna", "bob"], num_steps=1, seed=seed).model for seed in range(4)]
    wanted = {model.train_config.seed: model.parameters.tobytes() for model in models}
    path = tmp_path / "model"
    mg.save(models[0], path)

    def write(model):
        for _ in range(25):
            mg.save(model, path)

    threads = [threading.Thread(target=write, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        loaded = mg.load(path)
        assert loaded.parameters.tobytes() == wanted[loaded.train_config.seed]
    assert os.listdir(tmp_path) == ["model"] and np.isfinite(mg.load(path).parameters).all()
