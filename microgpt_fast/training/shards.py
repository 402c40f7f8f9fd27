"""Steps whose batch is cut into shards, on one process or on many with the same bits.

The batch and the flat buffer of parameters both are cut into S pieces (see `tree`); process r of R has the pieces
r S / R ... (r + 1) S / R - 1 of each. A step is

    g_i = the gradient of the loss of shard i, by the process that has its documents
    g = ((g_0 + g_1) + (g_2 + g_3)) + ...: each process sums what it can; then, by the exchange, its own parameters' g
    norm^2 = sum over the pieces of the buffer of sum g^2
    p, m, v = adamw(p, m, v, g min(1, grad_clip / norm)), each process its own parameters, which then go to all

Adam's moments exist only where their parameters are moved.
"""

from itertools import zip_longest
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import TrainConfig, UsageError
from ..model import GPT
from ..parameters import runs_by_decay
from .team import Team
from .tree import Summer, add_up, largest_nodes, piece

DEFAULT_SHARDS = 8


def shards_of(config: TrainConfig, processes: int) -> int:
    """The number of shards: what is asked for, or the usual number as far as the documents of a step go.

    Raises
    ------
    UsageError
        for fewer shards than processes, or fewer documents than shards.
    """
    documents = config.batch_size * config.gradient_accumulation_steps
    shards = config.shards or min(DEFAULT_SHARDS, 1 << (documents.bit_length() - 1))
    if shards > documents:
        raise UsageError(
            f"shards {shards} needs as many documents per step, but batch_size {config.batch_size} times "
            f"gradient_accumulation_steps {config.gradient_accumulation_steps} is {documents}"
        )
    if shards < processes:
        least = 1 << (processes - 1).bit_length()
        raise UsageError(
            f"{processes} processes need at least {least} shards, not {shards}: give --shards {least}, and at least "
            f"{least} documents per step (batch_size times gradient_accumulation_steps is {documents})"
        )
    return shards


class ShardedSteps:
    """The steps of one process.

    Parameters
    ----------
    model : GPT
        Its parameters are the same in all processes, before a step and after it.
    config : TrainConfig
    team : Team

    Attributes
    ----------
    shards : int
    """

    def __init__(self, model: GPT, config: TrainConfig, team: Team) -> None:
        self._model, self._config, self._team = model, config, team
        self.shards = shards_of(config, team.size)
        leaves = [piece(rank, team.size, self.shards) for rank in range(team.size)]
        self._leaves = leaves[team.rank]
        self._nodes = [list(largest_nodes(part.start, part.stop)) for part in leaves]
        self._places = [self._parameters_of(part) for part in leaves]
        self._place = self._places[team.rank]
        self._calls = [list(self._calls_of(shard)) for shard in range(self.shards)]
        self._is_even = len({call.stop - call.start for calls in self._calls for call in calls}) == 1
        self._summer = Summer(self._add_gradient, model.config.num_params, model.parameters.dtype)
        self._m, self._v = np.zeros((2, self._place.stop - self._place.start), model.parameters.dtype)
        self._has_moments = False
        self._losses = np.zeros(self.shards)  # of the documents of each shard, added up

    def _parameters_of(self, leaves):
        size = self._model.config.num_params
        first = piece(leaves.start, self.shards, size).start
        return slice(first, piece(leaves.stop - 1, self.shards, size).stop)

    def _calls_of(self, shard):
        """The documents of a shard, as many at a time as a batch has."""
        config = self._config
        documents = piece(shard, self.shards, config.batch_size * config.gradient_accumulation_steps)
        for first in range(documents.start, documents.stop, config.batch_size):
            yield slice(first, min(first + config.batch_size, documents.stop))

    def step(
        self,
        tokens: NDArray[np.int32],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int32],
        rate: float,
        number: int,
    ) -> float:
        """Take a step, and return its loss.

        Parameters
        ----------
        tokens, starts, lengths
            The documents of the whole step; see `Engine.backward`. All processes give the same, and read their part.
        rate : float
            The learning rate.
        number : int
            Adam's count of this step, from 1.
        """
        self._batch = tokens, starts, lengths
        sums = {node: self._summer.sum(node) for node in self._nodes[self._team.rank]}
        gradient = self._exchange(sums)
        losses = self._team.gather(self._losses[self._leaves].tolist())
        self._move(gradient, len(starts), rate, number)
        for array in sums.values():
            self._summer.give_back(array)
        return sum(losses) / len(starts)

    def _add_gradient(self, shard, gradient):
        """gradient += sum over the shard's documents, or where all calls have as many, over calls of their means."""
        tokens, starts, lengths = self._batch
        engine, parameters = self._model.engine, self._model.parameters
        self._losses[shard] = 0
        for call in self._calls[shard]:
            of_call = gradient if self._is_even else np.zeros_like(gradient)
            losses = engine.backward(of_call, parameters, tokens, starts[call], lengths[call])
            self._losses[shard] += losses.sum()
            if not self._is_even:
                of_call *= call.stop - call.start
                gradient += of_call

    def _exchange(self, sums):
        """This process's part of the sum of all shards' gradients, from its sums of all parameters."""
        if self._team.size == 1:
            return sums[0, self.shards]
        known = {}
        for nodes in zip_longest(
            *self._nodes
        ):  # the first, second ... node of each process; None where it has fewer
            node = nodes[self._team.rank]
            gives = [other is not None for other in nodes]
            parts = self._team.exchange(sums.get(node), self._places, gives, self._m.dtype)
            known.update(zip((other for other in nodes if other), parts))
        return add_up((0, self.shards), known)

    def _move(self, gradient, documents, rate, number):
        """AdamW on this process's parameters, which then go to all processes."""
        config, parameters = self._config, self._model.parameters
        divisor = len([call for calls in self._calls for call in calls]) if self._is_even else documents
        factor = 1 / divisor
        if config.grad_clip:
            norm = factor * sqrt(sum(self._team.gather(self._squares(gradient))))
            factor *= config.grad_clip / norm if norm > config.grad_clip else 1
        gradient *= gradient.dtype.type(factor)
        self._has_moments = True
        adam = config.beta1, config.beta2, config.eps_adam
        for run, decays in runs_by_decay(self._model.config):
            first, end = max(run.start, self._place.start), min(run.stop, self._place.stop)
            if first < end:
                part = slice(first - self._place.start, end - self._place.start)
                moved = parameters[first:end], self._m[part], self._v[part], gradient[part]
                decay = config.weight_decay if decays else 0.0
                self._model.backend.adamw_step(*moved, end - first, rate, *adam, decay, number)
        self._team.collect(parameters[self._place], parameters, self._places)

    def _squares(self, gradient):
        """sum g^2 of each piece of this process, in float64: no square of a float32 is too large for it."""
        size, start = self._model.config.num_params, self._place.start
        pieces = (piece(index, self.shards, size) for index in range(self._leaves.start, self._leaves.stop))
        parts = (gradient[part.start - start : part.stop - start] for part in pieces)
        return [float(np.square(part, dtype=np.float64).sum()) for part in parts]

    @property
    def moments(self) -> NDArray[Any]:
        """Adam's m and v of all parameters, [2, P]: a copy. All processes must ask for it together."""
        full = np.zeros((2, self._model.config.num_params), self._m.dtype)
        if not self._has_moments:
            return full
        for own, everything in zip((self._m, self._v), full):
            self._team.collect(own, everything, self._places)
        return full

    @moments.setter
    def moments(self, full: NDArray[Any]) -> None:
        self._m[:], self._v[:] = (everything[self._place] for everything in full)
        self._has_moments = True
