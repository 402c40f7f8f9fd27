"""`microgpt-fast export`: a saved model as a program of its own."""

import os

from ...config import UsageError
from .common import users_file
from .sample import model_file

KINDS = (".html", ".c", ".py", ".onnx")


def add_arguments(parser):
    """The options of `export`."""
    parser.add_argument("model", metavar="MODEL", help="a saved model, or a run's folder")
    parser.add_argument(
        "--to",
        metavar="FILE",
        required=True,
        help="what to write: page.html, model.c, model.py or model.onnx, by its ending",
    )
    add_weights(parser)


def add_weights(parser):
    """Add --weights."""
    parser.add_argument(
        "--weights",
        metavar="NAME",
        help="of a page: float32 (the default), float16 or int8, which are smaller",
    )


def run(options, stdout):
    """Write the program."""
    from ...training.checkpoint import load

    ending = ending_of(options.to, KINDS)
    if options.weights and ending != ".html":
        raise UsageError(f"--weights {options.weights} is for pages (--to page.html), not for {options.to}")
    with users_file("read", options.model):
        model = load(model_file(options.model))
    write(options.to, lambda: program(ending, model, options), stdout)
    return 0


def ending_of(path, allowed):
    """The ending of a file's name, one of those allowed."""
    ending = os.path.splitext(path)[1].lower()
    if ending not in allowed:
        raise UsageError(f"--to {path}: the file's name must end in {', '.join(allowed)}")
    return ending


def program(ending, model, options):
    """The content of a file with this ending: bytes."""
    if ending == ".html":
        from ...export.page import page

        return page(model, options.weights or "float32", os.path.basename(os.path.abspath(options.model)))
    if ending == ".onnx":
        from ...export.onnx import onnx_program

        return onnx_program(model)
    from ...export import programs

    make = programs.c_program if ending == ".c" else programs.python_program
    return make(model).encode()


def write(path, make, stdout):
    """Write what `make()` returns to a file, which is known to be writable before; print its size."""
    from ...training.checkpoint import check_writable, replace_file

    with users_file("write", path):
        target = check_writable(path)
    content = make()
    with users_file("write", path):
        replace_file(target, content)
    size = f"{len(content) / 1e3:,.0f} kB" if len(content) < 1e6 else f"{len(content) / 1e6:,.2f} MB"
    stdout.write(f"{path}: {size}\n")
