"""`microgpt-fast info`: what runs here, and why."""

import os

from ... import __version__
from ...config import DTYPES


def add_arguments(parser):
    """The options of `info`."""
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(options, stdout):
    """Print what runs here, and why."""
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
        "threads": cores(),  # at most, unless told otherwise
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
