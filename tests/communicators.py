"""A stand-in for an MPI communicator: its processes are threads of this one."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np


class Communicator:
    """What `microgpt_fast.training.team` uses of mpi4py's, for one of several threads."""

    def __init__(self, rank, size, board, barrier):
        self.rank, self.size, self._board, self._barrier = rank, size, board, barrier

    def allgather(self, value):
        self._board[self.rank] = value
        self._barrier.wait()
        values = list(self._board)
        self._barrier.wait()
        return values

    def bcast(self, value):
        return self.allgather(value)[0]

    def Alltoallv(self, source, target):
        array, (counts, starts) = source
        sent = [array.reshape(-1)[s : s + n].copy() for n, s in zip(counts, starts)]
        for parts, n, start in zip(self.allgather(sent), *target[1]):
            target[0].reshape(-1)[start : start + n] = parts[self.rank]

    def Allgatherv(self, own, target):
        for part, n, start in zip(self.allgather(np.array(own)), *target[1]):
            target[0][start : start + n] = part


def together(size, function):
    """What the function returns for each of so many communicators, all at work at once."""
    board, barrier = [None] * size, threading.Barrier(size, timeout=60)

    def one(rank):
        try:
            return function(Communicator(rank, size, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [future.exception() for future in futures if future.exception()]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [future.result() for future in futures]
