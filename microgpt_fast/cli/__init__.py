"""The command line: finds the command, reports failures in one line.

Exit codes: 0 for success; 1 if the machine failed (a full disk), `verify` or `audit` found a difference, `bench
--against` a slower job, or a run of `compare` died; 2 if what was asked for cannot be done; 130 after Ctrl-C, 143 and
129 where SIGTERM or SIGHUP ended a training or a comparison.
"""

import argparse
import os
import sys
from functools import partial
from importlib import import_module
from time import perf_counter

from .. import __version__
from ..config import UsageError, closest
from ..messages import PROGRAM, MachineError
from .commands import COMMANDS
from .commands.common import fail
from .output import Stdout

HELP_WIDTH = 100
TEXT_OPTIONS = ("--prompt", "--start", "--stop")

EXAMPLES = """\
examples:
  microgpt-fast train                               train on the built-in names, print 20 new ones
  microgpt-fast train --data names.txt > out.txt    one document per line; out.txt is what microgpt.py prints
  microgpt-fast train --preset first-revision       the model of microgpt.py's first revision
  microgpt-fast train --n-layer 2 --n-embd 32 --dtype float32 --save model.safetensors
  microgpt-fast sample --model model.safetensors --num-samples 5 --temperature 0.8
  microgpt-fast verify --original microgpt.py       compare with your copy of it, number by number
  microgpt-fast bench --job c d --threads 2         time two larger models
  microgpt-fast info                                which backend and instruction set are used, and why
"""


def main(arguments=None):
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Used instead of sys.argv.

    Returns
    -------
    exit_code : int
    """
    began = perf_counter()
    stdout = Stdout()
    try:
        try:
            options = parse(arguments)
            options.began = began  # a time budget counts from here on
            code = run(options, stdout)
        except SystemExit as end:  # after --help and --version
            code = end.code
        stdout.flush()
        return code
    except UsageError as error:
        return fail(2, error)
    except MemoryError:
        return fail(2, "not enough memory for this configuration")
    except BrokenPipeError:
        stdout.silence()
        return 0
    except KeyboardInterrupt:
        stdout.silence()
        return fail(130, "interrupted")
    except (MachineError, OSError) as error:
        stdout.silence()
        return fail(1, error)


def run(options, stdout):
    """Run a parsed command; returns the exit code."""
    import numpy as np

    from ..backends import BackendError

    stdout.is_raw = bool(getattr(options, "raw", False))
    try:
        with np.errstate(all="ignore"):  # what is not finite is reported once, by training and by sampling
            return module_of(options.command).run(options, stdout)
    except BackendError as error:
        raise UsageError(error) from None


def module_of(command):
    """The module of a command."""
    return import_module(f".commands.{command}", __package__)


class Parser(argparse.ArgumentParser):
    """An argparse parser that reports an error in one line."""

    def error(self, message):
        raise UsageError(f"{message} (see {self.prog} --help)")


def parse(arguments=None):
    """The options of a command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    layout = partial(argparse.RawDescriptionHelpFormatter, width=HELP_WIDTH)  # asking the terminal costs 2 ms
    parser = Parser(
        prog=PROGRAM,
        description="Train and sample Karpathy's microgpt: the same output, in milliseconds.",
        epilog=EXAMPLES,
        formatter_class=layout,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", parser_class=Parser)
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            allow_abbrev=False,
            formatter_class=layout,
        )
        if name in arguments:  # the other commands' modules need not be imported
            module_of(name).add_arguments(command)
            command.usage = f"{PROGRAM} {name} [options]{positionals(command)}"
            arguments = joined(arguments, command)

    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        near = closest(arguments[0], COMMANDS)
        raise UsageError(f"unknown command {arguments[0]!r}{near} (allowed: {', '.join(COMMANDS)})")
    theirs = {}
    if arguments and arguments[0] in ("train", "sample"):
        from ..training.nanogpt import split

        arguments, theirs = split(arguments)
    arguments = [dashed(argument) for argument in arguments]
    options, unknown = parser.parse_known_args(arguments)
    for name in {"prompt", "stop"} & vars(options).keys():
        if getattr(options, name) == []:  # what argparse before Python 3.13 makes of --stop=--
            setattr(options, name, "--")
    options.nanogpt = theirs
    if options.command is None:
        raise UsageError(f"choose a command: {', '.join(COMMANDS)} (see {PROGRAM} --help)")
    if unknown:
        known = [
            "--" + name.replace("_", "-") for name in vars(options) if name not in ("command", "nanogpt")
        ]
        word = unknown[0].partition("=")[0]
        if word.startswith("--"):
            from ..training.settings import ABSENT

            reason = ABSENT.get(word[2:].replace("-", "_"))
            if reason:
                raise UsageError(f"there is no option {word}: {reason}")
        near = closest(word, known)
        if word.endswith((".py", ".toml")):
            near = "; options can be in a TOML file: --config FILE"
        elif hasattr(options, "data") and os.path.exists(word):
            near = f"; did you mean --data {word}?"
        raise UsageError(f"unknown argument {word}{near} (see {PROGRAM} {options.command} --help)")
    return options


def positionals(command):
    """How a command's usage line shows what is named by its place."""
    shown = ""
    for action in command._actions:
        if not action.option_strings and action.dest != "help":
            name = action.metavar
            shown += {"?": f" [{name}]", "+": f" {name} ..."}.get(action.nargs, f" {name}")
    return shown


def joined(arguments, command):
    """The arguments, each option of a text as --option=TEXT: its text may begin with a dash, unless it is an option."""
    known, result = command._option_string_actions, []
    for argument in arguments:
        is_option = dashed(argument).partition("=")[0] in known
        if result and result[-1] in TEXT_OPTIONS and argument.startswith("-") and not is_option:
            result[-1] += f"={argument}"
        else:
            result.append(argument)
    return result


def dashed(argument):
    """An option with dashes in its name, even if it was written with underscores, as for nanoGPT."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument
