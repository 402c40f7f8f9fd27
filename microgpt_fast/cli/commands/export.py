"""`microgpt-fast export`: a saved model as a program of its own."""

import os

from ...config import UsageError
from .common import users_file
from .sample import model_file

KINDS = (".c", ".py")


def add_arguments(parser):
    """The options of `export`."""
    parser.add_argument("model", metavar="MODEL", help="a saved model, or a run's folder")
    parser.add_argument(
        "--to", metavar="FILE", required=True, help="what to write: model.c or model.py, by its ending"
    )


def run(options, stdout):
    """Write the program."""
    from ...training.checkpoint import check_writable, load, replace_file

    ending = os.path.splitext(options.to)[1].lower()
    if ending not in KINDS:
        raise UsageError(f"--to {options.to}: the file's name must end in {', '.join(KINDS)}")
    with users_file("read", options.model):
        model = load(model_file(options.model))
    with users_file("write", options.to):
        target = check_writable(options.to)
    content = program(ending, model)
    with users_file("write", options.to):
        replace_file(target, content)
    stdout.write(f"{options.to}: {size_of(content)}\n")
    return 0


def program(ending, model):
    """The content of a file with this ending: bytes."""
    from ...export import programs

    write = programs.c_program if ending == ".c" else programs.python_program
    return write(model).encode()


def size_of(content):
    """The size of a file as text."""
    return f"{len(content) / 1e3:,.0f} kB" if len(content) < 1e6 else f"{len(content) / 1e6:,.2f} MB"
