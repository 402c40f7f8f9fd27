"""What is read from files that others may have written: JSON, and the state of a training, checked value by value."""

import json
from typing import Any, NamedTuple

from ..config import MAX_STEPS, check_integer, check_number, shown
from ..random_stream import check_state
from .events import Evaluation

MOST_TOKENS = 2**63 - 1


class State(NamedTuple):
    """The state of a training, but for its arrays."""

    step: int
    tokens: int
    seconds: float
    evaluations: list[Evaluation]
    random: tuple[Any, ...]
    data: list[Any]


def parse(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises
    ------
    ValueError
        for what is no JSON, numbers that are not finite included, or is nested too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("JSON that is nested too deep") from None


def _refuse(name):
    raise ValueError(f"{name} is not a number")


def mapping(content: Any, name: str) -> dict[str, Any]:
    """A JSON object, or ValueError."""
    if not isinstance(content, dict):
        raise ValueError(f"{name} must be an object, not {shown(content)}")
    return content


def state_of(content: Any) -> State:
    """The state of a training from JSON.

    Raises
    ------
    ValueError
        (a KeyError for what is missing) that names what is wrong.
    """
    content = mapping(content, "training")
    step = check_integer("step", content["step"], low=0, high=MAX_STEPS)
    return State(
        step,
        check_integer("tokens", content["tokens"], low=0, high=MOST_TOKENS),
        _at_least_0("seconds", content.get("seconds", 0)),  # in files of older versions
        _evaluations(content["evaluations"], step),
        check_state(content["random"]),
        content["data"],
    )


def _evaluations(content, last):
    if not isinstance(content, list):
        raise ValueError(f"evaluations must be a list, not {shown(content)}")
    events, before = [], 0
    for event in content:
        if not isinstance(event, list) or len(event) != 3 or not isinstance(event[2], bool):
            raise ValueError(f"an evaluation must be [step, loss, is_best], not {shown(event)}")
        before = check_integer("the step of an evaluation", event[0], low=before + 1, high=last)
        events.append(Evaluation(before, _at_least_0("the loss of an evaluation", event[1]), event[2]))
    return events


def _at_least_0(name, value):
    return check_number(name, value, "at least 0", lambda x: x >= 0)
