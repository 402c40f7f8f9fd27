"""The file of a comparison: a line of JSON says what is compared, then one for each run that has ended."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..config import UsageError, shown
from ..data.corpus import Corpus
from ..locks import NO_LOCKS, locked
from .arms import Arm

FORMAT = "microgpt-fast comparison 1"
MOST_BYTES = 1 << 28


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


def _is_count(value):
    return type(value) is int and value >= 0


def _is_curve(value):
    return isinstance(value, list) and all(map(_is_number, value))


def _are_evaluations(value):
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and _is_count(pair[0]) and _is_number(pair[1])
        for pair in value
    )


KEY = {"arm": _is_count, "seed": lambda value: type(value) is int}
DIVERGED = {**KEY, "diverged": lambda value: isinstance(value, str)}
SCHEMA = {  # of a run that ended well
    **KEY,
    "loss": _is_number,
    "steps": _is_count,
    "us_per_step": _is_number,
    "num_params": _is_count,
    "held_out_tokens": _is_count,
    "curve": _is_curve,
    "evaluations": _are_evaluations,
}


def identity(arms: Sequence[Arm], corpus: Corpus) -> dict[str, Any]:
    """The first line: what must be the same for a stopped comparison to go on."""
    digest = hashlib.sha256()
    for array in (corpus.tokens, corpus.offsets):
        digest.update(memoryview(array).cast("B"))
    return {
        "format": FORMAT,
        "version": __version__,
        "data": digest.hexdigest(),
        "arms": [{"name": arm.name, **arm.settings()} for arm in arms],
    }


def name_for(identity: dict[str, Any]) -> str:
    """A file's name of its own for each comparison, whatever the number of seeds."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"compare-{digest[:8]}.jsonl"


class Records:
    """The results of a comparison, in memory and, with a path, in a file that is written as they come.

    Parameters
    ----------
    path : path or None
    identity : dict
        See `identity`.

    Attributes
    ----------
    results : dict of (arm, seed) to dict
        Those that the file held already included.

    Raises
    ------
    UsageError
        if the file is that of another comparison, a line of it is none of a comparison, or another process writes it.
    OSError
        if it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: dict[str, Any]) -> None:
        self.path = None if path is None else os.fspath(path)
        self.results: dict[tuple[int, int], dict[str, Any]] = {}
        self._descriptor: int | None = None
        if self.path is None:
            return
        self._descriptor = _opened(self.path)
        try:
            whole = self._read(identity)
            os.ftruncate(self._descriptor, whole)  # a line that was being written when the machine stopped
            if not whole:
                self._write(identity)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def add(self, result: dict[str, Any]) -> None:
        """Keep the result of a run."""
        self.results[result["arm"], result["seed"]] = result
        if self._descriptor is not None:
            self._write(result)

    def _write(self, values):
        line = memoryview((json.dumps(values, allow_nan=False) + "\n").encode())
        while line:
            line = line[os.write(self._descriptor, line) :]

    def _read(self, identity):
        """Read the file; returns the bytes of its complete lines."""
        with open(self.path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UsageError(f"{self.path}: more than {MOST_BYTES:,} bytes, too many for a comparison")
        content = content[: content.rfind(b"\n") + 1]
        first, *lines = content.split(b"\n")[:-1] or [b""]
        if not content:
            if os.path.getsize(self.path):
                raise UsageError(f"{self.path}: not a comparison's file; choose another name with --out")
            return 0
        self._check_identity(first, identity)
        for number, line in enumerate(lines, 2):
            try:
                result = result_of(line, len(identity["arms"]))
            except ValueError as error:
                raise UsageError(
                    f"{self.path}: line {number} is not one of a comparison ({error}): remove it, and its run "
                    "will be repeated"
                ) from None
            self.results[result["arm"], result["seed"]] = result
        return len(content)

    def _check_identity(self, line, identity):
        found = _parsed(line)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UsageError(f"{self.path}: not a comparison's file; choose another name with --out")
        wanted = json.loads(json.dumps(identity))
        if found == wanted:
            return
        what = next(name for name in ("version", "data", "arms") if found.get(name) != wanted[name])
        raise UsageError(
            f"{self.path}: the file of another comparison: its {what} {'are' if what != 'version' else 'is'} "
            "not the same; choose another name with --out, or remove it"
        )


def _opened(path):
    """A descriptor to append to a file, which no other process has at the same time where the system has locks."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    try:
        descriptor = locked(path, flags)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return os.open(path, flags, 0o666)
    if descriptor is None:
        raise UsageError(f"{path}: another process writes to this file: wait for it, or give another --out")
    return descriptor


def _parsed(line):
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def result_of(line: bytes, arms: int) -> dict[str, Any]:
    """A line of the file as the result of a run; a ValueError says what is wrong with it."""
    values = _parsed(line)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    schema = DIVERGED if "diverged" in values else SCHEMA
    if values.keys() != schema.keys():
        raise ValueError(f"it has not the keys {', '.join(schema)}")
    for name, holds in schema.items():
        if not holds(values[name]):
            raise ValueError(f"{name} is {shown(values[name])}")
    if values["arm"] >= arms:
        raise ValueError(f"there is no arm {values['arm']}")
    return values
