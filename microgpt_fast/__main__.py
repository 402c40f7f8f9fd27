"""The program: `python -m microgpt_fast`, or `microgpt-fast`."""

import sys


def main():
    """Run the command line; Ctrl-C is one line from the first import on. Returns the exit code."""
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        from .messages import tell

        tell("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
