"""`microgpt-fast sample`: text from a saved model."""

import os

from ...config import UsageError
from ...messages import PROGRAM, tell
from .common import add_constants, add_raw, add_unknown, users_file

FILE = "FILE:"  # before the name of a file that holds the prompt
WISHES = ("batch_size", "prompt", "max_new_tokens", "top_k", "top_p", "stop", "unknown")


def add_arguments(parser):
    """The options of `sample`."""
    parser.add_argument("named", metavar="MODEL", nargs="?", help="the same as --model")
    parser.add_argument(
        "--model", "--out-dir", metavar="FILE",
        help="file written by train --save, or folder of a run (its best model, or else its last)",
    )  # fmt: skip
    parser.add_argument(
        "--prompt",
        "--start",
        metavar="TEXT",
        help="text that each sample begins with; FILE:NAME for the text in a file",
    )
    parser.add_argument(
        "--max-new-tokens", metavar="N", type=int, help="most tokens to draw after the prompt"
    )
    parser.add_argument(
        "--top-k", metavar="N", type=int, help="draw only from the N most likely tokens; 0 for all"
    )
    parser.add_argument(
        "--top-p",
        metavar="X",
        type=float,
        help="draw only from the most likely tokens with probability X together",
    )
    parser.add_argument(
        "-i", "--interactive", action="store_true", help="ask for one prompt after another, until Ctrl-D"
    )
    parser.add_argument("--stop", metavar="TEXT", help="end a sample before this text")
    parser.add_argument(
        "--batch-size", metavar="N", type=int,
        help="draw this many samples at a time, each from a random stream of its own (default: one by one)",
    )  # fmt: skip
    add_unknown(parser)
    add_raw(parser)
    add_constants(parser, ("num_samples", "temperature", "seed", "dtype"), "as in the model's training")


def run(options, stdout):
    """Print samples from a saved model."""
    from ...sampling.sample import samples
    from ...training.checkpoint import load

    if options.nanogpt:
        from ...training.nanogpt import translate

        ours, ignored = translate({"init_from": "resume", **options.nanogpt}, 1)
        if ignored:
            tell(f"ignored, as it changes nothing here: {', '.join(ignored)}")
    path = options.model or options.named
    if path is None or (options.model and options.named):
        raise UsageError(f"name one model: {PROGRAM} sample MODEL, a file or the folder of a run")
    with users_file("read", path):
        model = load(model_file(path), dtype=options.dtype)
    wishes = {name: getattr(options, name) for name in WISHES}
    is_stream = bool(model.train_config) and model.train_config.data_mode == "stream"
    if options.interactive:
        return converse(model, options, wishes, stdout)
    wishes["prompt"] = prompt_of(options.prompt, is_stream)
    texts = samples(model, options.num_samples, options.temperature, options.seed, **wishes)
    stdout.samples(texts, is_long=is_stream)
    return 0


def converse(model, options, wishes, stdout):
    """Go on from each line that is typed, all from one random stream; a character that is unknown is said."""
    from ...random_stream import seeded
    from ...sampling.sample import samples

    trained = model.train_config
    seed = options.seed if options.seed is not None else trained.seed if trained else 42
    random = seeded(seed, model.backend)
    while True:
        stdout.flush()
        try:
            wishes["prompt"] = input("> " if stdout.is_terminal else "")
        except EOFError:
            stdout.write("\n" if stdout.is_terminal else "")
            return 0
        try:
            for pieces in samples(
                model, options.num_samples or 1, options.temperature, random=random, **wishes
            ):
                for piece in pieces:
                    stdout.write(piece)
                    stdout.flush()
                stdout.write("\n")
        except UsageError as error:
            tell(error)


def prompt_of(text, is_stream):
    """The text to begin with, as nanoGPT understands it: FILE:NAME stands for what the file holds.

    The newline that ends the file's last line counts for a model of one long text, not for one of lines.
    """
    if text is None or not text.startswith(FILE):
        return text
    path = text.removeprefix(FILE)
    with users_file("read", path):
        with open(path, encoding="utf-8-sig") as file:
            try:
                content = file.read()
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{path}: not UTF-8 text: byte 0x{error.object[error.start]:02x} cannot be read"
                ) from None
    return content if is_stream else content.removesuffix("\n")


def model_file(path):
    """A model's file: the path, or the best or else the last checkpoint in a run's folder."""
    if os.path.isdir(path):
        from ...training.runs import BEST, LAST

        for name in (BEST, LAST):
            if os.path.exists(os.path.join(path, name)):
                return os.path.join(path, name)
        raise UsageError(f"{path}: a folder without a model: there is no {BEST} and no {LAST}")
    return path
