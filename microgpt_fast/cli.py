"""The command line: `microgpt-fast train`, `sample`, `verify`, `bench`, `info`.

Exit codes: 0; 1, the machine failed (a full disk), or `verify` found a difference; 2, what was asked for
cannot be done; 130, Ctrl-C.
"""

import argparse
import os
import signal
from contextlib import contextmanager
from functools import partial

from . import __version__
from .config import DTYPES, MODEL_OPTIONS, TRAIN_OPTIONS, UsageError, closest
from .output import PROGRAM, MachineError, Stdout, machines_file, tell

HELP_WIDTH = 100

EXAMPLES = """\
examples:
  microgpt-fast train                               train on the built-in names, print 20 new ones
  microgpt-fast train --data names.txt > out.txt    a document a line; out.txt is what microgpt.py prints
  microgpt-fast train --preset first-revision       the model of microgpt.py's first revision
  microgpt-fast train --n-layer 2 --n-embd 32 --dtype float32 --save model.safetensors
  microgpt-fast sample --model model.safetensors --num-samples 5 --temperature 0.8
  microgpt-fast verify --original microgpt.py       is it the same? number by number
  microgpt-fast bench --job c d --threads 2         two larger models, timed
  microgpt-fast info                                what runs here, and why
"""

# option -> (type, help); the names are those of GPTConfig and TrainConfig
CONSTANTS = {
    "n_layer": (int, "layers"),
    "n_embd": (int, "width of the embeddings"),
    "n_head": (int, "attention heads; divides --n-embd"),
    "block_size": (int, "longest sequence"),
    "batch_size": (int, "documents a step"),
    "num_steps": (int, "training steps; 0 samples from the initial model"),
    "learning_rate": (float, "of the first step; falls linearly to 0"),
    "beta1": (float, "Adam's decay of the mean gradient"),
    "beta2": (float, "Adam's decay of the mean squared gradient"),
    "eps_adam": (float, "Adam's epsilon"),
    "temperature": (float, "of the samples: low is likely, high is varied"),
    "seed": (int, "of document order, initial parameters, and samples"),
    "num_samples": (int, "documents to draw; 0 for none"),
    "init_std": (float, "standard deviation of the initial parameters"),
    "activation": (str, "relu or relu2"),
    "dtype": (str, "float64 or float32"),
    "numerics": (str, "exact (bit for bit the original; float64 and --batch-size 1 only) or fast"),
    "backend": (str, "auto, cython, numba or numpy"),
    "threads": (int, "threads that share the work"),
}
VERIFY_EXIT_CODES = """\
exit code 0 if what is promised holds, 1 if not, 2 if it cannot be compared. Promised are
  exact numerics         every loss, gradient, moment and parameter identical, bit for bit
  float64, fast          losses that print alike, in single steps gradients within 1e-12 of the largest
  float32                in single steps, gradients within 1e-4 of the largest where no ReLU changes side
"""
METAVARS = {int: "N", float: "X", str: "NAME"}
SAMPLE_CONSTANTS = ("num_samples", "temperature", "seed")


def main(arguments=None):
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Instead of sys.argv's.

    Returns
    -------
    exit_code : int
    """
    stdout = Stdout()
    try:
        try:
            code = run(parse(arguments), stdout)
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

    from .backends import BackendError

    try:
        with np.errstate(all="ignore"):  # what is not finite is reported once, by training and by sampling
            runners = (run_train, run_sample, run_verify, run_bench, run_info)
            return {runner.__name__: runner for runner in runners}[f"run_{options.command}"](options, stdout)
    except BackendError as error:
        raise UsageError(error) from None


class Parser(argparse.ArgumentParser):
    """argparse, with one line for an error."""

    def error(self, message):
        raise UsageError(f"{message} (see {self.prog} --help)")


def parse(arguments=None):
    """The options of a command line."""
    layout = partial(argparse.RawDescriptionHelpFormatter, width=HELP_WIDTH)  # asking the terminal costs 2 ms
    parser = Parser(
        prog=PROGRAM,
        description="microgpt, the same, in milliseconds.",
        epilog=EXAMPLES,
        formatter_class=layout,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", parser_class=Parser)

    def command(name, text):
        return commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            allow_abbrev=False,
            usage=f"{PROGRAM} {name} [options]",
            formatter_class=layout,
        )

    train = command("train", "train a model and print samples from it")
    sample = command("sample", "print samples from a saved model")
    sample.add_argument("--model", metavar="FILE", required=True, help="what train --save wrote")
    verify = command("verify", "compare training, number by number, with the scalar reference")
    verify.epilog = VERIFY_EXIT_CODES
    for parser_of_command in (train, verify):
        parser_of_command.add_argument(
            "--preset", default="microgpt", help="microgpt (default) or first-revision"
        )
        parser_of_command.add_argument(
            "--data", metavar="FILE", help="UTF-8 text, one document a line (default: built-in names)"
        )
    verify.add_argument(
        "--compare-steps", type=int, default=20, metavar="K", help="the first K steps (default: 20)"
    )
    verify.add_argument(
        "--original", metavar="FILE", help="compare with this copy of microgpt.py, and take its constants"
    )
    train.add_argument("--save", metavar="FILE", help="write the trained model here")
    train.add_argument("--quiet", action="store_true", help="leave the step lines out")
    for parser_of_command, names, default in (
        (train, CONSTANTS, "the preset's"),
        (verify, CONSTANTS, "the preset's"),
        (sample, SAMPLE_CONSTANTS, "those the model was trained with"),
    ):
        constants = parser_of_command.add_argument_group(f"constants (default: {default})")
        for name in names:
            kind, text = CONSTANTS[name]
            constants.add_argument(
                "--" + name.replace("_", "-"), type=kind, metavar=METAVARS[kind], help=text
            )
    bench = command("bench", "measure how fast this machine trains, against what it could do and others")
    bench.add_argument(
        "--job",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="a, a16, b, c, d, decode, decode-c, decode-d, startup (default: all, and all kernels)",
    )
    bench.add_argument(
        "--kernel", nargs="+", action="extend", metavar="NAME", help="a kernel, such as gemm_nn, or all"
    )
    bench.add_argument("--sweep", action="store_true", help="over widths, block sizes and batch sizes")
    bench.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default) or float64")
    bench.add_argument("--numerics", default="fast", metavar="NAME", help="fast (default) or exact")
    bench.add_argument("--backend", default="auto", metavar="NAME", help=CONSTANTS["backend"][1])
    bench.add_argument("--threads", type=int, metavar="N", help=CONSTANTS["threads"][1])
    bench.add_argument("--seconds", type=float, default=2.0, metavar="X", help="for each (default: 2)")
    bench.add_argument(
        "--peers", metavar="FOLDER", help="time the *_peer.py of this folder in turn (bench, in the sources)"
    )
    bench.add_argument(
        "--peer",
        action="append",
        metavar="NAME[:DTYPE:BATCH]=COMMAND",
        help="time any program as a whole process; {steps} in it stands for the number of steps",
    )
    bench.add_argument("--original", metavar="FILE", help="time this copy of microgpt.py, with --job a")
    bench.add_argument("--json", action="store_true", help="as one JSON object")
    bench.add_argument("--csv", metavar="FILE", help="write the results here, one a row")
    bench.add_argument("--plot", metavar="FILE", help="draw sweep and kernels as PNG; needs matplotlib")
    info = command("info", "show the version, the backends, and what this machine has")
    info.add_argument("--json", action="store_true", help="as one JSON object")

    options, unknown = parser.parse_known_args(arguments)
    if options.command is None:
        raise UsageError(f"choose a command: {', '.join(commands.choices)} (see {PROGRAM} --help)")
    if unknown:
        known = ["--" + name.replace("_", "-") for name in vars(options) if name != "command"]
        word = unknown[0].partition("=")[0]
        raise UsageError(
            f"unknown argument {word}{closest(word, known)} (see {PROGRAM} {options.command} --help)"
        )
    return options


def run_train(options, stdout):
    """Train, print what the original prints, save."""
    from .checkpoint import check_writable, save
    from .sample import samples
    from .training import Trainer

    if options.save is not None:
        with users_file("write", options.save):
            check_writable(options.save)
    with users_file("read", options.data):
        trainer = Trainer(options.data, preset=options.preset, **constants_of(options))
    if trainer.note:
        tell(trainer.note)
    config, model = trainer.config, trainer.model
    stdout.survives_pipe = options.save is not None
    stdout.write(
        f"num docs: {len(trainer.corpus)}\n"
        f"vocab size: {model.config.vocab_size}\n"
        f"num params: {model.config.num_params}\n"
    )
    with stop_on_interrupt(trainer):
        for losses in trainer.chunks():
            if not options.quiet:
                stdout.steps(trainer.step, config.num_steps, losses)
        stdout.end_steps()
        if options.save is not None:
            with machines_file(options.save):
                save(model, options.save)
    if config.num_samples and not trainer.stopping:
        stdout.write("\n--- inference (new, hallucinated names) ---\n")
        stdout.samples(samples(model, config.num_samples, config.temperature, random=trainer.random))
    elif trainer.step and not options.quiet:
        stdout.write("\n")
    stdout.flush()
    if trainer.stopping:
        saved = f"; saved {options.save}" if options.save is not None else ""
        return fail(130, f"interrupted after step {trainer.step} of {config.num_steps}{saved}")
    if trainer.step:
        tell(speed(trainer))
    return 0


def constants_of(options):
    """The constants that were given."""
    return {
        name: value
        for name, value in vars(options).items()
        if name in MODEL_OPTIONS + TRAIN_OPTIONS and value is not None
    }


def run_verify(options, stdout):
    """Compare training with the reference, and print what was found."""
    from .original import read
    from .verify import Verification

    original = None
    if options.original is not None:
        with users_file("read", options.original):
            original = read(options.original)
    with users_file("read", options.data):
        verification = Verification(
            options.data,
            preset=options.preset,
            compare_steps=options.compare_steps,
            original=original,
            **constants_of(options),
        )
    if verification.note:
        tell(verification.note)
    for line in verification.lines():
        stdout.write(line + "\n")
        stdout.flush()
    return 0 if verification.holds else 1


def run_sample(options, stdout):
    """Print samples from a saved model."""
    from .checkpoint import load
    from .sample import samples

    with users_file("read", options.model):
        model = load(options.model)
    stdout.samples(samples(model, options.num_samples, options.temperature, options.seed))
    return 0


def run_bench(options, stdout):
    """Measure, and print, write or draw the results."""
    from .benchmark.report import run_bench

    return run_bench(options, stdout)


def run_info(options, stdout):
    """Print what runs here, and why."""
    import platform

    import numpy

    from .backends import describe

    report = {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        **describe(),
        "dtypes": DTYPES,
        "cpus": os.cpu_count(),
        "threads": 1,
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


def speed(trainer):
    """One line on what a training run took, and on what."""
    from .backends import name_of

    model, seconds = trainer.model, trainer.seconds
    where = " ".join(filter(None, (name_of(model.backend), getattr(model.engine, "isa", None))))
    count = getattr(model.engine, "threads", 1)
    how = f"{model.parameters.dtype}, {model.numerics}, {count} {'thread' if count == 1 else 'threads'}"
    return (
        f"{trainer.step} steps in {seconds:.3f} s: {trainer.step / seconds:,.0f} steps/s, "
        f"{trainer.tokens / seconds:,.0f} tokens/s ({where}, {how})"
    )


def fail(code, message):
    """Say why, in one line, and return the exit code."""
    tell(" ".join(str(message).split()))
    return code


@contextmanager
def users_file(verb, path):
    """An OSError in here is about a file that the user named."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot {verb} {path}: {error.strerror or error}") from None


@contextmanager
def stop_on_interrupt(trainer):
    """Let Ctrl-C in here end the training after the steps under way; a second one ends the program."""

    def stop(number, frame):
        if trainer.stopping:
            raise KeyboardInterrupt
        trainer.stopping = True

    try:
        previous = signal.signal(signal.SIGINT, stop)
    except ValueError:  # only the main thread may; elsewhere no Ctrl-C arrives
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
