"""The command `bench`: what to measure, with what it is compared, and where the results go."""

import json
import os
import platform
from datetime import UTC, datetime

import numpy as np

from .. import __version__, backends
from ..checking.cases import CASES
from ..config import TrainConfig, UsageError
from ..messages import tell
from ..model import resolve_numerics
from ..training.checkpoint import check_writable
from . import against, jobs, processes, programs, saved, versions
from .runs import Bench
from .table import heading, lines_of, write_csv

ALL = "all"
BUSY = 0.5  # programs that want to run, on average over the last minute


def run_bench(options, stdout):
    """Run the command; see `microgpt-fast bench --help` for the options. Returns the exit code."""
    names, kernels = selection(options)
    commands = [programs.parse_peer(text) for text in options.peer or []]
    if commands and (len(names) != 1 or names[0] not in jobs.JOBS):
        raise UsageError(f"--peer times one job: choose it with --job ({', '.join(jobs.JOBS)})")
    peers = processes.peer_programs(options.peers) if options.peers is not None else []
    limit = against.check_options(options)
    check_files(options, names, kernels)
    bench = make_bench(options, names)
    if options.against_python is not None:
        return run_in_turn(options, bench, limit, stdout)
    then = None if options.against is None else saved.read(options.against)
    environment = describe_environment()
    if then is not None:
        now = saved.describe(environment, bench.settings(), [])
        saved.check_comparable(options.against, then, now, names)
    warn_if_busy(environment)
    text = Text(options.json, stdout)
    text.write(heading(environment))
    results = []
    for result in measure(bench, names, kernels, options.sweep, peers, commands, options.original):
        results.append(result)
        text.write(*lines_of(result))
    write_files(options, environment, bench.settings(), results)
    report = {**(results[0] if len(results) == 1 else {"results": results}), "environment": environment}
    rows = []
    if then is not None:
        rows = list(saved.compare(then, results))
        text.write("then: " + heading(then["environment"]), *(against.line_of(row, limit) for row in rows))
        report["against"] = {"limit": limit, "environment": then["environment"], "rows": rows}
    text.end(report)
    return against.verdict(rows, limit)


def run_in_turn(options, bench, limit, stdout):
    """Time this version and another in turn; returns the exit code."""
    pair = versions.this_version(), versions.other_version(options.against_python)
    packages = versions.check_versions(pair, bench.settings())
    environment = describe_environment()
    warn_if_busy(environment)
    text = Text(options.json, stdout)
    text.write(heading(environment), f"now: {packages[0]}", f"then: {packages[1]}")
    rows = []
    for row in versions.compare(options.job, bench.settings(), bench.seconds, pair):
        rows.append(row)
        text.write(against.line_of(row, limit))
    packages = dict(zip(("now", "then"), packages))
    text.end({"limit": limit, "rows": rows, "packages": packages, "environment": environment})
    return against.verdict(rows, limit)


class Text:
    """Lines on stdout as they come; with --json, one object at the end instead."""

    def __init__(self, as_json, stdout):
        self._as_json, self._stdout = as_json, stdout

    def write(self, *lines):
        if not self._as_json:
            self._stdout.write("".join(f"{line}\n" for line in lines))
            self._stdout.flush()

    def end(self, report):
        if self._as_json:
            self._stdout.write(json.dumps(report, indent=2) + "\n")


def write_files(options, environment, settings, results):
    """The files that were asked for."""
    if options.save is not None:
        saved.write(options.save, saved.describe(environment, settings, results))
    if options.csv is not None:
        write_csv(options.csv, environment, results)
    if options.plot is not None:
        from .plots import draw

        draw(results, environment, options.plot)


def selection(options):
    """Names of the jobs and of the kernels to measure."""
    names, kernels = options.job or [], options.kernel or []
    if not (names or kernels or options.sweep):
        return list(jobs.NAMES), list(CASES)
    for name in names:
        jobs.check_name("job", name, jobs.NAMES)
    for name in kernels:
        jobs.check_name("kernel", name, (*CASES, ALL))
    return names, list(CASES) if ALL in kernels else kernels


def check_files(options, names, kernels):
    """Refuse now what would fail after the timing."""
    if options.original is not None:
        if "a" not in names:
            raise UsageError("--original runs job a: choose it with --job a")
        if not os.path.isfile(options.original):
            raise UsageError(f"--original: no file {options.original}")
    for path in (options.csv, options.plot, options.save):
        if path is None:
            continue
        try:
            check_writable(path)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from None
    if options.plot is not None:
        if not (options.sweep or kernels):
            raise UsageError("--plot draws a sweep or kernels: add --sweep or --kernel all")


def make_bench(options, names):
    """The backend and the numerics asked for, if all that is to be measured can be had in them."""
    config = TrainConfig(
        dtype=options.dtype, numerics=options.numerics, backend=options.backend, threads=options.threads
    )
    if not 0 < options.seconds < float("inf"):
        raise UsageError(f"--seconds must be above 0, not {options.seconds}")
    if options.kernel and config.dtype == "bfloat16":
        raise UsageError(
            "kernels are timed in float32 or float64, not in bfloat16, which whole models alone have"
        )
    backend = backends.load(config.backend)
    batch_sizes = [jobs.JOBS[name].batch_size for name in names if name in jobs.JOBS]
    batch_sizes += [jobs.DECODE[name][1] for name in names if name in jobs.DECODE]
    batch_sizes += [job.batch_size for job in jobs.sweep()] if options.sweep else []
    for batch_size in batch_sizes:
        resolve_numerics(config.numerics, config.dtype, batch_size, backend, jobs.NAMES_MODEL)
    return Bench(backend, config.dtype, config.numerics, config.threads or 1, options.seconds)


def measure(bench, names, kernels, sweep, peers, commands, original):
    """The results, one after another."""
    for name in names:
        if name in jobs.JOBS:
            result = bench.training(jobs.JOBS[name], peers, commands, original if name == "a" else None)
            if name == "a":
                result["us_per_step_outside"] = bench.outside(jobs.JOBS[name])
            yield result
        else:
            yield bench.startup() if name == jobs.STARTUP else bench.decode(name)
    for name in kernels:
        yield from bench.kernels(name)
    for job in jobs.sweep() if sweep else ():
        yield bench.training(job, peers if job.name.startswith("n_embd") else ())


def describe_environment():
    """The machine and the versions, and how busy the machine is with other things: its load, if it is known."""
    try:
        load = round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Windows has none
        load = None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": processor(),
        "cpus": os.cpu_count(),
        "load": load,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "microgpt_fast": __version__,
    }


def warn_if_busy(environment):
    """Say on stderr that other programs disturb the measurements."""
    load = environment["load"]
    if load is not None and load > BUSY:
        tell(f"note: this machine is busy (load {load}): times will be too long, and vary")


def processor():
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        family = f"family {fields['cpu family']} model {fields['model']}"
        return f"{fields['model name']} ({family})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()
