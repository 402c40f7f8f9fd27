"""`microgpt-fast sample`: text from a saved model."""

import os

from ...config import UsageError
from .common import add_constants, add_raw, users_file

FILE = "FILE:"  # before the name of a file that holds the prompt
WISHES = ("batch_size", "prompt", "max_new_tokens", "top_k", "top_p", "stop")


def add_arguments(parser):
    """The options of `sample`."""
    parser.add_argument(
        "--model", "--out-dir", metavar="FILE", required=True,
        help="file written by train --save, or folder written by train --out (its best model, or else its last)",
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
    parser.add_argument("--stop", metavar="TEXT", help="end a sample before this text")
    parser.add_argument(
        "--batch-size", metavar="N", type=int,
        help="draw this many samples at a time, each from a random stream of its own (default: one by one)",
    )  # fmt: skip
    add_raw(parser)
    add_constants(parser, ("num_samples", "temperature", "seed", "dtype"), "as in the model's training")


def run(options, stdout):
    """Print samples from a saved model."""
    from ...sampling.sample import samples
    from ...training.checkpoint import load

    with users_file("read", options.model):
        model = load(model_file(options.model), dtype=options.dtype)
    wishes = {name: getattr(options, name) for name in WISHES}
    is_stream = bool(model.train_config) and model.train_config.data_mode == "stream"
    wishes["prompt"] = prompt_of(options.prompt, is_stream)
    texts = samples(model, options.num_samples, options.temperature, options.seed, **wishes)
    stdout.samples(texts, is_long=is_stream)
    return 0


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
