"""What the processes of one training tell each other, by MPI; a process alone is a team of one, which tells nothing."""

from collections.abc import Sequence
from hashlib import blake2b
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import UsageError
from ..data.corpus import Corpus

PIECE = 1 << 24  # tokens that are hashed at a time


class Team:
    """The processes of a communicator; all call each method together.

    Parameters
    ----------
    communicator : mpi4py communicator, optional
        None: this process alone.

    Attributes
    ----------
    rank, size : int
        This process, from 0, and how many there are.
    waited : float
        Seconds that this process has spent in exchanges: on the wire, and waiting for others.
    """

    def __init__(self, communicator: Any = None) -> None:
        self._communicator = communicator
        self.rank, self.size = (communicator.rank, communicator.size) if communicator else (0, 1)
        self.waited = 0.0

    def _timed(self, call, *arguments):
        begin = perf_counter()
        result = call(*arguments)
        self.waited += perf_counter() - begin
        return result

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.size == 1 else any(self._timed(self._communicator.allgather, flag))

    def first(self, value: Any) -> Any:
        """The first process's value."""
        return value if self.size == 1 else self._timed(self._communicator.bcast, value)

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's part of the items: `gather` puts what is made of them in their order."""
        return items[self.rank * len(items) // self.size : (self.rank + 1) * len(items) // self.size]

    def gather(self, values: list[Any]) -> list[Any]:
        """The values of all processes, one process's after the other's."""
        if self.size == 1:
            return values
        return [value for part in self._timed(self._communicator.allgather, values) for value in part]

    def exchange(
        self, whole: NDArray[Any] | None, places: list[slice], gives: list[bool], dtype: Any
    ) -> Sequence[NDArray[Any]]:
        """Send each process its place of an array, and get one's own of the others'.

        Parameters
        ----------
        whole : array [P] or None
            What this process gives.
        places : list of slice
            Of each process.
        gives : list of bool
            Which processes give something.
        dtype : NumPy dtype

        Returns
        -------
        parts : array [processes that give, n]
        """
        own = places[self.rank].stop - places[self.rank].start
        received = np.empty((sum(gives), own), dtype)
        sent = [place.stop - place.start if gives[self.rank] else 0 for place in places]
        from_each = [own if is_giver else 0 for is_giver in gives]
        at = [place.start if gives[self.rank] else 0 for place in places]
        to = np.cumsum([0, *from_each[:-1]]).tolist()
        source = received if whole is None else whole
        self._timed(self._communicator.Alltoallv, [source, (sent, at)], [received, (from_each, to)])
        return received

    def collect(self, own: NDArray[Any], whole: NDArray[Any], places: list[slice]) -> None:
        """Put each process's own part into its place of `whole` [P], in all processes; parts may lie there already."""
        if self.size == 1:
            whole[:] = own
            return
        counts = [place.stop - place.start for place in places]
        starts = [place.start for place in places]
        self._timed(self._communicator.Allgatherv, own.copy(), [whole, (counts, starts)])

    def agree_on_corpus(self, corpus: Corpus) -> None:
        """Compare what the processes have read.

        Raises
        ------
        UsageError
            in all of them, where one has read something else than the first.
        """
        if self.size == 1:
            return
        digest = blake2b(digest_size=16)
        for array in (corpus.tokens, corpus.offsets):
            for first in range(0, len(array), PIECE):
                digest.update(array[first : first + PIECE].tobytes())
        found = self._communicator.allgather(digest.hexdigest())
        others = [str(rank) for rank, text in enumerate(found) if text != found[0]]
        if others:
            raise UsageError(
                f"process {', '.join(others)} has read other data than process 0: give all of them the same files"
            )
