"""Tries faults of each use, or one again."""

import argparse
import os
import sys
import tempfile

from . import USES, build, in_a_process, try_faults


def main():
    """Returns 1 if something was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="of each use (default: 200)")
    parser.add_argument("--use", choices=USES, nargs="+", default=USES, help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="other faults for another one (default: 0)")
    parser.add_argument("--fault", type=int, help="try this one only")
    options = parser.parse_args()
    if "shim.so" not in os.environ.get("LD_PRELOAD", ""):
        with tempfile.TemporaryDirectory() as folder:
            done = in_a_process(build(folder), *sys.argv[1:])
        print(done.stdout, end="")
        print(done.stderr, end="", file=sys.stderr)
        return done.returncode
    failed = 0
    for use in options.use:
        tried, calls, failures = try_faults(use, options.seed, options.faults, options.fault)
        print(f"{use}: {tried} faults in {calls} calls, {len(failures)} failed")
        for failure in failures[:10]:
            print(failure, file=sys.stderr)
        failed += len(failures)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
