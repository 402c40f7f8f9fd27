"""The balanced binary tree in whose order gradients are summed, and which part of it each process sums.

A step's documents, and the flat buffer of parameters, are cut into S pieces, S a power of two; the gradients of the
pieces of the batch are the leaves. Since every sum follows the tree, its bits do not depend on who computes it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Node = tuple[int, int]  # first leaf, number of leaves


def piece(index: int, pieces: int, size: int) -> slice:
    """The part of `size` things that is one of so many pieces; they differ by one at most."""
    return slice(index * size // pieces, (index + 1) * size // pieces)


def largest_nodes(first: int, end: int) -> Iterator[Node]:
    """The fewest nodes of the tree that have the leaves first ... end - 1."""
    while first < end:
        leaves = 1
        while first % (2 * leaves) == 0 and first + 2 * leaves <= end:
            leaves *= 2
        yield first, leaves
        first += leaves


def add_up(node: Node, known: Mapping[Node, NDArray[Any]]) -> NDArray[Any]:
    """The sum of a node's leaves, from those of the nodes that are known; the arrays are overwritten."""
    if node in known:
        return known[node]
    first, leaves = node
    left = add_up((first, leaves // 2), known)
    left += add_up((first + leaves // 2, leaves // 2), known)
    return left


class Summer:
    """Sums leaves that are made one at a time, in as few buffers as the tree is high.

    Parameters
    ----------
    make_leaf : function of (index, array)
        Adds leaf `index` to an array of zeros.
    size : int
    dtype : NumPy dtype
    """

    def __init__(self, make_leaf: Callable[[int, NDArray[Any]], object], size: int, dtype: Any) -> None:
        self._make_leaf, self._size, self._dtype = make_leaf, size, dtype
        self._spare: list[NDArray[Any]] = []

    def sum(self, node: Node) -> NDArray[Any]:
        """The sum of a node's leaves; give the array back when it is no longer needed."""
        first, leaves = node
        if leaves == 1:
            array = self._spare.pop() if self._spare else np.empty(self._size, self._dtype)
            array.fill(0)
            self._make_leaf(first, array)
            return array
        left, right = self.sum((first, leaves // 2)), self.sum((first + leaves // 2, leaves // 2))
        left += right
        self.give_back(right)
        return left

    def give_back(self, array: NDArray[Any]) -> None:
        """Let an array of `sum` hold another."""
        self._spare.append(array)
