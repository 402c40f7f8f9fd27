"""`microgpt-fast compare`: whether a change of options helps, with error bars."""

import json
from pathlib import Path

from ...config import MODEL_OPTIONS, TRAIN_OPTIONS, UsageError
from ...messages import machines_file, tell
from ..signals import stop_on_signals
from .common import CONSTANTS, add_constants, fail, users_file

EXAMPLES = """\
examples:
  microgpt-fast compare --data names.txt --vary activation=relu,relu2 --seeds 32
  microgpt-fast compare --vary n_layer=1,2 --vary learning_rate=0.01,0.003 --num-steps 2000
  microgpt-fast compare --vary n_embd=16,32 --time-budget 2s       at equal seconds
  microgpt-fast compare --config mine.toml theirs.toml
All arms are compared with the first. The same command goes on where it was stopped, and adds seeds.
"""


def add_arguments(parser):
    """The options of `compare`."""
    parser.epilog = EXAMPLES
    parser.add_argument(
        "--vary", action="append", default=[], metavar="NAME=VALUE,VALUE",
        help="an option of train and the values to compare; given several times, every combination is an arm",
    )  # fmt: skip
    parser.add_argument(
        "--config",
        metavar="FILE",
        nargs="+",
        default=[],
        help="TOML files with options of train, an arm each",
    )
    parser.add_argument(
        "--seeds", type=int, default=32, metavar="N", help="seeds per arm, from --seed (42) on (default: 32)"
    )
    parser.add_argument("--preset", metavar="NAME", help="of all arms (default: microgpt)")
    parser.add_argument(
        "--data", metavar="FILE", nargs="+", help="UTF-8 text: files or folders (default: built-in names)"
    )
    parser.add_argument(
        "--out", metavar="FILE", default="auto",
        help="JSON lines, one per run, written as they come (default: compare-*.jsonl, named after the arms)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--yes", action="store_true", help="start more than 10,000 runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--csv", metavar="FILE", help="write a row per run here")
    parser.add_argument("--plot", metavar="FILE", help="draw losses, intervals and curves; needs matplotlib")
    add_constants(parser, CONSTANTS, "the preset's; of all arms")


def run(options, stdout):
    """Train every arm with every seed, and print what differs."""
    from ...lab.report import as_dict, table, write_csv

    experiment = make_experiment(options)
    if experiment.note:
        tell(experiment.note)
    with stop_on_signals(experiment) as ending, machines_file(experiment.path):
        comparison = carry_out(experiment)
    if comparison.done:
        text = [json.dumps(as_dict(comparison), allow_nan=False)] if options.json else table(comparison)
        stdout.write("\n".join(text) + "\n")
        stdout.flush()
    for path, write in ((options.csv, write_csv), (options.plot, plotted)):
        if path is not None:
            with machines_file(path):
                write(comparison, path)
    if experiment.stopping:
        kept = f"{comparison.done} of {comparison.total} runs are kept in {experiment.path}"
        return fail(ending.exit_code, f"{ending.reason}: {kept}; the same command goes on from there")
    return 1 if comparison.died else 0


def plotted(comparison, path):
    """Draw the comparison."""
    from ...lab.plot import plot

    plot(comparison, path)


def make_experiment(options):
    """The Experiment that was asked for."""
    from ...lab import arms, compare
    from ...training.settings import read_toml

    vary = {}
    for name, values in map(arms.parse_vary, options.vary):
        if name in vary:
            raise UsageError(
                f"--vary {name} is given twice: give all its values at once, separated by commas"
            )
        vary[name] = values
    configs, data = [], options.data
    for path in options.config:
        with users_file("read", path):
            values = read_toml(path)
        data = _same_data(data, values.pop("data", None), path)
        configs.append(
            (Path(path).stem, {k: v for k, v in values.items() if k not in ("save", "out", "quiet")})
        )
    if len({name for name, _ in configs}) < len(configs):
        raise UsageError("two files of --config have the same name: the arms are named after them")
    if not vary and len(configs) < 2:
        raise UsageError("give what to compare: --vary NAME=VALUE,VALUE or two files with --config")
    runs = arms.count(vary, configs) * max(options.seeds, 1)
    if runs > compare.MOST_RUNS and not options.yes:
        raise UsageError(f"{runs:,} runs, more than {compare.MOST_RUNS:,}: give --yes if you mean it")
    common = {
        name: value
        for name, value in vars(options).items()
        if name in (*MODEL_OPTIONS, *TRAIN_OPTIONS, "preset") and value is not None
    }
    if common.keys() & vary.keys():
        name = min(common.keys() & vary.keys())
        raise UsageError(f"{name} is both varied and the same in all arms: give one of the two")
    first = common.pop("seed", compare.FIRST_SEED)
    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {options.seeds}")
    with users_file("read", " ".join(data) if data else None):
        return compare.Experiment(
            arms.combinations(vary, configs), range(first, first + options.seeds), _paths(data),
            executor="processes", workers=options.workers, out=options.out, **common,
        )  # fmt: skip


def _same_data(data, other, path):
    other = [other] if isinstance(other, str) else other
    if other is None or data is None or other == data:
        return data or other
    raise UsageError(
        f"{path}: its data are others than {' '.join(data)}: all arms need the same; give --data"
    )


def _paths(data):
    if not data:
        return None
    return data[0] if len(data) == 1 else [Path(part) for part in data]


def carry_out(experiment):
    """Do the runs, and show how far they are; returns the Comparison."""
    from ...lab.progress import RunProgress

    with RunProgress(experiment.comparison().total) as progress:
        for number, comparison in enumerate(experiment.steps()):
            if number == 0:
                known = f", of which {comparison.done} are done" if comparison.done else ""
                tell(f"{comparison.total} runs{known}; results are kept in {experiment.path}")
            progress.report(comparison.done)
    return experiment.comparison()
