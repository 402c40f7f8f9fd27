"""The model: its parameters, and the engine that computes with them."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backends
from .backends.engines import engine_of
from .config import GPTConfig, TrainConfig, UsageError, stored_dtype
from .data.tokenizer import ByteTokenizer, Tokenizer
from .random_stream import RandomStream
from .workload import default_threads


class GPT:
    """A GPT: configuration, parameters, tokenizer.

    Parameters
    ----------
    config : GPTConfig
    tokenizer : Tokenizer, optional
        Turns text into ids and back.
    dtype : {"float64", "float32", "bfloat16"}
        With bfloat16 all products multiply bfloat16 numbers and add them up in float32, in which the parameters are
        kept; needs the compiled backend.
    backend : {"auto", "cython", "numba", "numpy"}
    numerics : {"exact", "fast"}, optional
        See `resolve_numerics`.
    threads : int, optional
        The most threads that work on a step; None means as many as one sequence of block_size tokens keeps busy.

    Attributes
    ----------
    dtype : str
        What was asked for; that of `parameters` is float32 where this is bfloat16.
    parameters : array [config.num_params]
        All parameters in one flat buffer, zero until `initialise`. It can be written to, but not replaced.
    tensors : dict of str to array
        Views of `parameters` by name: matrices [out, in].
    train_config : TrainConfig or None
        How the model was trained, if it was.

    Notes
    -----
    It can be copied and pickled, also for a process with other instruction sets. Unpickle nothing that comes from
    others: to hand on a model, `save` it; `load` executes nothing.
    """

    def __init__(
        self,
        config: GPTConfig,
        tokenizer: Tokenizer | ByteTokenizer | None = None,
        *,
        dtype: str = "float64",
        backend: str = "auto",
        numerics: str | None = None,
        threads: int | None = None,
    ) -> None:
        if tokenizer is not None and tokenizer.vocab_size != config.vocab_size:
            raise UsageError(f"the tokenizer has {tokenizer.vocab_size} ids, the model {config.vocab_size}")
        if not isinstance(dtype, str):
            dtype = np.dtype(dtype).name
        self.config = config
        self.dtype = dtype
        self.tokenizer = tokenizer
        self.train_config: TrainConfig | None = None
        self.backend = backends.load(backend)
        self.numerics, _ = resolve_numerics(numerics, dtype, 1, self.backend, config)
        self._threads = threads or default_threads(config, config.block_size)
        self._parameters = np.zeros(config.num_params, stored_dtype(dtype))
        self._engine: Any = None
        self.tensors: dict[str, NDArray[Any]] = {
            parameter.name: self._parameters[parameter.place].reshape(parameter.shape)
            for parameter in config.parameters()
        }

    def __reduce__(self) -> tuple[Any, ...]:
        options = {
            "dtype": self.dtype,
            "backend": backends.name_of(self.backend),
            "numerics": self.numerics,
            "threads": self.threads,
        }
        return _rebuilt, (self.config, self.tokenizer, options, self.parameters, self.train_config)

    def __repr__(self) -> str:
        config = self.config
        sizes = f"n_layer {config.n_layer}, n_head {config.n_head}, n_embd {config.n_embd}"
        shape = f"{sizes}, block_size {config.block_size}, vocabulary of {config.vocab_size}"
        return f"GPT({shape}, {config.num_params:,} parameters, {self.parameters.dtype}, {self.numerics})"

    @property
    def parameters(self) -> NDArray[Any]:
        return self._parameters

    @property
    def threads(self) -> int:
        """Number of threads that share the work. It may be changed, since no bit of a result depends on it."""
        return self._threads

    @threads.setter
    def threads(self, threads: int) -> None:
        self._threads, self._engine = threads, None

    @property
    def engine(self) -> Any:
        """The backend's engine for this configuration, created at first use."""
        if self._engine is None:
            self._engine = engine_of(self.backend, self.config, self.dtype, self.numerics, self.threads)
        return self._engine

    @property
    def path(self) -> str:
        """What computes: "exact", "mixed", "narrow", "general" or "composed", the first that serves the model."""
        return str(self.engine.path)

    def initialise(self, random: RandomStream, std: float = 0.08, zero_init: bool = False) -> None:
        """Draw every parameter, in the order of the buffer, from a normal distribution around 0.

        Those that start otherwise (`parameters.Parameter.start`) are drawn too, and then set.

        Parameters
        ----------
        random : random stream
            See `random_stream`.
        std : float
        zero_init : bool
            Draw attn_wo and mlp_fc2 with a standard deviation of 0.
        """
        for parameter in self.config.parameters():
            if parameter.tied_to is not None:
                continue
            flat = self._parameters[parameter.place]
            draws = flat if flat.dtype == np.float64 else np.empty(flat.size)
            random.normal(draws, 0.0 if zero_init and parameter.starts_at_zero else std)
            if (
                parameter.start is not None
            ):  # drawn all the same, so that the others are what they are without it
                rows, columns = parameter.rows
                draws[:] = [parameter.start_of(i, j) for i in range(rows) for j in range(columns)]
            if draws is not flat:
                flat[:] = draws

    def logits(self, ids: Sequence[int] | NDArray[Any]) -> NDArray[Any]:
        """The logits of the token that follows each token of one sequence.

        Parameters
        ----------
        ids : sequence of int
            1 to `config.block_size` token ids, of which the first is usually tokenizer.bos.

        Returns
        -------
        logits : array [len(ids), vocab_size]

        Raises
        ------
        UsageError
            if there are too many ids, or none.
        IndexError
            if an id is outside the vocabulary.
        """
        if not 1 <= len(ids) <= self.config.block_size:
            raise UsageError(f"a sequence must have 1 ... {self.config.block_size} tokens, not {len(ids)}")
        logits = np.empty((len(ids), self.config.vocab_size), self.parameters.dtype)
        tokens = np.array([*ids, 0], np.int32)  # the last is only a target
        self.engine.forward(
            self.parameters, tokens, np.zeros(1, np.int64), np.array([len(ids)], np.int32), logits
        )
        return logits


def _rebuilt(config, tokenizer, options, parameters, train_config):
    """The copy of a model; see `GPT.__reduce__`."""
    model = GPT(config, tokenizer, **options)
    model.parameters[:] = parameters
    model.train_config = train_config
    return model


def resolve_numerics(
    numerics: str | None,
    dtype: str,
    batch_size: int,
    backend: ModuleType,
    config: GPTConfig,
    is_plain: bool = True,
) -> tuple[str, str | None]:
    """The numerics of a run: "exact" equals the scalar original bit for bit, "fast" does not.

    Exact numerics are the default for float64. They need a backend that has them, one document per step and a
    step like the original's; otherwise the default is "fast".

    Parameters
    ----------
    numerics : {"exact", "fast", None}
        What was asked for; None means the default.
    dtype, batch_size : str, int
        As in `TrainConfig`.
    backend : module
        As backends.load() returns it.
    config : GPTConfig
    is_plain : bool
        Whether steps are the original's: no accumulation, clipping or weight decay.

    Returns
    -------
    numerics : {"exact", "fast"}
    note : str or None
        Why a float64 run is not exact although fast numerics were not asked for.

    Raises
    ------
    UsageError
        if exact numerics were asked for and are not possible, or bfloat16 with a backend that does not have it.
    """
    if dtype == "bfloat16" and not backend.HAS_MIXED:
        raise UsageError(
            f"dtype bfloat16 needs the compiled backend, not {backends.name_of(backend)}: give dtype float32, or "
            f"backend cython"
        )
    if dtype == "bfloat16" and backend.path_of(config, "fast", dtype) is None:
        raise UsageError(f"dtype bfloat16 does not support {_differences(config)}: give dtype float32")
    if dtype != "float64":
        reason = f"exact numerics need dtype float64, not {dtype}"
    elif not backend.HAS_EXACT:
        reason = f"the {backends.name_of(backend)} backend has no exact numerics"
    elif backend.path_of(config, "exact") is None:
        reason = f"exact numerics do not support {_differences(config)}"
    elif batch_size != 1:
        reason = f"exact numerics need batch_size 1, not {batch_size}"
    elif not is_plain:
        reason = "exact numerics have no gradient accumulation, grad_clip or weight_decay"
    else:
        return numerics or "exact", None
    if numerics == "exact":
        raise UsageError(reason)
    return (
        "fast",
        f"{reason}: computing with fast numerics" if numerics is None and dtype == "float64" else None,
    )


def _differences(config):
    """In what a model is not the original's, in words: "position rope, final_norm"."""
    values = {name: getattr(config, name) for name in config.variations or ("activation",)}
    return ", ".join(name if value is True else f"{name} {value}" for name, value in values.items())
