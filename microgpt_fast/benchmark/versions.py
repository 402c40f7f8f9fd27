"""This version of the package and another, timed in turn as processes: what drifts meets both."""

import json
import os
import shutil
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import UsageError
from ..messages import tell
from . import jobs, programs
from .against import PROCESSOR, WALL
from .processes import TimedProcess
from .runs import LOSS_TOLERANCE
from .saved import IMPORT

SIDE = Path(__file__).with_name("side.py")
PROCESSES = 5  # new ones for each version and job: where its memory lies changes a process's speed
TURNS = 4  # of each process
STARTS = 40  # of each version, for whole processes: they vary more
PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Version:
    """Where a version of the package is.

    Attributes
    ----------
    name : str
        For messages.
    python : str
        The interpreter.
    environment : dict
        In which that interpreter imports it.
    folder : Path or None
        That must hold what is imported, if known.
    """

    name: str
    python: str
    environment: dict
    folder: Path | None = None


def this_version():
    """The version that runs here."""
    return Version("this version", sys.executable, programs.source_environment(), PACKAGE.parent)


def other_version(place):
    """The version that an interpreter, a virtual environment's folder or one with microgpt_fast leads to.

    PYTHONPATH is left out of its environment, since it may lead to this version.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = Path(place)
    if (path / "microgpt_fast" / "__init__.py").is_file():
        folder = path.resolve()
        return Version(place, sys.executable, {**environment, "PYTHONPATH": str(folder)}, folder)
    candidates = [path / "bin" / "python", path / "Scripts" / "python.exe"] if path.is_dir() else [place]
    for candidate in candidates:
        if python := shutil.which(candidate):
            return Version(place, os.path.abspath(python), environment)
    raise UsageError(
        f"--against-python: {place} is neither a Python interpreter nor a folder that holds a virtual environment "
        "or microgpt_fast"
    )


def compare(names, settings, seconds, versions):
    """Time jobs by two versions in turn.

    Parameters
    ----------
    names : list of str
        Of `jobs.NAMES`.
    settings : dict
        dtype, numerics, backend, threads.
    seconds : float
        For each version and job.
    versions : (Version, Version)
        This and the other.

    Yields
    ------
    row : dict
        See `row_of`.

    Raises
    ------
    UsageError
        if a version cannot be run, or the two do not do the same work.
    """
    for name in names:
        if name == jobs.STARTUP:
            warn_of_interpreters(versions)
            for label, k in ((jobs.STARTUP, 0), (IMPORT, 1)):
                wall, cpu = time_processes(versions, k)
                by_processor = not np.isnan(cpu).any()
                yield row_of(label, cpu if by_processor else wall, by_processor)
        else:
            yield row_of(name, *time_job(versions, {"job": name, **settings}, seconds))


def warn_of_interpreters(versions):
    """Say on stderr that whole processes of two interpreters differ in more than our package."""
    ours, other = (version.python for version in versions)
    if ours != other:
        tell(
            f"note: startup includes what {ours} and {other} load at their own start: to time both versions by one "
            "interpreter, give --against-python a folder that holds the other microgpt_fast and no other packages"
        )


def time_job(versions, request, seconds):
    """Median seconds per step of each turn, and whether they are of processor time.

    Returns
    -------
    times : float64 array [2, PROCESSES * TURNS]
        Of this version and of the other.
    by_processor : bool
    """
    times = np.empty((2, PROCESSES, TURNS))
    for i in range(PROCESSES):
        with ExitStack() as stack:
            sides = [None, None]
            for k in in_turn(i):
                sides[k] = stack.enter_context(closing(start(versions[k], request)))
            now, then = (side.hello for side in sides)
            check_same_work(versions[1].name, request["job"], now, then, request["dtype"])
            for j in range(TURNS):
                for k in in_turn(i + j):
                    times[k, i, j] = np.median(sides[k].measure(seconds / (PROCESSES * TURNS)))
    return times.reshape(2, -1), now["by_processor"]


def time_processes(versions, k):
    """The kth startup command of both versions, each time in a new process.

    Returns
    -------
    wall, cpu : float64 arrays [2, STARTS]
        Seconds; see `programs.time_program`.
    """
    times = np.empty((2, 2, 1 + STARTS))
    for i in range(times.shape[-1]):
        for j in in_turn(i):
            words = programs.startup_commands(versions[j].python)[k]
            times[:, j, i] = programs.time_program(versions[j].name, words, versions[j].environment)
    return times[..., 1:]  # without the warm-up


def in_turn(i):
    """Which version is first: this in even rounds, the other in odd ones."""
    return (0, 1) if i % 2 == 0 else (1, 0)


def start(version, request):
    """A process of a version, ready to time a job."""
    words = [version.python, "-P", str(SIDE), json.dumps(request)]
    return TimedProcess(version.name, words, version.environment)


def check_versions(versions, settings):
    """What both versions are; a UsageError unless each is what it should be, on the same instruction set.

    Returns
    -------
    packages : list of str
        The folders that they are imported from.
    """
    hellos = []
    for version in versions:
        with closing(start(version, {"job": None, **settings})) as side:
            if not {"version", "package", "isa"} <= side.hello.keys():
                raise UsageError(
                    f"{version.name} wrote {programs.brief(side.hello)}, not which version it is"
                )
            hellos.append(side.hello)
        package = side.hello["package"]
        if version.folder is not None and Path(package).parent != version.folder:
            raise UsageError(f"{version.name} imports {package}, not what {version.folder} holds")
    now, then = hellos
    if now["isa"] != then["isa"]:
        raise UsageError(
            f"{versions[1].name} runs on other instructions: {then['isa']} then, {now['isa']} now"
        )
    if now["package"] == then["package"]:
        tell(f"note: both versions are {now['package']}: the ratios show how much this machine varies")
    return [hello["package"] for hello in hellos]


def check_same_work(name, job, now, then, dtype):
    """Raise a UsageError if a job's first losses, or its threads, are others in the other version."""
    if now.get("threads") != then.get("threads"):
        raise UsageError(f"job {job} in {name} runs on {then['threads']} threads, not {now['threads']}")
    if not np.allclose(now.get("losses", 0), then.get("losses", 0), rtol=LOSS_TOLERANCE[dtype], atol=0):
        raise UsageError(f"job {job} in {name} has other losses, so the times cannot be compared")


def row_of(job, times, by_processor):
    """A row for `against`: the median ratio of neighbouring turns, and its spread.

    Parameters
    ----------
    job : str
    times : float64 array [2, pairs]
        Seconds, of this version and of the other.
    by_processor : bool
        Of processor time, not by the wall clock.
    """
    now, then = times
    low, ratio, high = np.percentile(now / then, (20, 50, 80)).tolist()
    return {
        "job": job,
        "clock": PROCESSOR if by_processor else WALL,
        "us": float(np.median(now)) * 1e6,
        "then_us": float(np.median(then)) * 1e6,
        "ratio": ratio,
        "ratio_p20": low,
        "ratio_p80": high,
        "pairs": len(now),
    }
