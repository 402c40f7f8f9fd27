"""The options and sizes of a model, and their checks."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from . import parameters
from .checks import UsageError, check_choice, check_flag, check_integer, check_number
from .parameters import Parameter

ACTIVATIONS = ("relu", "relu2", "gelu", "silu")
POSITIONS = ("learned", "none", "alibi", "rope")
MLPS = ("plain", "gated")
RESIDUALS = ("plain", "attention", "attention_block", "hyper")
HYPER_FORMS = ("dynamic", "static")
MAX_SIZE = 2**31 - 1  # the kernels index tokens and lengths with 32 bits


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
    tie_embeddings : bool
        Whether lm_head is wte.
    position : {"learned", "none", "alibi", "rope"}
        How attention learns where a token is: by wpe, not at all, by a penalty on distance, by turned queries and keys.
    qk_norm, qk_norm_scale : bool, float
        Whether queries and keys are normalised, head by head, and what their products are multiplied with besides.
    norm_gain, final_norm : bool
        Whether each rmsnorm of a row has a learnable gain, and whether one stands before lm_head.
    mlp, mlp_hidden : {"plain", "gated"}, int, optional
        See `mlp_width`, which `mlp_hidden` sets.
    logit_softcap : float
        Logits are bent to lie within this; 0 for no limit.
    value_embedding : bool
        Whether each layer adds a vector of the token to its value.
    residual : {"plain", "attention", "attention_block", "hyper"}
        What a layer reads of the layers before it; docs/models.md has the formulas.
    residual_scalars : bool
        Whether each layer reads a learnable multiple of the residual stream and of the embedding.
    layers_per_block : int
        For `residual` attention_block: layers whose outputs are added up.
    n_streams, hyper_form : int, {"dynamic", "static"}
        For `residual` hyper: residual streams, and whether their mixing depends on the token.

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
    tie_embeddings: bool = False
    position: str = "learned"
    qk_norm: bool = False
    qk_norm_scale: float = 1.44
    norm_gain: bool = False
    final_norm: bool = False
    mlp: str = "plain"
    mlp_hidden: int | None = None
    logit_softcap: float = 0.0
    value_embedding: bool = False
    residual: str = "plain"
    residual_scalars: bool = False
    layers_per_block: int = 1
    n_streams: int = 4
    hyper_form: str = "dynamic"

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "n_layer",
            "n_embd",
            "n_head",
            "block_size",
            "layers_per_block",
            "n_streams",
        ):
            set_field(self, name, check_integer(name, getattr(self, name), low=1, high=MAX_SIZE))
        if self.mlp_hidden is not None:
            set_field(self, "mlp_hidden", check_integer("mlp_hidden", self.mlp_hidden, low=1, high=MAX_SIZE))
        for name in (
            "tie_embeddings",
            "qk_norm",
            "norm_gain",
            "final_norm",
            "value_embedding",
            "residual_scalars",
        ):
            set_field(self, name, check_flag(name, getattr(self, name)))
        for name, value, condition, holds in (
            ("qk_norm_scale", self.qk_norm_scale, "above 0", lambda x: x > 0),
            ("logit_softcap", self.logit_softcap, "at least 0", lambda x: x >= 0),
        ):
            set_field(self, name, check_number(name, value, condition, holds))
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("position", self.position, POSITIONS)
        check_choice("mlp", self.mlp, MLPS)
        check_choice("residual", self.residual, RESIDUALS)
        check_choice("hyper_form", self.hyper_form, HYPER_FORMS)
        self._check_combination()

    def _check_combination(self) -> None:
        if self.n_embd % self.n_head:
            raise UsageError(
                f"n_embd must be a multiple of n_head, not {self.n_embd} with {self.n_head} heads"
            )
        if self.position == "rope" and self.head_dim % 2:
            raise UsageError(
                f"position rope turns pairs of a head's elements: n_embd / n_head must be even, not {self.head_dim}"
            )
        if self.residual_scalars and self.residual != "plain":
            raise UsageError(f"residual_scalars need residual plain, not {self.residual}")
        for name, needs, value in _BELONGS_TO:
            if getattr(self, name) != _DEFAULTS[name] and getattr(self, needs) != value:
                raise UsageError(f"{name} is for {needs} {value}, not {getattr(self, needs)}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def attention_scale(self) -> float:
        """What the products of queries and keys are multiplied with."""
        return (self.qk_norm_scale if self.qk_norm else 1) * self.head_dim**-0.5

    @property
    def slopes(self) -> list[float] | None:
        """How fast each head's scores fall with the distance: ALiBi's slopes, or None where they do not."""
        if self.position != "alibi":
            return None
        H = self.n_head
        n = 1 << (H.bit_length() - 1)  # the largest power of two that is at most H
        slopes = [2 ** (-8 * (h + 1) / n) for h in range(n)]
        return slopes + [2 ** (-8 * (2 * i + 1) / (2 * n)) for i in range(H - n)]

    @property
    def num_params(self) -> int:
        """Number of parameters: the length of the flat buffer."""
        return parameters.count(self)

    @property
    def mlp_width(self) -> int:
        """Width of the feed-forward layers between their matrices.

        `mlp_hidden`, or else 4 n_embd; where they are gated and have three matrices, 8 times n_embd / 3 rounded up.
        """
        if self.mlp_hidden is not None:
            return self.mlp_hidden
        return 4 * self.n_embd if self.mlp == "plain" else -(-self.n_embd // 3) * 8

    @property
    def normalises_embedding(self) -> bool:
        """Whether an rmsnorm follows the embedding; where attention mixes what layers read, none does."""
        return self.residual not in ("attention", "attention_block")

    @property
    def variations(self) -> tuple[str, ...]:
        """The options, activation and sizes apart, in which the model is not the original's."""
        return tuple(name for name in VARIATIONS if getattr(self, name) != _DEFAULTS[name])

    def parameters(self) -> Iterator[Parameter]:
        """The table of the model's parameters; see `parameters.parameters_of`."""
        return parameters.parameters_of(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter by its name, (rows, columns) of a matrix, in the order of the flat buffer."""
        return {parameter.name: parameter.shape for parameter in self.parameters()}


_DEFAULTS = {field.name: field.default for field in fields(GPTConfig)}
VARIATIONS = tuple(_DEFAULTS)[list(_DEFAULTS).index("activation") + 1 :]
# options that say something only where another has this value
_BELONGS_TO = (
    ("qk_norm_scale", "qk_norm", True),
    ("layers_per_block", "residual", "attention_block"),
    ("n_streams", "residual", "hyper"),
    ("hyper_form", "residual", "hyper"),
)


def set_field(config, name, value):
    """Set a field of a frozen dataclass, as its own __post_init__ may."""
    object.__setattr__(config, name, value)
