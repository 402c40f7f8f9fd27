"""Many runs on all cores, or on a caller's executor; one that a dying worker takes with it is repeated once.

Threads are the default in Python: the runs hold no interpreter while they compute, and 128 of 30 ms took 12 % less
processor time than in processes, which each import the package first. Processes outlive the death of one of them,
and share no interpreter, of which a run needs some milliseconds: the command line uses them.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from functools import partial
from types import SimpleNamespace
from typing import Any

from ..config import MAX_THREADS, UsageError, check_integer
from .one_run import Data, Job, run

KINDS = ("threads", "processes")
AHEAD = 2  # runs per worker that are submitted before others have ended
HOPELESS = 3  # jobs whose workers died, if none ever ended well
GUARD = 'in a program, compare below if __name__ == "__main__", as processes need'
LOOK_SECONDS = 0.2  # between two looks at `stopping`

_worker = SimpleNamespace(flag=None)  # of this process, where it is one


class Runner:
    """Does jobs, several at a time.

    Parameters
    ----------
    executor : "threads", "processes" or concurrent.futures.Executor
        The caller's executor is used as it is and not shut down; if it breaks, the jobs end with a UsageError.
    workers : int
        Of an executor that is not the caller's.

    Attributes
    ----------
    stopping : bool
        Set it, from any thread or a signal's handler, to end `results`, and within some milliseconds the runs.
    died : list of (Job, str)
        What failed twice without being the arm's fault, and how.
    """

    def __init__(self, executor: str | Executor, workers: int) -> None:
        if isinstance(executor, str) and executor not in KINDS:
            raise UsageError(f"executor must be one of {', '.join(KINDS)} or an Executor, not {executor!r}")
        self._given = executor
        self._workers = check_integer("workers", workers, low=1, high=MAX_THREADS)
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.RawValue("b", 0)  # a byte without a lock, which a dying process could hold
        self.died: list[tuple[Job, str]] = []

    @property
    def stopping(self) -> bool:
        """Whether the runs shall end."""
        return bool(self._stop.value)

    @stopping.setter
    def stopping(self, value: bool) -> None:
        self._stop.value = int(value)

    @property
    def _is_own(self):
        return isinstance(self._given, str)

    def results(self, data: Data, jobs: Iterable[Job]) -> Iterator[dict[str, Any]]:
        """Yield the results of `one_run.run` as they come.

        Raises
        ------
        UsageError
            if an arm cannot be run, or a caller's executor broke.
        """
        jobs = list(jobs)
        queue = _Queue(jobs, AHEAD * self._workers if self._is_own else len(jobs), self.died)
        executor, work = self._make()
        has_result = False
        try:
            while queue.has_more() and not self.stopping:
                try:
                    queue.fill(partial(executor.submit, work, data))
                    for future in queue.ended(LOOK_SECONDS):
                        result = queue.take(future)
                        if result is not None:
                            has_result = True
                            yield result
                except BrokenExecutor as error:
                    if not self._is_own:
                        text = "the executor broke: finished runs are kept, the others are not done"
                        raise UsageError(text) from error
                    queue.lose_all(error)
                    if len(self.died) >= HOPELESS and not has_result:
                        raise UsageError(f"every worker process ends at once ({error}): {GUARD}") from error
                    executor.shutdown(
                        wait=True
                    )  # what it still closes could otherwise be the next one's pipes
                    executor, work = self._make()
        finally:
            self._end(executor, queue.pending)

    def _make(self):
        """An executor, and what it does with data and a job."""
        if self._given == "threads":
            return ThreadPoolExecutor(self._workers), partial(_in_thread, self._stop)
        if self._given == "processes":
            pool = ProcessPoolExecutor(self._workers, self._context, _begin_process, (self._stop,))
            return pool, _in_process
        return self._given, run

    def _end(self, executor, pending):
        """Let nothing go on, whatever ended the results."""
        for future in pending:
            future.cancel()
        if self._is_own:
            was_asked, self.stopping = self.stopping, True
            executor.shutdown(wait=True, cancel_futures=True)
            self.stopping = was_asked


class _Queue:
    """Jobs that wait, that are pending, and that are done once more.

    A worker that dies takes all pending jobs along. These are done again one by one: the next that dies, dies of its
    own job, which is then repeated once.

    Parameters
    ----------
    jobs : list of Job
    window : int
        The most that are pending.
    died : list of (Job, str)
        Gets those that fail again.
    """

    def __init__(self, jobs: list[Job], window: int, died: list[tuple[Job, str]]) -> None:
        self._waiting, self._suspects = deque(jobs), deque[Job]()
        self._window, self._died = window, died
        self._suspected: set[tuple[int, int]] = set()
        self._failed: set[tuple[int, int]] = set()
        self.pending: dict[Future[Any], Job] = {}

    def has_more(self) -> bool:
        """Whether anything is left to do or to wait for."""
        return bool(self._waiting or self._suspects or self.pending)

    def fill(self, submit: Callable[[Job], Future[Any]]) -> None:
        """Submit what there is room for."""
        is_repeating = any(job.key in self._suspected for job in self.pending.values())
        queue, room = self._waiting, self._window
        if self._suspects or is_repeating:
            queue, room = self._suspects, 1
        while queue and len(self.pending) < room:
            self.pending[submit(queue[0])] = queue[0]
            queue.popleft()

    def ended(self, seconds: float) -> list[Future[Any]]:
        """Those that have ended, after at most so long; first what has a result."""
        done, _ = wait(self.pending, seconds, FIRST_COMPLETED)
        return sorted(done, key=_is_broken)

    def take(self, future: Future[Any]) -> dict[str, Any] | None:
        """The result of a job that has ended, or None if it has none; it may be repeated."""
        try:
            result = future.result()
        except (UsageError, BrokenExecutor):
            raise
        except Exception as error:
            self._repeat(self.pending.pop(future), error)
            return None
        self.pending.pop(future)
        return result

    def lose_all(self, error: BaseException) -> None:
        """The executor broke: all that is pending has to be done again."""
        lost = [*self.pending.values()]
        self.pending.clear()
        if len(lost) == 1:
            self._repeat(lost[0], error)
        else:
            self._suspect(lost)

    def _repeat(self, job, error):
        if job.key in self._failed:
            self._died.append((job, f"{type(error).__name__}: {error}".rstrip(": ")))
        else:
            self._failed.add(job.key)
            self._suspect([job])

    def _suspect(self, jobs):
        self._suspected.update(job.key for job in jobs)
        self._suspects.extend(jobs)


def _is_broken(future):
    return not future.cancelled() and isinstance(future.exception(), BrokenExecutor)


def _in_thread(flag, data, job):
    return run(data, job, lambda: flag.value)


def _begin_process(flag):
    """Ctrl-C reaches every process of the terminal: the one that waits for the workers tells them to end."""
    _worker.flag = flag
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_process(data, job):
    return run(data, job, lambda: _worker.flag.value)
