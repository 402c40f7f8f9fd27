"""`microgpt-fast page`: a web page that trains the default model, for those who want to see it learn."""

from .export import ending_of, write


def add_arguments(parser):
    """The options of `page`."""
    parser.add_argument(
        "--to", metavar="FILE", default="microgpt.html", help="what to write (default: microgpt.html)"
    )


def run(options, stdout):
    """Write the page, with the default job's model as it is before its first step."""
    ending_of(options.to, (".html",))
    write(options.to, untrained, stdout)
    return 0


def untrained():
    """The page's bytes."""
    from ...export.page import page
    from ...training.whole import train

    return page(train(num_steps=0, dtype="float32").model, name="untrained", opens="train", text="maria")
