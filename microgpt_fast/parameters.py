"""The table of a model's parameters: what there is, in which order, and how it begins.

Whatever names, lays out, counts, draws, stores or decays parameters reads this table or its twin in C,
``csrc/parameters.h``; a test compares the two.
"""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .model_config import GPTConfig

LOOKUP, PRODUCT = "lookup", "product"
DIAGONAL = "diagonal"


class Parameter(NamedTuple):
    """One parameter of a model.

    Attributes
    ----------
    name : str
        As in the original; those of layers begin with "layer0.", "layer1." and so on.
    shape : tuple of int
        (rows, columns) of a matrix, [out, in]; (n,) of a vector.
    role : {"lookup", "product"}
        Whether each token takes a row of it or little is computed with it, or is multiplied with all of it.
    starts_at_zero : bool
        Whether the option `zero_init` concerns it: it adds to the residual stream.
    decays : bool
        Whether weight decay applies.
    tied_to : str, optional
        The earlier parameter that this is another name of.
    offset : int
        Where it begins in the flat buffer.
    start : float or "diagonal", optional
        What it starts with where it is not drawn: this number, or 0 on its diagonal and -8 elsewhere.
    """

    name: str
    shape: tuple[int, ...]
    role: str = PRODUCT
    starts_at_zero: bool = False
    decays: bool = True
    tied_to: str | None = None
    offset: int = 0
    start: float | str | None = None

    @property
    def size(self) -> int:
        """Number of its elements."""
        return prod(self.shape)

    @property
    def rows(self) -> tuple[int, int]:
        """(rows, columns), a vector being one row."""
        return self.shape if len(self.shape) == 2 else (1, *self.shape)

    def start_of(self, row: int, column: int) -> float:
        """What an element starts with, where it is not drawn."""
        if self.start == DIAGONAL:
            return 0.0 if row == column else -8.0
        return float(self.start or 0)

    @property
    def place(self) -> slice:
        """Its part of the flat buffer."""
        return slice(self.offset, self.offset + self.size)


def _vector(name: str, n: int, start: float = 1.0) -> Parameter:
    return Parameter(name, (n,), LOOKUP, decays=False, start=start)


def outside_layers(config: "GPTConfig") -> tuple[Parameter, ...]:
    """The parameters before the layers', in the order of the flat buffer."""
    V, T, C = config.vocab_size, config.block_size, config.n_embd
    table = [Parameter("wte", (V, C), LOOKUP)]
    if config.position == "learned":
        table.append(Parameter("wpe", (T, C), LOOKUP))
    table.append(Parameter("lm_head", (V, C), tied_to="wte" if config.tie_embeddings else None))
    if config.norm_gain and config.normalises_embedding:
        table.append(_vector("embd_norm", C))
    if config.norm_gain and config.final_norm:
        table.append(_vector("final_norm", C))
    if config.residual in ("attention", "attention_block"):
        table.append(_mixing("out_res_proj", C))
    return tuple(table)


def of_a_layer(config: "GPTConfig") -> tuple[Parameter, ...]:
    """The parameters of each layer, in the order of the flat buffer, where layer follows layer."""
    C, F = config.n_embd, config.mlp_width
    table = [
        Parameter("attn_wq", (C, C)),
        Parameter("attn_wk", (C, C)),
        Parameter("attn_wv", (C, C)),
        Parameter("attn_wo", (C, C), starts_at_zero=True),
        Parameter("mlp_fc1", (F, C)),
        Parameter("mlp_fc2", (C, F), starts_at_zero=True),
    ]
    if config.mlp == "gated":
        table.insert(5, Parameter("mlp_fc3", (F, C)))
    if config.value_embedding:
        table.append(Parameter("attn_ve", (config.vocab_size, C), LOOKUP))
    if config.norm_gain:
        table += [_vector("attn_norm", C), _vector("mlp_norm", C)]
    if config.residual_scalars:
        table += [_vector("residual_scale", 1), _vector("embedding_scale", 1, start=0.0)]
    if config.residual in ("attention", "attention_block"):
        table += [_mixing("attn_res_proj", C), _mixing("mlp_res_proj", C)]
    if config.residual == "hyper":
        table += [*_hyper_connections("attn_", config), *_hyper_connections("mlp_", config)]
    return tuple(table)


def _mixing(name: str, C: int) -> Parameter:
    return Parameter(name, (1, C), LOOKUP, decays=False, start=0.0)


def _hyper_connections(block: str, config: "GPTConfig") -> Iterator[Parameter]:
    """How the sublayer `block` reads, writes and mixes n streams: bases, and in the dynamic form what a token adds."""
    n = config.n_streams
    yield _vector(f"{block}hyper_pre", n, start=0.0)
    yield _vector(f"{block}hyper_post", n, start=0.0)
    yield Parameter(f"{block}hyper_res", (n, n), LOOKUP, decays=False, start=DIAGONAL)
    if config.hyper_form == "dynamic":
        yield Parameter(f"{block}hyper_phi", (n * (n + 2), n * config.n_embd))
        yield _vector(f"{block}hyper_alpha", 3, start=0.01)


def parameters_of(config: "GPTConfig") -> Iterator[Parameter]:
    """Every parameter of a model with its offset, in the order of the flat buffer: they are drawn in this order."""
    layers = (
        parameter._replace(name=f"layer{layer}.{parameter.name}")
        for layer in range(config.n_layer)
        for parameter in of_a_layer(config)
    )
    return placed((*outside_layers(config), *layers))


def placed(table: tuple[Parameter, ...]) -> Iterator[Parameter]:
    """A table with its offsets: one parameter after another, those that are tied where they are tied to."""
    offsets: dict[str, int] = {}
    end = 0
    for parameter in table:
        offset = end if parameter.tied_to is None else offsets[parameter.tied_to]
        offsets[parameter.name] = offset
        yield parameter._replace(offset=offset)
        end = max(end, offset + parameter.size)


def runs_by_decay(config: "GPTConfig") -> list[tuple[slice, bool]]:
    """The flat buffer in parts to all of which weight decay applies, or to none: (part, whether it does)."""
    runs: list[tuple[slice, bool]] = []
    for parameter in parameters_of(config):
        if parameter.tied_to is not None:
            continue
        if runs and runs[-1][1] == parameter.decays:
            runs[-1] = slice(runs[-1][0].start, parameter.place.stop), parameter.decays
        else:
            runs.append((parameter.place, parameter.decays))
    return runs


def count(config: "GPTConfig") -> int:
    """Number of parameters: the length of the flat buffer."""
    own = sum(p.size for p in outside_layers(config) if p.tied_to is None)
    return own + config.n_layer * sum(p.size for p in of_a_layer(config) if p.tied_to is None)


def products(config: "GPTConfig") -> int:
    """Number of weights that each token is multiplied with."""
    outside = sum(p.size for p in outside_layers(config) if p.role == PRODUCT)
    return outside + config.n_layer * sum(p.size for p in of_a_layer(config) if p.role == PRODUCT)
