"""What ends a training early, so that it can be saved.

Ctrl-C, and the signals that `timeout`, a scheduler or a terminal that is closed send.
"""

import signal
import threading
from contextlib import contextmanager

# Ctrl-C; timeout, docker stop, scancel, a shutdown; a terminal that is gone
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Ending:
    """Whether a signal has ended the training.

    Attributes
    ----------
    number : int or None
        The signal.
    """

    number: int | None = None

    @property
    def exit_code(self):
        """What a shell reports for a process that the signal ended: 130, 143, 129."""
        return 128 + (self.number or signal.SIGINT)

    @property
    def reason(self):
        """What to tell the user."""
        if self.number in (None, signal.SIGINT):
            return "interrupted"
        return f"ended by {signal.Signals(self.number).name}"


@contextmanager
def stop_on_signals(trainer):
    """Let a signal in here end the training after the current steps.

    A second Ctrl-C ends the program; the other signals may come twice (`timeout` sends one to the process and one to
    its group) and then change nothing. A signal that the process was started to ignore, as by `nohup` or by a shell
    for a job in the background, stays ignored.

    Parameters
    ----------
    trainer : Trainer

    Yields
    ------
    ending : Ending
    """
    ending = Ending()

    def stop(number, frame):
        if trainer.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not trainer.stopping:
            ending.number, trainer.stopping = number, True

    previous = {}
    if threading.current_thread() is threading.main_thread():  # no other may, and none other gets signals
        for number in ENDING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                previous[number] = signal.signal(number, stop)
    try:
        yield ending
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
