"""Now against then: the table of ratios, and whether one is beyond the limit."""

from ..config import UsageError
from ..messages import tell

SAVED_LIMIT = 1.15  # a machine's speed drifts from one run to the next
IN_TURN_LIMIT = 1.03  # what drifts meets both versions
SLOWER = 1  # exit code
PROCESSOR, WALL = "processor time", "wall clock"


def check_options(options):
    """Refuse what cannot be saved or compared; returns the limit, None if nothing is compared."""
    in_turn = options.against_python is not None
    using = [
        "--" + name.replace("_", "-")
        for name in ("save", "against", "against_python")
        if getattr(options, name) is not None
    ]
    if using and (not options.job or options.kernel or options.sweep):
        raise UsageError(f"{using[0]} is for jobs: choose them with --job, without --kernel and --sweep")
    if in_turn:
        others = ("save", "against", "peers", "peer", "original", "csv", "plot")
        for name in others:
            if getattr(options, name) is not None:
                raise UsageError(f"--against-python times two versions only: leave out --{name}")
    if options.limit is None:
        return IN_TURN_LIMIT if in_turn else SAVED_LIMIT
    if not (in_turn or options.against is not None):
        raise UsageError("--limit is for --against and --against-python")
    if not 0 < options.limit < float("inf"):
        raise UsageError(f"--limit must be above 0, such as 1.02, not {options.limit}")
    return options.limit


def line_of(row, limit):
    """A row as text: times per step now and then, their ratio, and how far it varies."""
    text = (
        f"{row['job']:12} now {duration(row['us'])}  then {duration(row['then_us'])}  {row['clock']}"
        f"  ratio {row['ratio']:.3f}"
    )
    if "pairs" not in row:
        return text
    low, high = row["ratio_p20"], row["ratio_p80"]
    text += f"  ({low:.3f} to {high:.3f} in {row['pairs']} pairs)"
    return text + ("  limit within this spread" if low <= limit <= high else "")


def duration(us):
    """Microseconds in a unit that is easy to read."""
    for unit, size in (("us", 1), ("ms", 1e3)):
        if us < 1000 * size:
            return f"{us / size:7.2f} {unit}"
    return f"{us / 1e6:7.2f} s "


def verdict(rows, limit):
    """The exit code; says on stderr which jobs are beyond the limit."""
    names = [row["job"] for row in rows if not row["ratio"] <= limit]
    if names:
        tell(f"slower than before by more than the limit, {limit:g}: {', '.join(names)}")
    return SLOWER if names else 0
