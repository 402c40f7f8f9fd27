"""`microgpt-fast data`: downloads known texts."""

from ...messages import MachineError


def add_arguments(parser):
    """The options of `data`."""
    parser.add_argument(
        "name", metavar="NAME", help="names (of the original) or tinyshakespeare (of nanoGPT)"
    )
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: the cache)")


def run(options, stdout):
    """Download a text, and print its path."""
    from ...data.fetch import FetchError, fetch

    try:
        stdout.write(fetch(options.name, options.out) + "\n")
    except FetchError as error:
        raise MachineError(error) from None
    return 0
