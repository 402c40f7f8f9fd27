"""Where the options of a training come from: the command line, a file, nanoGPT's own."""

import os

from ..config import UsageError
from ..messages import PROGRAM, tell
from .commands.common import users_file

HELD_OUT = 0.1  # of the data, as nanoGPT's data sets do
DATASETS = ("shakespeare", "shakespeare_char", "openwebtext")  # nanoGPT's
CONFIGS = (".toml", ".py")
LENGTH = ("num_steps", "time_budget", "plan")  # options that say how long a training is


def gathered(options, given):
    """The options that hold: those of the command line, of a file, and of nanoGPT, under our names."""
    theirs = given.pop("nanogpt", {})
    if path := config_file(options):
        from ..training.settings import read_options

        with users_file("read", path):
            stored, more = read_options(path)
        theirs = {**more, **theirs}
        if given.keys() & {"num_steps", "time_budget"}:  # instead of those of the file
            stored = {name: value for name, value in stored.items() if name not in LENGTH}
        given = {**stored, **given}
    if theirs:
        given = from_nanogpt(theirs, given)
    return given


def config_file(options):
    """The file of options, or None."""
    word = options.settings
    if word is None:
        return options.config
    if word.endswith(CONFIGS) and options.config is None:
        return word
    near = f"; did you mean --data {word}?" if os.path.exists(word) else ""
    raise UsageError(f"unknown argument {word}{near} (see {PROGRAM} train --help)")


def from_nanogpt(theirs, given):
    """The options with what nanoGPT's own become; one line tells which change nothing."""
    from ..config import resolve
    from ..training.nanogpt import translate

    names = ("batch_size", "block_size")
    make_model_config, config = resolve(
        given.get("preset", "microgpt"), **{name: given[name] for name in names if name in given}
    )
    ours, ignored = translate(theirs, config.batch_size * make_model_config(1).block_size)
    is_new = not ours.get("resume") and "preset" not in given
    implied = {"val_fraction": HELD_OUT} if "eval_tokens" in ours and not config.val_fraction else {}
    if is_new and "data" in given:
        implied["data_mode"] = "stream"
    implied = {name: value for name, value in implied.items() if name not in given}
    notes = [f"ignored, as it changes nothing here: {', '.join(ignored)}"] if ignored else []
    if implied:
        notes.append(f"as in nanoGPT: {', '.join(f'{name}={value}' for name, value in implied.items())}")
    if notes and not given.get("quiet"):
        tell("; ".join(notes))
    ours |= implied
    if ours.pop("resume", False):
        if "out" not in given:
            raise UsageError("init_from=resume needs out_dir: the folder of the run to continue")
        ours["resume"] = given.pop("out")
    return {**ours, **given}


def data_of(given):
    """The names of the data, a list, or None."""
    data = given.get("data")
    data = [data] if isinstance(data, str) else data
    for name in data or ():
        if name in DATASETS and not os.path.exists(name):
            raise UsageError(
                f"{name} is a data set that nanoGPT prepares: here the data are the text itself, such as that of "
                f"'{PROGRAM} data tinyshakespeare --out shakespeare.txt'"
            )
    return data


def paths_of(data):
    """The names of the data as `Trainer` takes them."""
    if data is None or len(data) == 1:
        return data and data[0]
    from pathlib import Path

    return [Path(part) for part in data]
