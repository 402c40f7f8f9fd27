"""A run and its folder: begun, or continued; whatever fails, it can be continued, to the same bits."""

import contextlib
import functools
import io
import os
import tempfile
from pathlib import Path

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.training import pace
from microgpt_fast.training.runs import BEST, LAST, METRICS, SAMPLES, read_metrics
from microgpt_fast.training.trainer import Trainer

from ..texts import text_of

OPTIONS = (
    "--n-embd 2 --n-head 1 --block-size 8 --num-steps 6 --val-fraction 0.3 --eval-interval 2 --num-samples 2"
)


def program(*arguments):
    """The exit code of the program, a step at a time, and its stderr."""
    pace.CHUNK_GROWTH = 1
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        code = cli.main([*map(str, arguments), "--quiet"])
    return code, err.getvalue()


def begin(folder):
    return program("train", "--data", text_of("new"), *OPTIONS.split(), "--out", folder / "run")


def contents(folder):
    """What a finished run consists of, without times."""
    models = [mg.load(folder / name).parameters.tobytes() for name in (LAST, BEST)]
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)]
    return models, lines, Path(folder, SAMPLES).read_text()


@functools.cache
def wanted():
    with tempfile.TemporaryDirectory() as folder:
        code, err = begin(Path(folder))
        assert code == 0, err
        return contents(Path(folder, "run"))


def prepare(folder):
    """Every second time, a run that was stopped after four steps."""
    wanted()
    prepare.count += 1
    if prepare.count % 2:
        return

    def take_steps(trainer, count, take=Trainer.take_steps):
        trainer.stopping = trainer.stopping or trainer.step + count >= 4
        return take(trainer, count)

    take, Trainer.take_steps = Trainer.take_steps, take_steps
    try:
        begin(folder)
    finally:
        Trainer.take_steps = take
    assert mg.resume_training(folder / "run" / LAST, text_of("new")).step == 4


prepare.count = 0


def act(folder):
    code, err = (
        program("train", "--resume", folder / "run") if os.path.isdir(folder / "run") else begin(folder)
    )
    assert code in (0, 1, 2) and "Traceback" not in err, err
    if not code:
        return None
    last = err.splitlines()[-1]
    assert last.startswith("microgpt-fast: "), err
    return last


def check(folder, refusal):
    run = folder / "run"
    if refusal is None:
        assert contents(run) == wanted()
    code, err = program("train", "--resume", run) if os.path.exists(run / LAST) else begin(folder)
    assert code == 0, err
    assert contents(run) == wanted()
    assert sorted(os.listdir(run)) == sorted([LAST, BEST, METRICS, SAMPLES, "config.toml"])
