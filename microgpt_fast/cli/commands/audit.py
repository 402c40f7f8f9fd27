"""`microgpt-fast audit`: whether another program's losses are microgpt's, and if not, why."""

import json
import os
import shlex
from itertools import islice

from ...config import MODEL_OPTIONS, TRAIN_OPTIONS, UsageError
from ...messages import tell
from .common import CONSTANTS, RECIPE, add_constants, users_file

INPUT = "input.txt"  # what microgpt.py reads
UNUSED = ("num_samples", "temperature", "dtype", "numerics", "backend", "threads")
EXIT_CODES = """\
The command, such as python3 port.py or "./port --steps 100" (in quotes where it has options), is run without a shell,
in this folder, and ended when it has printed the losses of the first --steps steps. A loss is the number after "loss"
in a line, its step the number after "step" or "iter", if there is one. Data and constants must be those of the port.

exit code 0 if the losses are those of microgpt (in float64 or float32), 1 if not, 2 if there is nothing to compare
"""


def add_arguments(parser):
    """The options of `audit`."""
    parser.epilog = EXIT_CODES
    parser.usage = "microgpt-fast audit COMMAND [options]"
    parser.add_argument("words", metavar="COMMAND", nargs="+", help="the program to run")
    parser.add_argument(
        "--saved", action="store_true", help="COMMAND is a file: what a program has printed, which is not run"
    )
    parser.add_argument(
        "--data", metavar="FILE", help=f"what the program trains on (default: {INPUT} if there is one)"
    )
    parser.add_argument("--preset", default="microgpt", help="microgpt (default) or first-revision")
    parser.add_argument(
        "--steps", type=int, default=100, metavar="K", help="compare the first K steps (default: 100)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=300.0,
        metavar="X",
        help="end the program after so long (default: 300)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    names = [name for name in CONSTANTS if name not in (*RECIPE, *UNUSED)]
    add_constants(parser, names, "the preset's")


def run(options, stdout):
    """Compare, and print the finding."""
    from ...lab.audit import Audit, as_dict, lines
    from ...training.trainer import Trainer

    if options.steps < 1:
        raise UsageError(f"--steps must be at least 1, not {options.steps}")
    data = options.data or (INPUT if os.path.exists(INPUT) else None)
    constants = {
        name: value
        for name, value in vars(options).items()
        if name in MODEL_OPTIONS + TRAIN_OPTIONS and value is not None
    }
    with users_file("read", data):
        trainer = Trainer(data, preset=options.preset, **constants)
    tell(f"the reference trains on {data or 'the built-in names: give --data for others'}")
    audit = Audit(trainer, saved(options) if options.saved else from_program(options))
    text = [json.dumps(as_dict(audit), allow_nan=False)] if options.json else lines(audit)
    stdout.write("\n".join(text) + "\n")
    return 0 if audit.holds else 1


def first_steps(lines, count):
    """The printed losses up to a step, and no line beyond."""
    from ...lab.printed import losses_in

    printed = []
    for loss in islice(losses_in(lines), count):
        if loss.step <= count:
            printed.append(loss)
        if loss.step >= count:
            break
    return printed


def saved(options):
    """The losses in a file."""
    from ...lab.printed import split_lines
    from ...lab.program import MOST_BYTES

    path = " ".join(options.words)
    with users_file("read", path), open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UsageError(f"{path}: more than {MOST_BYTES:,} bytes")
    printed = first_steps(split_lines(content.decode("utf-8", "replace")), options.steps)
    if not printed:
        raise UsageError(
            f"{path}: no losses of the first {options.steps} steps: no line has 'loss' and a number"
        )
    return printed


def from_program(options):
    """The losses that the program prints."""
    from ...lab.program import running

    with running(words_of(options.words), options.seconds) as program:
        printed = first_steps(program.lines(), options.steps)
        reason = program.last_error()
        if program.was_late:
            tell(f"the program was ended after {options.seconds:g} s, with {len(printed)} losses")
        elif program.exit_code:
            tell(f"the program ended with exit code {program.exit_code}{': ' * bool(reason)}{reason}")
    if not printed:
        raise UsageError("the program printed no losses of the first steps: no line with 'loss' and a number")
    return printed


def words_of(arguments):
    """The words of a command that was given as one argument or as several."""
    if len(arguments) > 1:
        return arguments
    try:
        words = shlex.split(arguments[0])
    except ValueError as error:
        raise UsageError(f"the command cannot be split into words: {error}: {arguments[0]!r}") from None
    if not words:
        raise UsageError("the command is empty")
    return words
