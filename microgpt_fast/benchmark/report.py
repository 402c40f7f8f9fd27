"""The command `bench`: what to measure, and the results as a table, as JSON, as CSV."""

import csv
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
from . import jobs, processes
from .runs import Bench

ALL = "all"
COLUMNS = (
    *("date", "machine", "cpus", "load", "python", "numpy", "microgpt_fast"),
    *("job", "kernel", "size", "who", "dtype", "numerics", "backend", "isa", "threads", "batch_size"),
    *("n_layer", "n_head", "n_embd", "block_size", "vocab_size"),
    *("us_per_step", "us_p20", "us_p80", "cpu_us_per_step", "us_per_step_outside", "tokens_per_s", "us"),
    *("gflops", "gb_per_s", "operations_per_byte", "peak_gflops", "fraction_of_peak"),
    *("bandwidth_gb_per_s", "fraction_of_bound"),
    *("peak_rss_mb", "first_loss", "loss", "steps", "seconds", "numpy_seconds", "ratio_to_numpy"),
    *("ratio", "note"),
)


def run_bench(options, stdout):
    """Run the command; see `microgpt-fast bench --help` for the options. Returns the exit code."""
    names, kernels = selection(options)
    commands = [processes.parse_peer(text) for text in options.peer or []]
    if commands and (len(names) != 1 or names[0] not in jobs.JOBS):
        raise UsageError(f"--peer times one job: choose it with --job ({', '.join(jobs.JOBS)})")
    programs = processes.peer_programs(options.peers) if options.peers is not None else []
    check_files(options, names, kernels)
    bench = make_bench(options, names)
    environment = describe_environment()
    results = []
    if not options.json:
        stdout.write(heading(environment))
    for result in measure(bench, names, kernels, options.sweep, programs, commands, options.original):
        results.append(result)
        if not options.json:
            stdout.write("".join(f"{line}\n" for line in lines_of(result)))
            stdout.flush()
    if options.json:
        report = results[0] if len(results) == 1 else {"results": results}
        stdout.write(json.dumps({**report, "environment": environment}, indent=2) + "\n")
    if options.csv is not None:
        write_csv(options.csv, environment, results)
    if options.plot is not None:
        from .plots import draw

        draw(results, environment, options.plot)
    return 0


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
    for path in filter(None, (options.csv, options.plot)):
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
    backend = backends.load(config.backend)
    batch_sizes = [jobs.JOBS[name].batch_size for name in names if name in jobs.JOBS]
    batch_sizes += [jobs.DECODE[name][1] for name in names if name in jobs.DECODE]
    batch_sizes += [job.batch_size for job in jobs.sweep()] if options.sweep else []
    for batch_size in batch_sizes:
        resolve_numerics(config.numerics, config.dtype, batch_size, backend, jobs.NAMES_MODEL)
    return Bench(backend, config.dtype, config.numerics, config.threads or 1, options.seconds)


def measure(bench, names, kernels, sweep, programs, commands, original):
    """The results, one after another."""
    for name in names:
        if name in jobs.JOBS:
            result = bench.training(jobs.JOBS[name], programs, commands, original if name == "a" else None)
            if name == "a":
                result["us_per_step_outside"] = bench.outside(jobs.JOBS[name])
            yield result
        else:
            yield bench.startup() if name == jobs.STARTUP else bench.decode(name)
    for name in kernels:
        yield from bench.kernels(name)
    for job in jobs.sweep() if sweep else ():
        yield bench.training(job, programs if job.name.startswith("n_embd") else ())


def describe_environment():
    """The machine and the versions, and how busy the machine is with other things."""
    try:
        load = round(os.getloadavg()[0], 2)
    except OSError:
        load = None
    if load is not None and load > 0.5:
        tell(f"note: this machine is busy (load {load}): times will be too long, and vary")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": processor(),
        "cpus": os.cpu_count(),
        "load": load,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "microgpt_fast": __version__,
    }


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


def rows_of(results):
    """Results and, after each, those of its peers."""
    for result in results:
        yield result
        yield from result.get("peers", ())


def write_csv(path, environment, results):
    """One row an implementation and job."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows_of(results):
            writer.writerow({**environment, **row})


def heading(environment):
    return ", ".join(f"{name} {value}" for name, value in environment.items()) + "\n"


def lines_of(result):
    """A result as lines of text."""
    if "kernel" in result:
        yield (
            f"{result['kernel']:22} {result['size']:38} {result['dtype']} {time_text(result, 'us')}"
            f"{result['gflops']:8.1f} GF/s{percent(result, 'fraction_of_peak', 'of peak')}"
            f"{result['gb_per_s']:8.1f} GB/s"
        )
        return
    if "seconds" in result:
        yield (
            f"{result['job']}: {result['seconds']:.3f} s ({result['seconds_p20']:.3f} to "
            f"{result['seconds_p80']:.3f}), {result['ratio_to_numpy']:.2f} times importing NumPy "
            f"({result['numpy_seconds']:.3f} s)"
        )
        return
    how = ", ".join(str(result[key]) for key in ("backend", "isa", "dtype", "numerics") if result[key])
    threads = result["threads"]
    yield f"{result['job']} ({how}, {threads} {'thread' if threads == 1 else 'threads'})"
    for row in rows_of([result]):
        text = f"  {row['who']:16}{time_text(row, 'us_per_step')}"
        if "tokens_per_s" in row:
            text += f"{row['tokens_per_s']:14,.0f} tokens/s"
        text += percent(row, "fraction_of_peak", "of peak") + percent(row, "fraction_of_bound", "of bound")
        if "peak_rss_mb" in row:
            text += f"{row['peak_rss_mb']:7.0f} MB"
        if row.get("loss") is not None:
            text += f"  loss {row['loss']:.4f} after {row['steps']:,} steps"
        if row.get("ratio") is not None:
            text += f"  {row['ratio']:.2f} times ours"
        yield text + (f"  not compared: {row['note']}" if row.get("note") else "")
    if "us_per_step_outside" in result:
        yield f"  from outside    {result['us_per_step_outside']:12,.2f} us"
    if result.get("cpu_us_per_step"):
        yield f"  processor time  {result['cpu_us_per_step']:12,.2f} us"
    yield from (f"  {note}" for note in result.get("notes", ()))


def time_text(row, key):
    return f"{row[key]:12,.2f} us ({row['us_p20']:,.2f} to {row['us_p80']:,.2f})"


def percent(row, key, of):
    return f"{100 * row[key]:6.1f} % {of}" if row.get(key) is not None else ""
