"""`microgpt-fast info`: which backend and instruction set are used, and why."""

import os

from ... import __version__
from ...config import DTYPES, MODEL_OPTIONS
from .common import add_constants

# what the path depends on
PATH_OPTIONS = (
    *MODEL_OPTIONS, "batch_size", "gradient_accumulation_steps", "grad_clip", "weight_decay", "shards", "dtype",
    "numerics", "backend",
)  # fmt: skip


def add_arguments(parser):
    """The options of `info`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--preset", metavar="NAME", default="microgpt", help="of the model whose path is shown"
    )
    add_constants(parser, PATH_OPTIONS, "the preset's")


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
        "path": path(options),
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


def path(options):
    """The path that trains the model that the options describe: "exact", "mixed", "narrow", "general" or
    "composed"."""
    from ...backends import load
    from ...config import resolve
    from ...model import resolve_numerics

    given = {name: value for name in PATH_OPTIONS if (value := getattr(options, name)) is not None}
    make_model_config, config = resolve(options.preset, **given)
    backend, model_config = load(config.backend), make_model_config(1)
    has_gradient = config.gradient_accumulation_steps > 1 or config.grad_clip or config.shards
    is_plain = not (has_gradient or config.weight_decay)
    numerics, _ = resolve_numerics(
        config.numerics, config.dtype, config.batch_size, backend, model_config, is_plain
    )
    name = backend.path_of(model_config, numerics, config.dtype)
    return "general" if has_gradient and name == "narrow" else name  # see `Trainer.path`


def report_lines(report, indent=""):
    """A nested dictionary as indented lines of text."""
    for name, value in report.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from report_lines(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            yield f"{indent}{name}: {text}"
