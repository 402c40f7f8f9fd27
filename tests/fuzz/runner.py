"""Runs targets, each in a process of its own, so that an input that ends it is a failure and not the end."""

import multiprocessing
from time import monotonic

from . import Failure, fuzz

MEMORY = 8 << 30  # bytes of address space that a process may have


def run(target, seed, until):
    """`fuzz` in processes of their own, one after another if an input ends one."""
    context = multiprocessing.get_context("spawn")
    first, failures = 0, []
    while monotonic() < until:
        number = context.Value("q", -1)
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(sender, number, target, seed, first, until))
        worker.start()
        sender.close()
        try:
            tried, found = receiver.recv()
            first, ended = first + tried, True
            failures += found
        except EOFError:
            ended = False
        worker.join()
        if ended:
            break
        if number.value < 0:
            raise SystemExit(f"{target}: it cannot be started")
        text = f"the process ended with {worker.exitcode}"
        failures.append(Failure(target, seed, number.value, text))
        first = number.value + 1
    return first, failures


def _work(sender, number, target, seed, first, until):
    def begin(value):
        number.value = value

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except ImportError:
        pass
    sender.send(fuzz(target, seed, first, until=until, begin=begin))
