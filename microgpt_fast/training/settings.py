"""Options by name: read from TOML, translated from nanoGPT's names, written as TOML."""

import os

from ..aliases import ALIASES
from ..config import MODEL_OPTIONS, TRAIN_OPTIONS, UsageError, closest, shown
from . import nanogpt

MESSAGE = 200  # characters of the parser's message
LONGEST = 1 << 20  # bytes of a file of options
RUN_OPTIONS = ("preset", "data", "save", "out", "quiet")

# nanoGPT's options that do not exist here -> why, or what to use instead
ABSENT = {
    "dropout": "there is no dropout",
    "bias": "there are no biases",
    "lr_decay_iters": "the schedule ends at num_steps",
    "decay_lr": "use schedule = cosine, or constant for decay_lr = False",
    "eval_iters": "use eval_tokens, the number of tokens that a validation reads",
    "eval_only": "use the command score",
    "log_interval": "progress is reported every few seconds",
    "init_from": "use --resume FOLDER",
    "always_save_checkpoint": "the last and the best checkpoint are always saved",
    "device": "everything runs on the CPU",
    "compile": "everything is compiled",
    "wandb_log": "metrics are in the folder of the run",
}


def known_name(name, where):
    """Our name of an option.

    Raises
    ------
    UsageError
        if there is no such option; the text suggests a similar one, or says why.
    """
    name = ALIASES.get(name, name)
    if name in ABSENT:
        raise UsageError(f"{where}: there is no option {name}: {ABSENT[name]}")
    allowed = MODEL_OPTIONS + TRAIN_OPTIONS + RUN_OPTIONS
    if name not in allowed:
        raise UsageError(f"{where}: unknown option {shown(name)}{closest(name, [*allowed, *ALIASES])}")
    return name


def read_options(path):
    """The options in a file, TOML or one of nanoGPT's config/*.py: (under our names, those of `nanogpt.NAMES`).

    Raises
    ------
    UsageError, OSError
        See `read_toml` and `nanogpt.read_python`.
    """
    if not os.fspath(path).endswith(".py"):
        content = _parsed(path)
    else:
        content = nanogpt.read_python(_text(path), path)
    theirs = {name: content.pop(name) for name in nanogpt.NAMES if name in content}
    return _checked(content, path), theirs


def read_toml(path):
    """The options in a TOML file, under our names.

    Raises
    ------
    UsageError
        if the file is not TOML, or an option in it is unknown or given twice.
    OSError
        if the file cannot be read.
    """
    return _checked(_parsed(path), path)


def _text(path):
    with open(path, "rb") as file:
        text = file.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise UsageError(f"{path}: more than {LONGEST:,} bytes, too many for a file of options")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "Python" if os.fspath(path).endswith(".py") else "TOML"
        raise UsageError(f"{path}: not {kind}: {str(error)[:MESSAGE]}") from None


def _parsed(path):
    import tomllib

    text = _text(path)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{path}: not TOML that can be read: lists or tables are nested too deep") from None
    except ValueError as error:
        raise UsageError(f"{path}: not TOML: {str(error)[:MESSAGE]}") from None


def _checked(content, path):
    """The options under our names, if their kinds are right."""
    options = {}
    for name, value in content.items():
        ours = known_name(name, path)
        if ours in options:
            raise UsageError(f"{path}: {ours} is given twice, also as {name}")
        options[ours] = value
    data = options.get("data", "")
    if not isinstance(data, str) and not (
        isinstance(data, list) and data and all(isinstance(part, str) for part in data)
    ):
        raise UsageError(f"{path}: data must be the name of a file or a list of names, not {shown(data)}")
    for name in ("save", "out", "preset"):
        if not isinstance(options.get(name, ""), str):
            raise UsageError(f"{path}: {name} must be a string, not {shown(options[name])}")
        if "\0" in options.get(name, ""):
            raise UsageError(f"{path}: {name} holds a NUL character, which no name can")
    if not isinstance(options.get("quiet", False), bool):
        raise UsageError(f"{path}: quiet must be true or false, not {shown(options['quiet'])}")
    return options


def to_toml(options):
    """Options as TOML, one a line; those that are None are left out.

    Raises
    ------
    UsageError
        for a file's name that is not UTF-8, as all TOML is.
    """
    return "".join(f"{name} = {_value(value)}\n" for name, value in options.items() if value is not None)


def _value(value):
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise UsageError(
                f"{value}: a run cannot keep this name, which is not UTF-8: rename the file or folder"
            )
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
