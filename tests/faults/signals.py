"""Signals at random moments of a training with a run folder: it goes on from there, and ends with the same bits.

`python -m tests.faults.signals --signals 100` sends that many; each training is continued until it has ended.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic

from microgpt_fast.training.runs import BEST, LAST, METRICS, SAMPLES

from .texts import text_of
from .uses.run import contents

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
OPTIONS = "--n-layer 2 --n-embd 32 --batch-size 8 --val-fraction 0.3 --num-samples 5 --dtype float32 --quiet".split()
LONGEST = 5.0  # seconds that a signal may take to end a process


def start(folder, steps):
    """Begin the training in a folder, or continue it."""
    has_begun = (folder / LAST).exists()
    begin = [
        "--data",
        text_of("new"),
        *OPTIONS,
        "--num-steps",
        steps,
        "--eval-interval",
        steps // 10,
        "--out",
    ]
    command = [
        sys.executable,
        "-m",
        "microgpt_fast",
        "train",
        *(["--resume"] if has_begun else begin),
        folder,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [*map(str, command)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def has_ended_within(process, seconds):
    """Wait; whether the process has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def is_at_work(process, folder):
    """Wait until the process holds the folder's lock, or has ended: whether it does; killed ones leave theirs."""
    while not has_ended_within(process, 0.002):
        with suppress(OSError):
            if (folder / ".lock").read_text().startswith(f"{process.pid} "):
                return True
    return False


def interrupted(folder, steps, number, moment):
    """Run the program, and send it a signal so many seconds after its start of work: whether it arrived in time."""
    process = start(folder, steps)
    arrived = is_at_work(process, folder) and not has_ended_within(process, moment)
    begin = monotonic()
    if arrived:
        process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert monotonic() - begin < LONGEST or not arrived, f"{number} took too long"
    assert "Traceback" not in err, err
    codes = {0, -number, 128 + number} if arrived else {0}
    assert process.returncode in codes, (process.returncode, number, err)
    return arrived


def send_signals(count, seed, steps=2000):
    """Send so many; returns how many trainings were ended."""
    draw, sent, ended = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place, "whole")
        process = start(whole, steps)
        assert is_at_work(process, whole)
        begin = monotonic()
        assert process.communicate()[1] is not None and process.returncode == 0
        longest, wanted = monotonic() - begin, contents(whole)
        while sent < count:
            folder = Path(place, f"run{ended}")
            while sent < count and interrupted(
                folder, steps, draw.choice(SIGNALS), draw.uniform(0, longest / 2)
            ):
                sent += 1
            while not (folder / SAMPLES).exists():
                assert not interrupted(folder, steps, signal.SIGKILL, 1000)
            assert contents(folder) == wanted, folder
            assert sorted(os.listdir(folder)) == sorted([LAST, BEST, METRICS, SAMPLES, "config.toml"])
            ended += 1
    return ended


def main():
    """Send signals, as the options say."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.signals", description=__doc__)
    parser.add_argument("--signals", type=int, default=100, help="(default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="other moments for another one (default: 0)")
    options = parser.parse_args()
    ended = send_signals(options.signals, options.seed)
    print(f"{options.signals} signals, {ended} trainings ended with the bits of one that was left alone")


if __name__ == "__main__":
    main()
