"""Folders of runs whose files hold anything, checksums right: the run goes on, or is refused; its metrics are read."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import microgpt_fast as mg
from microgpt_fast.config import UsageError
from microgpt_fast.training.runs import CONFIG, LAST, METRICS, read_metrics

from .. import load, scratch_folder
from ..hostile import TEXTS, check_message, json_of

FOLDER = scratch_folder()
LINES = [
    {"step": 2, "loss": 3.0, "learning_rate": 0.01, "seconds": 0.1},
    {"step": 2, "val_loss": 3.0, "seconds": 0.1},
]


def make(random):
    """The contents of the files."""
    models, toml = load("models"), load("toml")
    model = models.make(random)
    metrics = "".join(
        json_of(random, random.choice(LINES), random.choice([0, 0, 1, 2])) + "\n" for _ in range(5)
    )
    if random.random() < 0.2:
        metrics += random.choice(TEXTS)
    config = (
        toml.make(random).text if random.random() < 0.5 else f"data = {json.dumps([str(FOLDER / 'text')])}\n"
    )
    return SimpleNamespace(
        model=model, files={LAST: model.content, METRICS: metrics.encode(), CONFIG: config}
    )


def run(case):
    """Resume it, and resume what that has written."""
    (FOLDER / "text").write_text("\n".join(load("models").DOCUMENTS))
    folder = FOLDER / "run"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in case.files.items():
        Path(folder, name).write_bytes(
            content if isinstance(content, bytes) else content.encode("utf-8", "replace")
        )
    try:
        for line in read_metrics(folder):
            assert line["step"] >= 0
    except UsageError as error:
        check_message(error)
    try:
        with np.errstate(all="ignore"), mg.Run.resume(folder, [FOLDER / "text"]) as kept:
            kept.checkpoint()
            step = kept.trainer.step
    except UsageError as error:
        check_message(error)
        return
    with mg.Run.resume(folder) as kept:
        assert kept.trainer.step == step
