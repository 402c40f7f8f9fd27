"""What several commands share: options by name, and failures in one line."""

from argparse import SUPPRESS, ArgumentTypeError
from contextlib import contextmanager
from dataclasses import fields

from ...config import (
    ACTIVATIONS,
    HYPER_FORMS,
    MLPS,
    POSITIONS,
    RESIDUALS,
    GPTConfig,
    TrainConfig,
    UsageError,
)
from ...messages import file_of, tell


def truth(text):
    """True or False, as nanoGPT's users write it."""
    if text.lower() not in ("true", "false"):
        raise ArgumentTypeError(f"True or False, not {text!r:.40}")
    return text.lower() == "true"


# option -> (type, help); the names are those of GPTConfig and TrainConfig
CONSTANTS = {
    "n_layer": (int, "number of layers"),
    "n_embd": (int, "width of the embeddings"),
    "n_head": (int, "number of attention heads; must divide --n-embd"),
    "block_size": (int, "length of the longest sequence, in tokens"),
    "batch_size": (int, "documents or blocks per step"),
    "gradient_accumulation_steps": (int, "batches per step, whose gradients are averaged"),
    "shards": (int, "parts of a step's documents, whose gradients are summed in a fixed order: for --mpi"),
    "num_steps": (int, "training steps; 0 samples from the initial model"),
    "time_budget": (str, "time for the whole, such as 60s or 10m: sets --num-steps to what fits into it"),
    "learning_rate": (float, "highest learning rate"),
    "schedule": (str, "schedule of the learning rate: linear, cosine or constant"),
    "min_learning_rate": (float, "learning rate at the end of the schedule"),
    "warmup_steps": (int, "steps over which the learning rate rises"),
    "beta1": (float, "Adam's decay of the mean gradient"),
    "beta2": (float, "Adam's decay of the mean squared gradient"),
    "eps_adam": (float, "Adam's epsilon"),
    "weight_decay": (float, "AdamW's weight decay, of all parameters"),
    "grad_clip": (float, "largest norm of the gradient, which is scaled down to it; 0 for no limit"),
    "data_mode": (str, "lines (one document per line), stream (one long text cut into blocks) or auto"),
    "tokenizer": (str, "char or byte"),
    "val_fraction": (float, "fraction of the data to hold out for validation"),
    "eval_interval": (int, "steps between validations; 0 for one validation, at the end"),
    "keep_best": (bool, "keep and sample from the model of the best validation"),
    "eval_tokens": (
        int,
        "tokens that a validation reads, a fixed sample of those held out (default: all, "
        "or with --time-budget what takes little of it)",
    ),
    "target_loss": (float, "stop when the validation loss has come down to this"),
    "patience": (int, "stop after this many validations in a row without a better loss; 0 for never"),
    "temperature": (
        float,
        "temperature of sampling: low for likely text, high for varied text; 0 takes the likeliest",
    ),
    "seed": (int, "seed of document order, initial parameters and samples"),
    "num_samples": (int, "number of samples to draw"),
    "init_std": (float, "standard deviation of the initial parameters"),
    "activation": (str, f"of the feed-forward layers: {', '.join(ACTIVATIONS)}"),
    "tie_embeddings": (bool, "let wte make the logits too"),
    "position": (str, f"how attention learns where a token is: {', '.join(POSITIONS)}"),
    "qk_norm": (bool, "normalise queries and keys"),
    "qk_norm_scale": (float, "factor of their products, with --qk-norm"),
    "norm_gain": (bool, "give each rmsnorm a learnable gain"),
    "final_norm": (bool, "put an rmsnorm before lm_head"),
    "mlp": (str, f"feed-forward layers: {' or '.join(MLPS)}"),
    "mlp_hidden": (int, "their width between their matrices"),
    "logit_softcap": (float, "bend logits to lie within this; 0 for no limit"),
    "value_embedding": (bool, "add a vector of the token to each layer's values"),
    "residual": (str, f"what a layer reads of those before it: {', '.join(RESIDUALS)}"),
    "residual_scalars": (bool, "scale residual stream and embedding before each layer"),
    "layers_per_block": (int, "layers that are added up, with --residual attention_block"),
    "n_streams": (int, "streams, with --residual hyper"),
    "hyper_form": (str, f"their mixing, with --residual hyper: {' or '.join(HYPER_FORMS)}"),
    "dtype": (str, "float64, float32, or bfloat16: products of bfloat16 numbers, all else in float32"),
    "numerics": (str, "exact (bit for bit the original; float64 and --batch-size 1 only) or fast"),
    "backend": (str, "auto, cython, numba or numpy"),
    "threads": (int, "threads that share the work (default: as many as make it faster)"),
}
PRESETS_DEFAULT = "the preset's"
CHOICES = ("error", "skip", "replace")
RECIPE = (  # options that the original does not have
    "gradient_accumulation_steps", "shards", "time_budget", "schedule", "min_learning_rate", "warmup_steps",
    "weight_decay", "grad_clip", "data_mode", "tokenizer", "val_fraction", "eval_interval", "eval_tokens",
    "keep_best", "target_loss", "patience",
)  # fmt: skip
NANOGPT = {"num_steps": "--max-iters", "min_learning_rate": "--min-lr", "warmup_steps": "--warmup-iters"}
METAVARS = {int: "N", float: "X", str: "NAME"}
OTHERS = {"time_budget": "TIME"}  # metavars


def add_constants(parser, names, default):
    """Add the options for some constants; `default` says where the values come from if they are not given."""
    note = f"{default}; microgpt's are shown" if default == PRESETS_DEFAULT else default
    group = parser.add_argument_group(f"constants (default: {note})")
    for name in names:
        kind, text = CONSTANTS[name]
        if kind is bool:
            add_flag(group, name, text)
            continue
        spellings = ["--" + name.replace("_", "-"), *filter(None, [NANOGPT.get(name)])]
        group.add_argument(
            *spellings,
            dest=name,
            type=kind,
            metavar=METAVARS[kind],
            help=text + shown_default(name, text, default),
        )


def add_flag(group, name, text):
    """Add --name, --no-name, and --name=False as nanoGPT's users write it."""
    flag = name.replace("_", "-")
    group.add_argument(
        f"--{flag}", nargs="?", const=True, type=truth, dest=name, metavar="True|False", help=text
    )
    group.add_argument(f"--no-{flag}", action="store_false", default=None, dest=name, help=SUPPRESS)


def shown_default(name, text, default):
    """A constant's default for its help: that of the preset microgpt, where it is the preset's."""
    if default != PRESETS_DEFAULT or "(default" in text:
        return ""
    value = {
        field.name: field.default for config in (GPTConfig, TrainConfig) for field in fields(config)
    }.get(name)
    return "" if value is None else f" (default: {value})"


def add_raw(parser):
    """Add --raw; see `Stdout`."""
    parser.add_argument(
        "--raw", action="store_true", default=None,
        help="write control characters to a terminal as they are (default: escaped there, as \\x1b)",
    )  # fmt: skip


def add_unknown(parser):
    """Add --unknown; see `data.unknown`."""
    parser.add_argument(
        "--unknown", choices=CHOICES,
        help="what becomes of characters that the model does not know: error (default), skip or replace (by ? or "
        "what else the model knows)",
    )  # fmt: skip


def fail(code, message):
    """Report a failure in one line, and return the exit code."""
    tell(" ".join(str(message).split()))
    return code


@contextmanager
def users_file(verb, path):
    """An OSError in here is about a file that the user named: `path`, or one of several or in a folder."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot {verb} {file_of(error, path)}: {error.strerror or error}") from None
