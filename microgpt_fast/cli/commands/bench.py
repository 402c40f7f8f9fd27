"""`microgpt-fast bench`: speed, compared with the machine's peak and with other programs."""

from .common import CONSTANTS


def add_arguments(parser):
    """The options of `bench`."""
    parser.add_argument(
        "--job",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="a, a16, b, c, d, decode, decode-c, decode-c64, decode-d, startup (default: all, and all kernels)",
    )
    parser.add_argument(
        "--kernel", nargs="+", action="extend", metavar="NAME", help="a kernel, such as gemm_nn, or all"
    )
    parser.add_argument(
        "--sweep", action="store_true", help="measure over many widths, block sizes and batch sizes"
    )
    parser.add_argument(
        "--dtype", default="float32", metavar="NAME", help="float32 (default), float64 or bfloat16"
    )
    parser.add_argument("--numerics", default="fast", metavar="NAME", help="fast (default) or exact")
    parser.add_argument("--backend", default="auto", metavar="NAME", help=CONSTANTS["backend"][1])
    parser.add_argument(
        "--threads", type=int, metavar="N", default=1, help="threads that share the work (default: 1)"
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, metavar="X", help="time per measurement (default: 2)"
    )
    parser.add_argument(
        "--peers", metavar="FOLDER", help="time the *_peer.py of this folder in turn (bench, in the sources)"
    )
    parser.add_argument(
        "--peer",
        action="append",
        metavar="NAME[:DTYPE:BATCH]=COMMAND",
        help="time any program as a whole process; {steps} in it stands for the number of steps. For a ratio, it must "
        "print its first three losses as microgpt.py does: step 1 / 3 | loss 3.2189",
    )
    parser.add_argument("--original", metavar="FILE", help="time this copy of microgpt.py, with --job a")
    parser.add_argument("--save", metavar="FILE", help="save the jobs' times here, for a later --against")
    parser.add_argument(
        "--against",
        metavar="FILE",
        help="print the ratio of each job's time per step to that of a saved run; exit code 1 if one is beyond --limit",
    )
    parser.add_argument(
        "--against-python",
        metavar="PYTHON",
        help="the same against another installation, timed in turn with this one as processes: its Python "
        "interpreter, or the folder of its virtual environment or of its microgpt_fast",
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="X",
        help="the highest ratio that passes (default: 1.03 in turn, 1.15 against a saved run; repeated "
        "runs of one version differed by less on a busy machine)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--csv", metavar="FILE", help="write the results here, one per row")
    parser.add_argument("--plot", metavar="FILE", help="draw sweep and kernels as PNG; needs matplotlib")


def run(options, stdout):
    """Measure, and print, write or draw the results."""
    from ...benchmark.report import run_bench

    return run_bench(options, stdout)
