"""The arms of a comparison: sets of options, each with a name, that are checked before anything runs."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from ..config import MODEL_OPTIONS, TRAIN_OPTIONS, UsageError, resolve, shown
from ..training.settings import known_name

HELD_OUT = 0.1  # the fraction that is held out where no other is asked for
IRRELEVANT = ("seed", "num_samples", "temperature")  # to what an arm's losses are
NOT_VARIED = {
    "seed": "every arm runs with every seed: give --seeds N",
    "bos": "it decides which documents are held out",
    "data": "losses on different texts cannot be compared",
    "data_mode": "losses on different texts cannot be compared",
    "tokenizer": "losses per token of different tokens cannot be compared",
    "val_fraction": "losses on different texts cannot be compared",
}


class Arm(NamedTuple):
    """Options that are compared with other options.

    Attributes
    ----------
    name : str
    options : dict
        As for `Trainer`, the preset among them.
    """

    name: str
    options: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """Everything that its losses depend on, defaults included."""
        make_model_config, train = resolve(**self.options)
        model = make_model_config(1)
        settings = {name: getattr(model, name) for name in MODEL_OPTIONS} | asdict(train)
        return {name: value for name, value in settings.items() if name not in IRRELEVANT}


def parse_vary(text: str) -> tuple[str, list[Any]]:
    """NAME=VALUE,VALUE,... as (name, values).

    Raises
    ------
    UsageError
        if the name is unknown or must not be varied, or a value is missing or stands twice.
    """
    name, equals, values = text.partition("=")
    if not equals or not all(values.split(",")):
        raise UsageError(f"--vary must be NAME=VALUE,VALUE,..., not {shown(text)}")
    name = _varied(name.replace("-", "_"), "--vary")
    parsed = [_value(value) for value in values.split(",")]
    for place, value in enumerate(parsed):
        if value in parsed[:place]:
            raise UsageError(f"--vary {name}: {value} is given twice")
    return name, parsed


def _value(text):
    """A value as TOML would have it, but with texts without quotes."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _varied(name, where):
    """Our name of an option that may differ between arms."""
    name = known_name(name, where)
    if name in NOT_VARIED:
        raise UsageError(f"{where}: {name} cannot differ between arms: {NOT_VARIED[name]}")
    if name not in (*MODEL_OPTIONS, *TRAIN_OPTIONS, "preset"):
        raise UsageError(f"{where}: {name} is no option of a model or its training")
    return name


def count(vary: Mapping[str, Sequence[Any]], configs: Sequence[Any]) -> int:
    """How many arms `combinations` makes."""
    return max(1, len(configs)) * math.prod(map(len, vary.values()))


def combinations(
    vary: Mapping[str, Sequence[Any]], configs: Sequence[tuple[str, dict[str, Any]]] = ()
) -> dict[str, dict[str, Any]]:
    """Every combination of the values to vary, with each of the (name, options) of configuration files."""
    result = {}
    for title, options in configs or [("", {})]:
        for values in itertools.product(*vary.values()):
            varied = dict(zip(vary, values))
            parts = [title, *(f"{name}={_written(value)}" for name, value in varied.items())]
            result[" ".join(filter(None, parts))] = options | varied
    return result


def _written(value):
    return str(value).lower() if isinstance(value, bool) else value


def check_arms(
    arms: Mapping[str, Mapping[str, Any]] | Iterable[Mapping[str, Any]], common: Mapping[str, Any]
) -> list[Arm]:
    """The arms with the options that all share, of which none may be wrong.

    Parameters
    ----------
    arms : dict of name to options, or iterable of options
        The latter are named after what they say.
    common : dict

    Raises
    ------
    UsageError
        naming the arm and what is wrong with it.
    """
    if not isinstance(arms, Mapping):
        listed = [dict(options) for options in arms]
        arms = {_name_of(options): options for options in listed}
        if len(arms) < len(listed):
            raise UsageError("two arms have the same options: give a dict of names to options to allow that")
    checked = []
    for name, options in arms.items():
        for option in options:
            _varied(option, f"arm {shown(name)}")
        try:
            arm = Arm(name, _with_defaults({**common, **options}))
            settings = arm.settings()
        except UsageError as error:
            raise UsageError(f"arm {shown(name)}: {error}") from None
        if not settings["val_fraction"]:
            raise UsageError("nothing to compare with: val_fraction must be above 0")
        if not settings["num_steps"]:
            raise UsageError(f"arm {shown(name)}: nothing to compare: num_steps must be at least 1")
        checked.append(arm)
    if not checked:
        raise UsageError("there are no arms to compare")
    return checked


def _name_of(options):
    return " ".join(f"{name}={_written(value)}" for name, value in options.items()) or "default"


def _with_defaults(options):
    """One thread a run, and something held out."""
    _, train = resolve(**options)
    held = train.val_fraction if "val_fraction" in options or train.val_fraction else HELD_OUT
    return {**options, "val_fraction": held, "threads": options.get("threads") or 1}
