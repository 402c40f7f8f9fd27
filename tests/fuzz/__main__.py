"""Runs targets of the fuzzer for some time, or one input of one again."""

import argparse
import sys
from time import monotonic

from . import TARGETS, attempt, case_of
from .runner import run


def main():
    """Returns 1 if an input failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1, help="for all targets together (default: 1)")
    parser.add_argument("--target", choices=TARGETS, nargs="+", default=TARGETS, help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="other inputs for another one (default: 0)")
    parser.add_argument("--input", type=int, help="show and try this one only, of one target")
    options = parser.parse_args()
    if options.input is not None:
        [target] = options.target
        print(repr(case_of(target, options.seed, options.input))[:10_000])
        failure = attempt(target, options.seed, options.input)
        print(failure or "passed")
        return int(failure is not None)
    total, failed = 0, 0
    for target in options.target:
        begin = monotonic()
        tried, failures = run(target, options.seed, begin + 60 * options.minutes / len(options.target))
        print(
            f"{target}: {tried:,} inputs in {monotonic() - begin:.1f} s, {len(failures)} failed", flush=True
        )
        for failure in failures[:10]:
            print(failure, file=sys.stderr)
        total, failed = total + tried, failed + len(failures)
    print(f"{total:,} inputs, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
