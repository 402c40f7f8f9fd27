"""All constants of a model and of its training; this is the one place where they are checked."""

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from . import parameters
from .aliases import ALIASES, MEANT
from .parameters import Parameter

ACTIVATIONS = ("relu", "relu2", "gelu", "silu")
BACKENDS = ("auto", "cython", "numba", "numpy")
BOS_PLACES = ("last", "first")
DATA_MODES = ("lines", "stream", "auto")
DTYPES = ("float32", "float64")
NUMERICS = ("exact", "fast")
SCHEDULES = ("linear", "cosine", "constant")
TOKENIZERS = ("char", "byte")
MAX_SIZE = 2**31 - 1  # the kernels index tokens and lengths with 32 bits
MAX_STEPS = 2**53  # step / num_steps is computed in float64
MAX_THREADS = 1024
MAX_SEED = 10**1000  # far from the 4300 digits up to which Python writes numbers
VALIDATIONS = 10  # during a training, where a number of steps replaces a preset's time budget
SHOWN = 100  # characters of a wrong value that a message shows


class UsageError(ValueError):
    """What was asked for cannot be done; the text says what was given, and what is allowed."""


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model.

    Parameters
    ----------
    vocab_size : int
        Number of token ids, the beginning-of-sequence token included.
    n_layer, n_embd, n_head : int
        Depth, width, and attention heads; `n_head` divides `n_embd`.
    block_size : int
        Longest sequence the model reads.
    activation : str
        Of the feed-forward layers: one of `ACTIVATIONS`.

    Raises
    ------
    UsageError
        (a ValueError) for a value that is not allowed.
    """

    vocab_size: int
    n_layer: int = 1
    n_embd: int = 16
    n_head: int = 4
    block_size: int = 16
    activation: str = "relu"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_layer", "n_embd", "n_head", "block_size"):
            _set(self, name, check_integer(name, getattr(self, name), low=1, high=MAX_SIZE))
        _choice("activation", self.activation, ACTIVATIONS)
        if self.n_embd % self.n_head:
            raise UsageError(
                f"n_embd must be a multiple of n_head, not {self.n_embd} with {self.n_head} heads"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def num_params(self) -> int:
        """Number of parameters: the length of the flat buffer."""
        return parameters.count(self)

    @property
    def mlp_width(self) -> int:
        """Width of the feed-forward layers between their two matrices."""
        return 4 * self.n_embd

    def parameters(self) -> Iterator[Parameter]:
        """The table of the model's parameters; see `parameters.parameters_of`."""
        return parameters.parameters_of(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter by its name, (rows, columns) of a matrix, in the order of the flat buffer."""
        return {parameter.name: parameter.shape for parameter in self.parameters()}


@dataclass(frozen=True)
class TrainConfig:
    """How a model is initialised, trained and sampled.

    Parameters
    ----------
    num_steps, batch_size : int
        Training steps (0 keeps the initial model), and documents or blocks per step.
    gradient_accumulation_steps : int
        Batches per step, whose gradients are averaged.
    learning_rate, min_learning_rate, warmup_steps : float, float, int
    schedule : {"linear", "cosine", "constant"}
        See `schedule.learning_rates`.
    beta1, beta2, eps_adam : float
        Adam's constants.
    weight_decay : float
        Decoupled weight decay, as in AdamW, of all parameters: all are matrices, embeddings included.
    grad_clip : float
        Largest norm of the whole gradient, which is scaled down to it; 0 for no limit.
    data_mode, tokenizer : {"lines", "stream", "auto"}, {"char", "byte"}
        See `load_corpus`.
    include, exclude : sequence of str
        Patterns such as "*.md": which files of folders are data.
    val_fraction : float
        Fraction of the data to hold out: of the different documents, or of the text, at its end.
    eval_interval : int
        Steps between validations, each over everything that is held out; 0 for one validation, at the end.
    target_loss : float, optional
        Training ends at the first validation loss that is at most this.
    patience : int
        Training ends after this many validations in a row without a better loss; 0 for never.
    keep_best : bool
        Whether the model is in the end that of the best validation, rather than that of the last step.
    eval_tokens : int, optional
        Validations read a fixed sample of about this many of the tokens held out, drawn by `seed`. None means all of
        them; with a time budget, as many as take a small part of it.
    time_budget : float or str, optional
        How long the whole should take, in seconds or as "60s", "10m", "1h", reading and validating included. The
        speed is measured first, then `num_steps` is set to what fits, and `warmup_steps` to at most a tenth of it;
        `plan` keeps how `num_steps` was corrected during the training.
    plan : tuple of (int, int)
        What a time budget became: pairs (step, the number of steps planned from there on), the last of them
        with `num_steps`. At each of these steps there is a validation.
    init_std : float
        Standard deviation of the initial parameters.
    zero_init : bool
        Whether attn_wo and mlp_fc2 start at zero.
    temperature, num_samples : float, int
        Temperature and number of the samples drawn after training; at temperature 0 the likeliest token is taken.
    seed : int
        Seed of the one random stream, which gives the order of documents, initial parameters and samples.
    bos : {"last", "first"}
        Whether the beginning-of-sequence token has the last id or id 0.
    dtype : {"float64", "float32"}
    numerics : {"exact", "fast"}, optional
        None means exact where that is possible: see `model.resolve_numerics`.
    backend : {"auto", "cython", "numba", "numpy"}
    threads : int, optional
        None means as many as the work of a step keeps busy (see `workload.default_threads`), or all cores
        where these turn out to be faster.

    Raises
    ------
    UsageError
        (a ValueError) for a value that is not allowed.
    """

    num_steps: int = 1000
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    learning_rate: float = 0.01
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    schedule: str = "linear"
    beta1: float = 0.85
    beta2: float = 0.99
    eps_adam: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 0.0
    data_mode: str = "lines"
    tokenizer: str = "char"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    val_fraction: float = 0.0
    eval_interval: int = 0
    target_loss: float | None = None
    patience: int = 0
    keep_best: bool = False
    eval_tokens: int | None = None
    time_budget: float | str | None = None
    plan: tuple[tuple[int, int], ...] = ()
    init_std: float = 0.08
    zero_init: bool = False
    temperature: float = 0.5
    num_samples: int = 20
    seed: int = 42
    bos: str = "last"
    dtype: str = "float64"
    numerics: str | None = None
    backend: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        _set(self, "num_steps", check_integer("num_steps", self.num_steps, low=0, high=MAX_STEPS))
        _set(self, "batch_size", check_integer("batch_size", self.batch_size, low=1, high=MAX_SIZE))
        name = "gradient_accumulation_steps"
        _set(self, name, check_integer(name, getattr(self, name), low=1, high=MAX_SIZE))
        for name in ("num_samples", "warmup_steps", "eval_interval", "patience"):
            _set(self, name, check_integer(name, getattr(self, name), low=0, high=MAX_STEPS))
        _set(self, "seed", check_integer("seed", self.seed, low=-MAX_SEED, high=MAX_SEED))
        for name in ("learning_rate", "min_learning_rate", "weight_decay", "grad_clip", "init_std"):
            _set(self, name, check_number(name, getattr(self, name), "at least 0", lambda x: x >= 0))
        for name in ("beta1", "beta2", "val_fraction"):
            _set(
                self,
                name,
                check_number(name, getattr(self, name), "at least 0 and below 1", lambda x: 0 <= x < 1),
            )
        _set(self, "eps_adam", check_number("eps_adam", self.eps_adam, "above 0", lambda x: x > 0))
        _set(self, "temperature", _temperature(self.temperature))
        for name in ("zero_init", "keep_best"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be True or False, not {shown(getattr(self, name))}")
        _choice("bos", self.bos, BOS_PLACES)
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("data_mode", self.data_mode, DATA_MODES)
        _choice("tokenizer", self.tokenizer, TOKENIZERS)
        if self.target_loss is not None:
            _set(
                self,
                "target_loss",
                check_number("target_loss", self.target_loss, "at least 0", lambda x: x >= 0),
            )
        if self.time_budget is not None:
            seconds = check_number("time_budget", _seconds(self.time_budget), "above 0", lambda x: x > 0)
            _set(self, "time_budget", seconds)
        for name in ("include", "exclude"):
            _set(self, name, _patterns(name, getattr(self, name)))
        if self.eval_tokens is not None:
            _set(self, "eval_tokens", check_integer("eval_tokens", self.eval_tokens, low=1, high=MAX_STEPS))
        _set(self, "plan", _plan(self.plan, self.num_steps))
        for name in ("eval_interval", "target_loss", "patience", "eval_tokens"):
            if getattr(self, name) and not self.val_fraction:
                raise UsageError(f"{name} needs data to validate with: give a val_fraction above 0")
        _set(
            self,
            "dtype",
            self.dtype if isinstance(self.dtype, str) else getattr(self.dtype, "__name__", self.dtype),
        )
        _choice("dtype", self.dtype, DTYPES)
        _choice("backend", self.backend, BACKENDS)
        if self.numerics is not None:
            _choice("numerics", self.numerics, NUMERICS)
        if self.threads is not None:
            _set(self, "threads", check_integer("threads", self.threads, low=1, high=MAX_THREADS))


MODEL_OPTIONS = tuple(field.name for field in fields(GPTConfig) if field.name != "vocab_size")
TRAIN_OPTIONS = tuple(field.name for field in fields(TrainConfig))


def resolve(preset: str = "microgpt", **options: Any) -> tuple[Callable[[int], GPTConfig], TrainConfig]:
    """Take a preset, and replace some of its constants.

    Parameters
    ----------
    preset : str
        A key of `presets.PRESETS`.
    **options
        Fields of `TrainConfig`, and of `GPTConfig` except `vocab_size`, which follows from the data; nanoGPT's names
        of them (`aliases.ALIASES`) too.

    Returns
    -------
    make_model_config : function
        Takes a vocabulary size, and returns the GPTConfig.
    train_config : TrainConfig

    Raises
    ------
    UsageError
        for an unknown name, or a value that is not allowed.
    """
    from .presets import PRESETS

    _choice("preset", preset, PRESETS)
    for name in [name for name in options if name in ALIASES]:
        if ALIASES[name] in options:
            raise UsageError(f"{ALIASES[name]} is given twice, also as {name}")
        options[ALIASES[name]] = options.pop(name)
    for name in options:
        _choice("option", name, MODEL_OPTIONS + TRAIN_OPTIONS)
    model_fields, train_fields = (dict(preset_fields) for preset_fields in PRESETS[preset])
    if options.get("num_steps") is not None:
        if options.get("time_budget") is not None:
            raise UsageError(
                "give num_steps or time_budget, not both: the time budget sets the number of steps"
            )
        if train_fields.pop("time_budget", None) is not None and isinstance(options["num_steps"], int):
            train_fields["eval_interval"] = max(1, options["num_steps"] // VALIDATIONS)
    if options.get("val_fraction") == 0:
        for name in ("eval_interval", "patience"):
            train_fields.pop(name, None)
    for name, value in options.items():
        (model_fields if name in MODEL_OPTIONS else train_fields)[name] = value

    def make_model_config(vocab_size):
        return GPTConfig(vocab_size, **model_fields)

    make_model_config(1)
    return make_model_config, TrainConfig(**train_fields)


def shown(value):
    """A wrong value as a message shows it: short, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, lists in lists in lists
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def closest(word, allowed):
    """'; did you mean ...?' if the word is a text that resembles an allowed one, else ''."""
    from difflib import get_close_matches

    if not isinstance(word, str):
        return ""
    meant = MEANT.get(word.lstrip("-").replace("-", "_"))
    match = [name for name in allowed if name.lstrip("-").replace("-", "_") == meant]
    match = match or get_close_matches(word[:SHOWN], allowed, n=1)
    return f"; did you mean {match[0]}?" if match else ""


def _set(config, name, value):
    object.__setattr__(config, name, value)  # the dataclass is frozen


def _choice(name, value, allowed):
    if not isinstance(value, str) or value not in allowed:
        raise UsageError(
            f"unknown {name} {shown(value)}{closest(value, allowed)} (allowed: {', '.join(allowed)})"
        )


def check_integer(name, value, low=None, high=None):
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {shown(value)}") from None
    if low is not None and number < low:
        raise UsageError(f"{name} must be at least {_brief(low)}, not {_brief(number)}")
    if high is not None and number > high:
        raise UsageError(f"{name} must be at most {_brief(high)}, not {_brief(number)}")
    return number


def _brief(number):
    return number if abs(number) < 10**30 else "a number of more than 30 digits"


def check_number(name, value, condition, holds):
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name} must be a number, not {shown(value)}") from None
    if not (math.isfinite(number) and holds(number)):
        raise UsageError(f"{name} must be a finite number {condition}, not {shown(value)}")
    return number


def _patterns(name, value):
    if isinstance(value, str) or not all(isinstance(pattern, str) for pattern in value):
        raise UsageError(f"{name} must be a list of patterns, such as ['*.md'], not {shown(value)}")
    return tuple(value)


def _plan(value, num_steps):
    """A plan as tuples, its steps in order and its end `num_steps`."""
    try:
        plan = tuple((operator.index(step), operator.index(total)) for step, total in value)
    except (TypeError, ValueError):
        raise UsageError(f"plan must be pairs of step and num_steps, not {shown(value)}") from None
    steps = [step for step, _ in plan]
    if plan and (
        steps[0] != 0
        or any(after <= before for before, after in zip(steps, steps[1:]))
        or any(not step <= total <= MAX_STEPS for step, total in plan)
        or plan[-1][1] != num_steps
    ):
        raise UsageError(
            f"plan must begin at step 0, go up, and end with num_steps {num_steps}: leave it out for another "
            f"number of steps, not {shown(value)}"
        )
    return plan


def _seconds(value):
    if not isinstance(value, str):
        return value
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return float(value) if value[-1:] not in units else float(value[:-1]) * units[value[-1]]
    except ValueError:
        raise UsageError(
            f"time_budget must be seconds, or a time such as 60s, 10m, 1h, not {shown(value)}"
        ) from None


def _temperature(value):
    number = check_number("temperature", value, "at least 0", lambda x: x >= 0)
    if number and math.isinf(1 / number):
        raise UsageError(
            f"temperature must be 0 or so large that 1 / temperature is finite, not {shown(value)}"
        )
    return number
