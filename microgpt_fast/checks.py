"""Checks of what a user gives, and the words of their refusals."""

import math
import operator

from .aliases import MEANT

SHOWN = 100  # characters of a wrong value that a message shows


class UsageError(ValueError):
    """What was asked for cannot be done; the text says what was given, and what is allowed."""


def shown(value):
    """A wrong value as a message shows it: short, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, lists in lists in lists
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def closest(word, allowed):
    """'; did you mean ...?' if the word is a text that resembles an allowed one, else ''."""
    from difflib import get_close_matches

    if not isinstance(word, str):
        return ""
    meant = MEANT.get(word.lstrip("-").replace("-", "_"))
    match = [name for name in allowed if name.lstrip("-").replace("-", "_") == meant]
    match = match or get_close_matches(word[:SHOWN], allowed, n=1)
    return f"; did you mean {match[0]}?" if match else ""


def check_choice(name, value, allowed):
    """A value that is one of some texts, or a UsageError with the nearest of them."""
    if not isinstance(value, str) or value not in allowed:
        raise UsageError(
            f"unknown {name} {shown(value)}{closest(value, allowed)} (allowed: {', '.join(allowed)})"
        )


def check_integer(name, value, low=None, high=None):
    """A value as an int within limits."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {shown(value)}") from None
    if low is not None and number < low:
        raise UsageError(f"{name} must be at least {_brief(low)}, not {_brief(number)}")
    if high is not None and number > high:
        raise UsageError(f"{name} must be at most {_brief(high)}, not {_brief(number)}")
    return number


def _brief(number):
    return number if abs(number) < 10**30 else "a number of more than 30 digits"


def check_flag(name, value):
    """A value that is True or False."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, not {shown(value)}")
    return value


def check_number(name, value, condition, holds):
    """A value as a finite float that holds a condition, which the message words."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name} must be a number, not {shown(value)}") from None
    if not (math.isfinite(number) and holds(number)):
        raise UsageError(f"{name} must be a finite number {condition}, not {shown(value)}")
    return number
