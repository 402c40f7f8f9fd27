"""A saved run: written by `bench --save`, read and checked in full by `bench --against`."""

import json
import math
import platform
from datetime import datetime
from importlib import metadata
from time import get_clock_info

from ..config import BACKENDS, DTYPES, MAX_THREADS, NUMERICS, UsageError
from ..training.checkpoint import replace_file
from . import jobs
from .against import PROCESSOR, WALL
from .programs import brief
from .side import FINE

FORMAT = "microgpt-fast bench 1"
IMPORT = "import"  # of the package: timed with the job startup
TIMED = (*jobs.NAMES, IMPORT)
DATE = "%Y-%m-%d %H:%M UTC"
FINE_CLOCK = get_clock_info("thread_time").resolution <= FINE  # not on Windows
MAX_BYTES = 1 << 20
MAX_DIGITS = 20
MAX_TEXT = 200
MAX_COUNT = 1 << 20
MAX_US = 1e12


def describe(environment, settings, results):
    """A run as it is saved.

    Parameters
    ----------
    environment, settings : dict
        See `report.describe_environment` and `Bench.settings`.
    results : list of dict
        Of the jobs.

    Returns
    -------
    run : dict
        With the keys of `SCHEMA`.
    """
    numba = metadata.version("numba") if settings["backend"] == "numba" else None
    system = f"{platform.system()} {platform.machine()}"
    return {
        "format": FORMAT,
        "environment": {**environment, "system": system, "numba": numba},
        "settings": settings,
        "jobs": dict(pair for result in results for pair in times_of(result)),
    }


def times_of(result):
    """(job, its times) of a result; two pairs for startup, which times the import, too."""
    if "seconds" in result:
        for name, prefix in ((jobs.STARTUP, ""), (IMPORT, "import_")):
            keys = ("seconds", "seconds_p20", "seconds_p80", "cpu_seconds")
            yield name, times(*(microseconds(result[prefix + key]) for key in keys))
    else:
        cpu = result.get("cpu_us_per_step") if FINE_CLOCK else None
        yield result["job"], times(result["us_per_step"], result["us_p20"], result["us_p80"], cpu)


def times(median, low, high, cpu):
    """Microseconds per step: median, 20th and 80th percentiles; the median processor time, or None."""
    return {"us": float(median), "us_p20": float(low), "us_p80": float(high), "cpu_us": cpu or None}


def microseconds(seconds):
    return None if seconds is None else seconds * 1e6


def write(path, run):
    """Save a run."""
    replace_file(path, (json.dumps(run, indent=1, allow_nan=False) + "\n").encode())


def read(path):
    """A saved run.

    Parameters
    ----------
    path : path

    Returns
    -------
    run : dict
        With the keys of `SCHEMA`; every value is of its type and within its bounds.

    Raises
    ------
    UsageError
        in one line, if the file cannot be read, or is not as `write` leaves it.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError for a path with a null character
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        run = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=without_duplicates,
            parse_int=integer,
            parse_constant=no_constant,
        )
        check(run, SCHEMA, "")
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"{path} is not a run saved by bench --save: {why}") from None
    return run


def without_duplicates(pairs):
    """A JSON object as a dict, if no key stands in it twice."""
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {brief(key)} stands twice in one object")
        found[key] = value
    return found


def integer(text):
    """An integer of a JSON text; Python's own limit on digits has no short message."""
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def no_constant(text):
    """JSON has no NaN or Infinity, but Python reads them."""
    raise ValueError(f"{text} is not a number")


def check(value, schema, place):
    """Raise a ValueError unless a value is what the schema says: a dict of schemas, or a test and its text."""
    if not isinstance(schema, dict):
        holds, allowed = schema
        if not holds(value):
            raise ValueError(f"{place} must be {allowed}, not {brief(value)}")
        return
    if not isinstance(value, dict):
        raise ValueError(f"{place or 'the whole'} must be an object, not {brief(value)}")
    for key in value:
        if key not in schema:
            raise ValueError(f"{place or 'the object'} has an unknown key {brief(key)}")
    for key, part in schema.items():
        if key in value:
            check(value[key], part, f"{place}.{key}".lstrip("."))
        elif place != "jobs":  # any of these may be missing
            raise ValueError(f"{place or 'the object'} has no key {key!r}")
    if "us_p20" in schema and not value["us_p20"] <= value["us"] <= value["us_p80"]:
        raise ValueError(f"the percentiles of {place} are out of order")


def is_text(value):
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def is_count(value, high=MAX_COUNT):
    return type(value) is int and 1 <= value <= high


def is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def is_date(value):
    try:
        return datetime.strptime(value, DATE).strftime(DATE) == value
    except (TypeError, ValueError):
        return False


def one_of(*allowed):
    return (lambda value: isinstance(value, str) and value in allowed), " or ".join(map(repr, allowed))


def or_null(test):
    holds, allowed = test
    return (lambda value: value is None or holds(value)), f"{allowed}, or null"


TEXT = is_text, f"printable text of 1 to {MAX_TEXT} characters"
TIME = (
    (lambda value: is_number(value) and 0 < value <= MAX_US),
    f"microseconds, above 0 and at most {MAX_US:g}",
)
SCHEMA = {
    "format": one_of(FORMAT),
    "environment": {
        "date": (is_date, "a date like 2026-01-31 23:59 UTC"),
        "system": TEXT,
        "machine": TEXT,
        "cpus": or_null((is_count, f"a whole number from 1 to {MAX_COUNT}")),
        "load": or_null(((lambda value: is_number(value) and value >= 0), "a number from 0")),
        **dict.fromkeys(("python", "numpy", "microgpt_fast"), TEXT),
        "numba": or_null(TEXT),
    },
    "settings": {
        "dtype": one_of(*DTYPES),
        "numerics": one_of(*NUMERICS),
        "backend": one_of(*BACKENDS[1:]),
        "isa": or_null(TEXT),
        "threads": (lambda value: is_count(value, MAX_THREADS), f"a whole number from 1 to {MAX_THREADS}"),
    },
    "jobs": dict.fromkeys(
        TIMED, {**dict.fromkeys(("us", "us_p20", "us_p80"), TIME), "cpu_us": or_null(TIME)}
    ),
}
MUST_AGREE = {"environment": ("system", "machine", "cpus"), "settings": tuple(SCHEMA["settings"])}


def check_comparable(path, then, now, names):
    """Raise a UsageError, with all that differs, unless times of now can be compared with a saved run's.

    Parameters
    ----------
    path : path
        Of the saved run, for the message.
    then, now : dict
        See `describe`; the jobs of `now` are still to be timed.
    names : list of str
        Of these jobs.
    """
    differ = [
        f"{key} {then[part][key]} then, {now[part][key]} now"
        for part, keys in MUST_AGREE.items()
        for key in keys
        if then[part][key] != now[part][key]
    ]
    if differ:
        raise UsageError(f"{path} was measured under other conditions: {'; '.join(differ)}")
    wanted = [*names, *[IMPORT] * (jobs.STARTUP in names)]
    missing = [name for name in wanted if name not in then["jobs"]]
    if missing:
        has = ", ".join(then["jobs"]) or "none"
        raise UsageError(f"{path} has no times of {', '.join(missing)} (it has: {has})")


def compare(then, results):
    """Rows for `against`: the jobs of these results, now and in a saved run."""
    for result in results:
        for name, now in times_of(result):
            before = then["jobs"][name]
            by_processor = now["cpu_us"] is not None and before["cpu_us"] is not None
            key = "cpu_us" if by_processor else "us"
            yield {
                "job": name,
                "clock": PROCESSOR if by_processor else WALL,
                "us": now[key],
                "then_us": before[key],
                "ratio": now[key] / before[key],
            }
