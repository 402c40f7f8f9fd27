"""Known defects of ports, each a small change of the NumPy twin, and the losses of a training with it.

A falling loss proves nothing: Adam hides a gradient that is too small or lacks a part, and the models below all learn.
"""

from collections.abc import Callable, Iterator
from itertools import cycle
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ..backends import numpy_backend as twin
from ..backends.composed import ComposedEngine
from ..training.schedule import learning_rates

NEVER = 10**9  # a step of Adam's so late that nothing is corrected: beta^step is 0
NORMS = ("before the mlp", "before attention", "after the embedding")  # in the order of the backward


class Defect(NamedTuple):
    """A way in which ports go wrong.

    Attributes
    ----------
    name : str
        For programs.
    text : str
        For people.
    kernels : function of (n_layer)
        What takes the place of the twin's kernels: a dict by name.
    weights : function of (lengths) or None
        How much each document's mean loss counts in the loss that is printed; None for equally much.
    rate_is_constant : bool
    """

    name: str
    text: str
    kernels: Callable[[int], dict[str, Any]] = lambda n_layer: {}
    weights: Callable[[np.ndarray], np.ndarray] | None = None
    rate_is_constant: bool = False


def _own_position_alone(dq, dk, dv, delta, d_o, o, lse, q, k, v, *sizes):
    """Keys and values learn from their own position's query alone: dk_i = scale ds[i, i] q_i, dv_i = p[i, i] do_i"""
    twin.attention_backward(dq, dk, dv, delta, d_o, o, lse, q, k, v, *sizes)
    scale = sizes[-2]
    p = np.exp(scale * (q * k).sum(axis=2) - lse)
    ds = p * ((d_o * v).sum(axis=2) - delta)
    dk[...] = scale * ds[:, :, None] * q
    dv[...] = p[:, :, None] * d_o


def _norms(slope, place):
    """The backward of one of a layer's norms, or of that after the embedding, is slope(rstd) dy."""

    def kernels(n_layer):
        sites = cycle([*NORMS[:2] * n_layer, NORMS[2]])

        def rmsnorm_backward(dx, dgain, dy, x, gain, rstd, N, C, accumulate_dx):
            if next(sites) != place:
                return twin.rmsnorm_backward(dx, dgain, dy, x, gain, rstd, N, C, accumulate_dx)
            dx[...] = slope(rstd[:, None]) * dy + (dx if accumulate_dx else 0)

        return {"rmsnorm_backward": rmsnorm_backward}

    return kernels


def _mean_over_tokens(n_layer):
    def cross_entropy_backward(dlogits, dlosses, *others):
        return twin.cross_entropy_backward(dlogits, np.full_like(dlosses, 1 / len(dlosses)), *others)

    return {"cross_entropy_backward": cross_entropy_backward}


def _positions_from_one(n_layer):
    def shifted(kernel):
        def moved(*arguments):
            *others, positions, wte, wpe, N, C, V, T = arguments
            return kernel(*others, np.minimum(positions + 1, T - 1), wte, wpe, N, C, V, T)

        return moved

    def embedding_backward(dwte, dwpe, dx, tokens, positions, N, C, V, T):
        return twin.embedding_backward(dwte, dwpe, dx, tokens, np.minimum(positions + 1, T - 1), N, C, V, T)

    return {
        "embedding_forward": shifted(twin.embedding_forward),
        "embedding_backward": embedding_backward,
    }


def _without_position_gradient(n_layer):
    def embedding_backward(dwte, dwpe, *others):
        return twin.embedding_backward(dwte, np.zeros_like(dwpe), *others)

    return {"embedding_backward": embedding_backward}


def _without_token_gradient(n_layer):
    def embedding_backward(dwte, dwpe, *others):
        return twin.embedding_backward(np.zeros_like(dwte), dwpe, *others)

    return {"embedding_backward": embedding_backward}


def _without_bias_correction(n_layer):
    return {"adamw_step": lambda *arguments: twin.adamw_step(*arguments[:-1], NEVER)}


def _unscaled_scores(n_layer):
    def unscaled(kernel):
        return lambda *arguments: kernel(*arguments[:-2], 1.0, arguments[-1])

    return {name: unscaled(getattr(twin, name)) for name in ("attention_forward", "attention_backward")}


DEFECTS = (
    Defect(
        "truncated-attention",
        "keys and values of earlier positions get no gradient (dK and dV are truncated)",
        lambda n_layer: {"attention_backward": _own_position_alone},
    ),
    *(
        Defect(
            f"norm-{what}-{place.split()[-1]}",
            f"the backward of the rmsnorm {place} is {text}",
            _norms(slope, place),
        )
        for place in reversed(NORMS)
        for what, text, slope in (
            ("skipped", "left out (dx = dy)", lambda rstd: 1.0),
            ("constant", "that of a constant factor (dx = rstd dy)", lambda rstd: rstd),
        )
    ),
    Defect(
        "token-mean",
        "the loss is the mean over the tokens of the batch, not over its documents",
        _mean_over_tokens,
        lambda lengths: lengths / lengths.mean(),
    ),
    Defect("position-off-by-one", "positions are counted from 1", _positions_from_one),
    Defect(
        "no-bias-correction", "Adam's moments are not corrected for their start", _without_bias_correction
    ),
    Defect("no-position-gradient", "the position embedding gets no gradient", _without_position_gradient),
    Defect("no-token-gradient", "the token embedding gets no gradient", _without_token_gradient),
    Defect("constant-rate", "the learning rate does not fall", rate_is_constant=True),
    Defect("unscaled-scores", "attention's scores are not divided by √head_dim", _unscaled_scores),
)


def losses_with(defect: Defect, trainer: Any, dtype: str = "float64") -> Iterator[float]:
    """The losses of a training with a defect, step by step, from a Trainer that has taken no step.

    Parameters
    ----------
    defect : Defect
    trainer : Trainer
        Of which only data, options and initial parameters are used.
    dtype : str
    """
    config, model = trainer.config, trainer.model.config
    kernels = SimpleNamespace(**{**vars(twin), **defect.kernels(model.n_layer)})
    engine = ComposedEngine(kernels, model, dtype)
    parameters = trainer.model.parameters.astype(dtype)
    first, second, gradient = (np.zeros_like(parameters) for _ in range(3))
    adam = (config.beta1, config.beta2, config.eps_adam, config.weight_decay)
    for step in range(config.num_steps):
        starts, lengths = trainer.batches.sequences(step * config.batch_size, config.batch_size)
        tokens, starts = trainer.corpus.gather(starts, lengths)
        losses = engine.backward(gradient, parameters, tokens, starts, lengths)
        weights = 1.0 if defect.weights is None else defect.weights(lengths)
        yield float((losses * weights).mean())
        rate = learning_rates(config, np.array([0 if defect.rate_is_constant else step]))[0]
        engine.update(parameters, first, second, gradient, rate, adam, step + 1)
