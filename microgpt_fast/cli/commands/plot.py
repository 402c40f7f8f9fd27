"""`microgpt-fast plot`: draws the loss curves of runs."""

from argparse import BooleanOptionalAction

from ...messages import machines_file


def add_arguments(parser):
    """The options of `plot`."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders written by train --out")
    parser.add_argument(
        "--out",
        metavar="FILE",
        default="loss.png",
        help="the picture, as png, svg or pdf (default: loss.png)",
    )
    parser.add_argument(
        "--against", choices=("step", "seconds", "share"), default="step",
        help="the horizontal axis (default: step); share is that of each run's steps",
    )  # fmt: skip
    parser.add_argument(
        "--log", action=BooleanOptionalAction, help="a logarithmic axis (default: where runs differ tenfold)"
    )


def run(options, stdout):
    """Draw the curves, and print the picture's path."""
    from ...training.plot import plot

    with machines_file(options.out):
        plot(options.runs, options.out, options.against, options.log)
    stdout.write(options.out + "\n")
    return 0
