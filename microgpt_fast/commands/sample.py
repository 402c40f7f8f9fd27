"""`microgpt-fast sample`: text from a saved model."""

from .common import add_constants, users_file


def add_arguments(parser):
    """The options of `sample`."""
    parser.add_argument("--model", metavar="FILE", required=True, help="what train --save wrote")
    add_constants(parser, ("num_samples", "temperature", "seed"), "those the model was trained with")


def run(options, stdout):
    """Print samples from a saved model."""
    from ..checkpoint import load
    from ..sample import samples

    with users_file("read", options.model):
        model = load(options.model)
    stdout.samples(samples(model, options.num_samples, options.temperature, options.seed))
    return 0
