"""Trainings by many processes that mpirun starts."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MPIRUN = shutil.which("mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
OPTIONS = [
    "--batch-size",
    "6",
    "--dtype",
    "float32",
    "--val-fraction",
    "0.1",
    "--eval-interval",
    "20",
    "--grad-clip",
    "0.5",
]


@pytest.fixture(scope="module", autouse=True)
def mpi():
    pytest.importorskip("mpi4py", reason="needs mpi4py")
    if MPIRUN is None:
        pytest.skip("needs mpirun")
    program = "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"
    if started(2, "-c", program, module=False).stdout.split() != [b"2", b"2"]:
        pytest.skip("mpirun starts no processes that know each other")


def command(processes, *arguments, module=True):
    """The command line that starts so many processes, on however few cores."""
    is_open_mpi = b"Open MPI" in subprocess.run([MPIRUN, "--version"], capture_output=True).stdout
    options = ["--oversubscribe"] if is_open_mpi else []
    if is_open_mpi and os.getuid() == 0:
        options.append("--allow-run-as-root")
    program = ["-m", "microgpt_fast"] if module else []
    return [MPIRUN, *options, "-n", str(processes), sys.executable, "-P", *program, *arguments]


def started(processes, *arguments, module=True):
    return subprocess.run(command(processes, *arguments, module=module), capture_output=True, timeout=120)


def alone(*arguments):
    result = subprocess.run(
        [sys.executable, "-P", "-m", "microgpt_fast", *arguments], capture_output=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result


def ours(stderr):
    """The lines that the program itself wrote."""
    return [line for line in stderr.decode().splitlines() if line.startswith("microgpt-fast: ")]


def test_two_and_three_processes_write_what_one_does(tmp_path):
    expected = alone("train", *OPTIONS, "--num-steps", "40", "--shards", "4", "--out", tmp_path / "one")
    names = ["last.safetensors", "best.safetensors", "samples.txt"]
    for processes in (2, 3):
        folder = tmp_path / str(processes)
        found = started(
            processes, "train", "--mpi", *OPTIONS, "--num-steps", "40", "--shards", "4", "--out", folder
        )
        assert found.returncode == 0, found.stderr
        assert found.stdout == expected.stdout
        assert any(f"{processes} processes, which exchanged" in line for line in ours(found.stderr))
        assert (folder / "samples.txt").read_bytes() == (tmp_path / "one" / "samples.txt").read_bytes()
        assert parameters(folder / "last.safetensors") == parameters(tmp_path / "one" / "last.safetensors")
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [*names, "config.toml", "metrics.jsonl"]
        )


def parameters(path):
    """All arrays of a checkpoint."""
    from safetensors.numpy import load_file

    return {name: array.tobytes() for name, array in load_file(path).items()}


def test_a_run_continues_on_another_number_of_processes(tmp_path):
    alone("train", *OPTIONS, "--num-steps", "40", "--shards", "4", "--out", tmp_path / "whole")
    options = ["--schedule", "constant"]
    for folder, first in (("whole", alone), ("parts", lambda *a: started(3, *a, "--mpi"))):
        steps = "40" if folder == "whole" else "20"
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
        first("train", *OPTIONS, *options, "--num-steps", steps, "--shards", "4", "--out", tmp_path / folder)
    continued = started(2, "train", "--mpi", "--resume", tmp_path / "parts", "--num-steps", "40")
    assert continued.returncode == 0, continued.stderr
    assert parameters(tmp_path / "parts/last.safetensors") == parameters(tmp_path / "whole/last.safetensors")


def test_without_mpi_many_processes_are_refused_once():
    result = started(3, "train", "--num-steps", "1")
    assert result.returncode != 0 and not result.stdout
    [line] = ours(result.stderr)
    assert "3 processes were started, and each would train the same: add --mpi" in line


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "nowhere.txt", "--batch-size", "4"], "cannot read nowhere.txt"),
        (["--shards", "2", "--batch-size", "8"], "3 processes need at least 4 shards, not 2"),
        (["--out", "/dev/null/run", "--batch-size", "4"], "process 0: cannot write /dev/null/run"),
    ],
)
def test_what_fails_is_told_once(arguments, message):
    result = started(3, "train", "--mpi", "--num-steps", "1", *arguments)
    assert result.returncode == 2
    [line] = ours(result.stderr)
    assert message in line


def test_a_signal_to_one_process_stops_and_saves_all(tmp_path):
    program = """
import os, signal, sys
from mpi4py import MPI
from microgpt_fast.cli import main
from microgpt_fast.training import trainer
after = trainer.Trainer.take_steps
def take_steps(self, count):
    if MPI.COMM_WORLD.rank == 1 and self.step:
        os.kill(os.getpid(), signal.SIGTERM)
    return after(self, count)
trainer.Trainer.take_steps = take_steps
sys.exit(main(sys.argv[1:]))
"""
    folder = tmp_path / "run"
    result = started(
        2, "-c", program, "train", "--mpi", *OPTIONS, "--num-steps", "1000000", "--out", folder, module=False
    )
    assert result.returncode != 0 and "saved" in ours(result.stderr)[-1]
    assert parameters(folder / "last.safetensors")


def test_a_killed_process_ends_the_others_and_leaves_a_whole_checkpoint(tmp_path):
    folder, program = (
        tmp_path / "run",
        """
import os, sys
from pathlib import Path
from mpi4py import MPI
from microgpt_fast.cli import main
Path(f"process{MPI.COMM_WORLD.rank}").write_text(str(os.getpid()))
sys.exit(main(sys.argv[1:]))
""",
    )
    process = subprocess.Popen(
        command(
            2, "-c", program, "train", "--mpi", *OPTIONS, "--num-steps", "100000000", "--out", folder, module=False
        ),
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    for line in process.stderr:  # the first validation has been kept
        if b"val " in line:
            break
    os.kill(int((tmp_path / "process1").read_text()), signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert parameters(folder / "last.safetensors")
