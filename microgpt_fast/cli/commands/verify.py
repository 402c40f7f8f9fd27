"""`microgpt-fast verify`: compares training with the scalar reference, number by number."""

from ...config import MODEL_OPTIONS, TRAIN_OPTIONS
from ...messages import tell
from .common import CONSTANTS, RECIPE, add_constants, users_file

EXIT_CODES = """\
exit code 0 if the promise holds, 1 if not, 2 if the two cannot be compared. The promises:
  exact numerics         every loss, gradient, moment and parameter is identical, bit for bit
  float64, fast          losses print alike; in single steps, gradients are within 1e-12 of the largest
  float32                in single steps, gradients are within 1e-4 of the largest where no ReLU changes side
  bfloat16               in single steps, the gradient is within 0.1 of its norm
"""


def add_arguments(parser):
    """The options of `verify`."""
    parser.epilog = EXIT_CODES
    parser.add_argument("--preset", default="microgpt", help="microgpt (default) or first-revision")
    parser.add_argument(
        "--data", metavar="FILE", help="UTF-8 text, one document per line (default: built-in names)"
    )
    parser.add_argument(
        "--compare-steps", type=int, default=20, metavar="K", help="compare the first K steps (default: 20)"
    )
    parser.add_argument(
        "--original", metavar="FILE", help="compare with this copy of microgpt.py, with its constants"
    )
    add_constants(parser, [name for name in CONSTANTS if name not in RECIPE], "the preset's")


def run(options, stdout):
    """Compare, and print what was found."""
    from ...checking.original import read
    from ...checking.verify import Verification

    original = None
    if options.original is not None:
        with users_file("read", options.original):
            original = read(options.original)
    constants = {
        name: value
        for name, value in vars(options).items()
        if name in MODEL_OPTIONS + TRAIN_OPTIONS and value is not None
    }
    with users_file("read", options.data):
        verification = Verification(
            options.data,
            preset=options.preset,
            compare_steps=options.compare_steps,
            original=original,
            **constants,
        )
    if verification.note:
        tell(verification.note)
    for line in verification.lines():
        stdout.write(line + "\n")
        stdout.flush()
    return 0 if verification.holds else 1
