"""`microgpt-fast info`: which backend and instruction set are used, and why."""

import os

from ... import __version__
from ...config import DTYPES


def add_arguments(parser):
    """The options of `info`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options, stdout):
    """Print which backend and instruction set are used, and why."""
    import platform

    import numpy

    from ...backends import describe
    from ...workload import cores

    report = {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        **describe(),
        "dtypes": DTYPES,
        "cpus": os.cpu_count(),
        "threads": cores(),  # the most that are used unless --threads says otherwise
    }
    if options.json:
        import json

        stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        stdout.write("".join(f"{line}\n" for line in report_lines(report)))
    return 0


def report_lines(report, indent=""):
    """A nested dictionary as indented lines of text."""
    for name, value in report.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from report_lines(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            yield f"{indent}{name}: {text}"
