"""The random stream of Python's `random` module, in the portions that training takes.

A stream orders the documents, draws the initial parameters and then the samples, so that one seed decides
them all. The compiled backend has the same stream at compiled speed.
"""

import copyreg
import math
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

WORDS = 624  # of the Mersenne Twister


class RandomStream(Protocol):
    """A stream, whoever computes it; see `PythonRandom`."""

    def permutation(self, n: int) -> NDArray[np.int64]: ...
    def normal(self, out: NDArray[np.float64], std: float) -> None: ...
    def choices(self, weights: NDArray[np.float64]) -> int: ...
    def getstate(self) -> tuple[Any, ...]: ...
    def setstate(self, state: tuple[Any, ...]) -> None: ...


class PythonRandom:
    """The stream, from the standard library.

    Parameters
    ----------
    seed : int
        As of random.seed(): the sign does not count.
    """

    def __init__(self, seed: int) -> None:
        import random

        self._random = random.Random(seed)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """The indices, int64 array [n], that random.shuffle(list(range(n))) leaves."""
        order = list(range(n))
        self._random.shuffle(order)
        return np.array(order, np.int64)

    def normal(self, out: NDArray[np.float64], std: float) -> None:
        """Fill `out`, flat float64, with draws of random.gauss(0, std); a `std` of 0 draws too."""
        gauss = self._random.gauss
        out[:] = [gauss(0, std) for _ in range(len(out))]

    def choices(self, weights: NDArray[np.float64]) -> int:
        """An index drawn with these weights, float64 array [n], as random.choices(range(n), weights)[0]."""
        return self._random.choices(range(len(weights)), weights.tolist())[0]

    def getstate(self) -> tuple[Any, ...]:
        """The state, as of random.Random.getstate()."""
        return self._random.getstate()

    def setstate(self, state: tuple[Any, ...]) -> None:
        """Continue from a state of `getstate`, also of random.Random.getstate()."""
        self._random.setstate(state)


def check_state(state: Any) -> tuple[int, tuple[int, ...], float | None]:
    """A state for `setstate`, from a file: lists in place of tuples are allowed.

    Raises
    ------
    ValueError
        if it is none.
    """
    if not (isinstance(state, (list, tuple)) and len(state) == 3 and isinstance(state[1], (list, tuple))):
        raise ValueError("the state of a random stream must be [version, words, normal deviate]")
    version, words, gauss = state
    if type(version) is not int or version != 3 or len(words) != WORDS + 1:
        raise ValueError("the state of a random stream must be of version 3, with 625 words")
    *content, index = words
    if not all(type(word) is int and 0 <= word < 2**32 for word in content):
        raise ValueError("the words of a random stream must be whole numbers of 32 bits")
    if type(index) is not int or not 0 <= index <= WORDS or not any(content):
        raise ValueError(
            f"the last word of a random stream must lie in 0 ... {WORDS}, and not all others be 0"
        )
    if gauss is not None and not (type(gauss) is float and math.isfinite(gauss)):
        raise ValueError("the normal deviate of a random stream must be a finite number or null")
    return version, tuple(words), gauss


def sampling_weights(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """What `choices` draws the next token by: softmax(logits / temperature) over the last axis, in float64.

    At temperature 0, its limit: the first of the largest logits has all the weight.
    """
    if not temperature:
        return (np.arange(logits.shape[-1]) == logits.argmax(-1)[..., None]).astype(np.float64)
    weights = np.exp((logits.astype(np.float64) - logits.max(-1, keepdims=True)) / temperature)
    weights /= weights.sum(-1, keepdims=True)
    return weights


def _restored(kind, state):
    stream = kind(0)
    stream.setstate(state)
    return stream


def _reduced(stream):
    """How pickle and copy keep a stream: by its kind and state."""
    return _restored, (type(stream), stream.getstate())


def seeded(seed: int, backend: ModuleType) -> RandomStream:
    """The stream for a seed: the backend's own, or the standard library's.

    Parameters
    ----------
    seed : int
    backend : module
        A backend, as backends.load() returns it.
    """
    kind = getattr(backend, "Random", PythonRandom)
    copyreg.pickle(kind, _reduced)
    return kind(seed)
