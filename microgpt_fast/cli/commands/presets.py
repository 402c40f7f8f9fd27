"""`microgpt-fast presets`: the sets of constants, and what each sets."""

from dataclasses import MISSING, fields

from ...config import GPTConfig, TrainConfig, resolve
from ...presets import PRESETS


def add_arguments(parser):
    """The options of `presets`."""
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="one of them, with all that it sets (default: all)"
    )


def run(options, stdout):
    """Print the names of the presets, or what one of them sets."""
    if options.name is None:
        width = max(map(len, PRESETS))
        for name, parts in PRESETS.items():
            sets = ", ".join(f"{option} {value}" for part in parts for option, value in part.items())
            stdout.write(f"{name:{width}}  {sets or 'the constants of microgpt.py'}\n")
        return 0
    resolve(options.name)  # refuses an unknown one
    for part, config in zip(PRESETS[options.name], (GPTConfig, TrainConfig), strict=True):
        for field in fields(config):
            if field.name == "vocab_size" or field.name == "plan":
                continue
            value = part.get(field.name, None if field.default is MISSING else field.default)
            mark = "  (set)" if field.name in part else ""
            stdout.write(f"{field.name} = {value}{mark}\n")
    return 0
