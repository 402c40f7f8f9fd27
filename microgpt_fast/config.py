"""All constants of training, here also those of models from model_config.py: the place where they are checked."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from .aliases import ALIASES
from .checks import (  # noqa: F401  (some for those who look for them here)
    UsageError,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    closest,
    shown,
)
from .model_config import (  # noqa: F401
    ACTIVATIONS,
    HYPER_FORMS,
    MAX_SIZE,
    MLPS,
    POSITIONS,
    RESIDUALS,
    VARIATIONS,
    GPTConfig,
    set_field,
)

BACKENDS = ("auto", "cython", "numba", "numpy")
BOS_PLACES = ("last", "first")
DATA_MODES = ("lines", "stream", "auto")
DTYPES = ("float32", "float64", "bfloat16")
NUMERICS = ("exact", "fast")
SCHEDULES = ("linear", "cosine", "constant")
TOKENIZERS = ("char", "byte")
MAX_STEPS = 2**53  # step / num_steps is computed in float64
MAX_THREADS = 1024
MAX_SEED = 10**1000  # far from the 4300 digits up to which Python writes numbers
VALIDATIONS = 10  # during a training, where a number of steps replaces a preset's time budget


@dataclass(frozen=True)
class TrainConfig:
    """How a model is initialised, trained and sampled.

    Parameters
    ----------
    num_steps, batch_size : int
        Training steps (0 keeps the initial model), and documents or blocks per step.
    gradient_accumulation_steps : int
        Batches per step, whose gradients are averaged.
    shards : int
        Parts of a step's documents, a power of two, whose gradients are summed in a fixed order: see
        `training.shards`. 0 for none.
    learning_rate, min_learning_rate, warmup_steps : float, float, int
    schedule : {"linear", "cosine", "constant"}
        See `schedule.learning_rates`.
    beta1, beta2, eps_adam : float
        Adam's constants.
    weight_decay : float
        Decoupled weight decay, as in AdamW, of all matrices, embeddings included; of gains and other vectors none.
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
    dtype : {"float64", "float32", "bfloat16"}
        bfloat16 is that of what products multiply; parameters, moments and sums are float32.
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
    shards: int = 0
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
        set_field(self, "num_steps", check_integer("num_steps", self.num_steps, low=0, high=MAX_STEPS))
        set_field(self, "batch_size", check_integer("batch_size", self.batch_size, low=1, high=MAX_SIZE))
        name = "gradient_accumulation_steps"
        set_field(self, name, check_integer(name, getattr(self, name), low=1, high=MAX_SIZE))
        set_field(self, "shards", check_integer("shards", self.shards, low=0, high=MAX_SIZE))
        if self.shards & (self.shards - 1):
            raise UsageError(f"shards must be a power of two, or 0 for none, not {self.shards}")
        for name in ("num_samples", "warmup_steps", "eval_interval", "patience"):
            set_field(self, name, check_integer(name, getattr(self, name), low=0, high=MAX_STEPS))
        set_field(self, "seed", check_integer("seed", self.seed, low=-MAX_SEED, high=MAX_SEED))
        for name in ("learning_rate", "min_learning_rate", "weight_decay", "grad_clip", "init_std"):
            set_field(self, name, check_number(name, getattr(self, name), "at least 0", lambda x: x >= 0))
        for name in ("beta1", "beta2", "val_fraction"):
            set_field(
                self,
                name,
                check_number(name, getattr(self, name), "at least 0 and below 1", lambda x: 0 <= x < 1),
            )
        set_field(self, "eps_adam", check_number("eps_adam", self.eps_adam, "above 0", lambda x: x > 0))
        set_field(self, "temperature", _temperature(self.temperature))
        for name in ("zero_init", "keep_best"):
            check_flag(name, getattr(self, name))
        check_choice("bos", self.bos, BOS_PLACES)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("data_mode", self.data_mode, DATA_MODES)
        check_choice("tokenizer", self.tokenizer, TOKENIZERS)
        if self.target_loss is not None:
            set_field(
                self,
                "target_loss",
                check_number("target_loss", self.target_loss, "at least 0", lambda x: x >= 0),
            )
        if self.time_budget is not None:
            seconds = check_number("time_budget", _seconds(self.time_budget), "above 0", lambda x: x > 0)
            set_field(self, "time_budget", seconds)
        for name in ("include", "exclude"):
            set_field(self, name, _patterns(name, getattr(self, name)))
        if self.eval_tokens is not None:
            set_field(
                self, "eval_tokens", check_integer("eval_tokens", self.eval_tokens, low=1, high=MAX_STEPS)
            )
        set_field(self, "plan", _plan(self.plan, self.num_steps))
        for name in ("eval_interval", "target_loss", "patience", "eval_tokens"):
            if getattr(self, name) and not self.val_fraction:
                raise UsageError(f"{name} needs data to validate with: give a val_fraction above 0")
        set_field(
            self,
            "dtype",
            self.dtype if isinstance(self.dtype, str) else getattr(self.dtype, "__name__", self.dtype),
        )
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("backend", self.backend, BACKENDS)
        if self.numerics is not None:
            check_choice("numerics", self.numerics, NUMERICS)
        if self.threads is not None:
            set_field(self, "threads", check_integer("threads", self.threads, low=1, high=MAX_THREADS))


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

    check_choice("preset", preset, PRESETS)
    for name in [name for name in options if name in ALIASES]:
        if ALIASES[name] in options:
            raise UsageError(f"{ALIASES[name]} is given twice, also as {name}")
        options[ALIASES[name]] = options.pop(name)
    for name in options:
        check_choice("option", name, MODEL_OPTIONS + TRAIN_OPTIONS)
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


def stored_dtype(dtype: str) -> str:
    """The dtype of a model's parameters and moments: with bfloat16 operands they are float32."""
    return "float32" if dtype == "bfloat16" else dtype


def _patterns(name, value):
    if not isinstance(value, (list, tuple)) or not all(isinstance(pattern, str) for pattern in value):
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
