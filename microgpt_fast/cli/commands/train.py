"""`microgpt-fast train`: prints what the original prints; keeps the model in a file, or the run in a folder."""

from contextlib import contextmanager
from time import perf_counter

from ...config import MODEL_OPTIONS, TRAIN_OPTIONS, UsageError
from ...messages import machines_file, tell
from ...presets import PRESETS
from ...workload import cores
from ..keeping import Keeping, name_of, resume_command, sample_command
from ..mpi import Processes, communicator_of
from ..settings import data_of, gathered, paths_of
from ..signals import stop_on_signals
from .common import CONSTANTS, add_constants, add_raw, fail, users_file

MANY_STEPS = 20_000  # lines, which are more than anybody reads
SAVING_SECONDS = 0.1
MUCH = 0.2  # of a time budget, of which it is said that the training does not get it
SAMPLING = 0.15  # of a time budget, the most that is kept for samples
PRESET_NAMES = f"one of {', '.join(PRESETS)} (default: microgpt)"


def add_arguments(parser):
    """The options of `train`."""
    parser.add_argument("--preset", metavar="NAME", help=PRESET_NAMES)
    parser.add_argument(
        "--data", "--dataset", metavar="FILE", nargs="+",
        help="UTF-8 text: files, folders, or - for stdin (default: built-in names)",
    )  # fmt: skip
    for name, what in (("--include", "read these alone"), ("--exclude", "leave these out")):
        parser.add_argument(
            name,
            metavar="PATTERN",
            nargs="+",
            action="extend",
            help=f"of the files in folders, {what}: '*.md'",
        )
    parser.add_argument("settings", metavar="CONFIG", nargs="?", help="the same as --config, as for nanoGPT")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="file with these options, TOML or a nanoGPT config.py (read, never executed); the command line "
        "overrides it",
    )
    parser.add_argument("--save", metavar="FILE", help="write the trained model here")
    parser.add_argument(
        "--out",
        "--out-dir",
        metavar="FOLDER",
        help="keep the run here: configuration, metrics, checkpoints, samples",
    )
    parser.add_argument(
        "--no-out", action="store_true", default=None,
        help="keep no run (default: one of more than a few seconds is kept in runs/NAME, unless --save or --out "
        "say where)",
    )  # fmt: skip
    parser.add_argument("--resume", metavar="FOLDER", help="continue the run that --out keeps in this folder")
    parser.add_argument(
        "--mpi", action="store_true", default=None, help="train with all processes that mpirun has started"
    )
    add_raw(parser)
    parser.add_argument(
        "--quiet",
        action="store_true",
        default=None,
        help="print no losses and no messages: what the model is, and its samples",
    )
    add_constants(parser, CONSTANTS, "the preset's")


def run(options, stdout):
    """Train, print what the original prints, save."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    given = gathered(options, given)
    constants = {name: given[name] for name in given if name in MODEL_OPTIONS + TRAIN_OPTIONS}
    processes = Processes(communicator_of(given.get("mpi")), stdout)
    threads = processes.threads(cores())
    if threads and "threads" not in constants:
        constants["threads"] = threads
    save_to, quiet = given.get("save") if processes.is_first else None, given.get("quiet", False)
    with processes.agreeing():
        if save_to is not None:
            from ...training.checkpoint import check_writable

            with users_file("write", save_to):
                check_writable(save_to)
        trainer, kept = make_trainer(given, constants, processes)
    data = data_of(given)
    preset = given.get("preset", "microgpt")
    is_default = preset == "microgpt" and not constants
    is_kept_anyway = not (save_to or given.get("no_out") or kept or is_default or given.get("mpi"))
    keeping = Keeping(kept, name_of(data, preset) if is_kept_anyway else None, data)
    with processes.ending_together(), keeping:
        return carry_out(trainer, keeping, save_to, quiet, stdout, processes)


def carry_out(trainer, keeping, save_to, quiet, stdout, processes):
    """Take the steps and draw the samples; returns the exit code."""
    say = (lambda message: None) if quiet else tell
    say(f"training on the {trainer.path} path ({computing(trainer)})")
    for note in (trainer.corpus.note, trainer.note):
        if note:
            say(note)
    if trainer.config.num_steps >= MANY_STEPS and not (quiet or stdout.is_terminal):
        say("a line is written for every step, as microgpt.py does: --quiet leaves them out")
    stdout.survives_pipe = bool(save_to or keeping.run)
    write_head(trainer, stdout)
    keeping.begin_if_due(trainer)
    with stop_on_signals(trainer) as ending:
        train(trainer, keeping, quiet, stdout)
        kept = keeping.run
        if save_to is not None:
            from ...training.checkpoint import save

            with machines_file(save_to):
                save(trainer.model, save_to)
    config = trainer.config
    if config.num_samples and not trainer.stopping and processes.is_first:
        say(write_samples(trainer, kept, stdout))
    elif trainer.step and not quiet:
        stdout.write("\n")
    stdout.flush()
    if trainer.stopping:
        saved = f"; saved {save_to or kept.folder}" if save_to or kept else ""
        saved += f": {resume_command(kept.folder)} continues" if kept else ""
        return fail(
            ending.exit_code, f"{ending.reason} after step {trainer.step} of {config.num_steps}{saved}"
        )
    if trainer.ended:
        say(f"stopped after step {trainer.step} of {config.num_steps}: {trainer.ended}")
    if trainer.evaluations:
        from ...training.findings import findings

        for line in findings(trainer):
            say(line)
    if trainer.whole_loss is not None:
        tokens = int(trainer.batches.validation[1].sum(dtype="int64"))
        say(f"validation loss {trainer.whole_loss:.4f} over all {tokens:,} tokens that are held out")
    if trainer.step > trainer.since[0] and trainer.seconds > trainer.since[2]:
        say(speed(trainer) + processes.waiting(trainer.team))
    if save_to or kept:
        say(f"next: {sample_command(save_to or kept.folder)}")
    return 0


def make_trainer(given, constants, processes):
    """The Trainer that was asked for, and the Run that keeps it or None."""
    from ...training.follower import Follower
    from ...training.trainer import Trainer

    constants = {**constants, "communicator": processes.communicator}
    data = data_of(given)
    named = " ".join(data) if data else given.get("resume")
    if given.get("resume") is not None:
        from ...training.runs import Run

        for name in ("preset", "out"):
            if name in given:
                raise UsageError(f"--resume continues a run as it was started: leave out --{name}")
        with users_file("read", named):
            keeper = Run if processes.is_first else Follower
            kept = keeper.resume(given["resume"], data, **constants)
        trainer = kept.trainer
        if trainer.step >= trainer.config.num_steps:
            tell(
                f"all {trainer.step} steps of {given['resume']} are done: continue with a larger --num-steps"
            )
        return trainer, kept
    out = given.get("out")
    if out is not None:
        from ...training.runs import Run, check_free

        if processes.is_first:
            check_free(out)
    with users_file("read", named):
        trainer = Trainer(paths_of(data), preset=given.get("preset", "microgpt"), **constants)
    keep_time(trainer, given["began"], given.get("quiet", False))
    if out is None:
        return trainer, None
    if not processes.is_first:
        return trainer, Follower(out, trainer)
    with users_file("write", out):
        return trainer, Run.create(out, trainer, data)


def keep_time(trainer, began, quiet):
    """Let a time budget count from the program's start, and keep some of it for samples and saving."""
    if trainer.config.time_budget is None:
        return
    config = trainer.config
    trainer.began = began + trainer.corpus.tokenising
    if trainer.corpus.tokenising and not quiet:
        tell(
            f"turned the text into tokens in {trainer.corpus.tokenising:.1f} s, beside the time budget: they are "
            "kept for later runs"
        )
    trainer.reserve = SAVING_SECONDS + min(_sampling_seconds(trainer), SAMPLING * config.time_budget)
    passed = perf_counter() - trainer.began
    if passed > MUCH * config.time_budget and not quiet:
        tell(
            f"of the time budget of {config.time_budget:g} s, {passed:.1f} s are over before the training begins"
        )


def _sampling_seconds(trainer):
    """About how long it takes to draw the samples, from one that is drawn from another random stream."""
    config, model = trainer.config, trainer.model
    is_stream = trainer.corpus.mode == "stream"
    if not config.num_samples:
        return 0.0
    from ...sampling.sample import STREAM_TOKENS, generate

    length = min(2 * model.config.block_size, STREAM_TOKENS) if is_stream else None
    start = perf_counter()
    generate(model, 1, seed=1, max_new_tokens=length)
    a_sample = (perf_counter() - start) * (STREAM_TOKENS / length if is_stream else 1)
    return config.num_samples * a_sample


def write_head(trainer, stdout):
    """Write what the original prints first; for a stream, the number of tokens instead of documents."""
    corpus, model = trainer.corpus, trainer.model
    count = f"num docs: {len(corpus)}" if corpus.mode == "lines" else f"num tokens: {len(corpus.tokens)}"
    stdout.write(f"{count}\nvocab size: {model.config.vocab_size}\nnum params: {model.config.num_params}\n")


def train(trainer, keeping, quiet, stdout):
    """Take the steps, show them, and keep them in the run's folder."""
    say = (lambda message: None) if quiet else tell
    from ...training.events import Steps

    progress = None
    budget = trainer.config.time_budget
    with recording(keeping), way_back(trainer, keeping):
        for event in trainer.events():
            if budget is not None:
                say(
                    f"a time budget of {budget:g} s allows about {counted(trainer.config.num_steps, 'step')}"
                    f"{capped(trainer)}"
                )
                budget = None
            is_drawn = stdout.is_terminal and progress is not None and progress.is_drawn
            if isinstance(event, Steps) and not (quiet or is_drawn):
                stdout.steps(event.step, trainer.config.num_steps, event.losses)
            keeping.begin_if_due(trainer)
            if keeping.run:
                keeping.run.record(event)
            if progress is None and not quiet and (trainer.seconds > 1 or not isinstance(event, Steps)):
                from ...training.progress import Progress

                stdout.end_steps()
                progress = Progress(trainer)
            if progress and not progress.is_drawn:
                stdout.clear_steps()
            if progress:
                progress.report(event)
        if keeping.run:
            keeping.run.checkpoint()
            if not trainer.stopping:
                keeping.run.finish()
    if progress:
        progress.close()
    stdout.end_steps()


@contextmanager
def recording(keeping):
    """Report an OSError in here as a failure to write the run's folder."""
    try:
        yield
    except OSError as error:
        if keeping.run is None:
            raise
        with machines_file(keeping.run.folder):
            raise error


@contextmanager
def way_back(trainer, keeping):
    """Where training diverges in here, say what is left of it."""
    try:
        yield
    except UsageError as error:
        kept = keeping.run
        if not (trainer.diverged and kept):
            raise
        raise UsageError(
            f"{error}; --resume {kept.folder} --learning-rate X continues from step {kept.saved_step}"
        ) from None


def write_samples(trainer, kept, stdout):
    """Print samples, and keep them in the run's folder; returns what to say of them."""
    from ...sampling.sample import samples

    config = trainer.config
    texts = samples(trainer.model, config.num_samples, config.temperature, random=trainer.random)
    is_stream = trainer.corpus.mode == "stream"
    stdout.write("\n--- samples ---\n" if is_stream else "\n--- inference (new, hallucinated names) ---\n")
    if kept:
        texts = [[*pieces] for pieces in texts]
        with machines_file(kept.folder):
            kept.write_samples(map("".join, texts))
    written: list[str] = []
    stdout.samples(noted(texts, written), is_long=is_stream)
    stdout.flush()
    return copies(trainer, written)


def noted(texts, written):
    """The same samples, whose texts are appended to `written` as they are read."""
    for pieces in texts:
        parts = []

        def one(pieces=pieces, parts=parts):
            for piece in pieces:
                parts.append(piece)
                yield piece

        yield one()
        written.append("".join(parts))


def copies(trainer, texts):
    """One line on how many of some samples are copies of the data."""
    from ...sampling import originality

    corpus, count = trainer.corpus, len(texts)
    if corpus.mode == "lines":
        number = originality.lines_copied(corpus, texts, trainer.model.config.block_size)
        return f"{number} of {count} samples are lines of the data"
    number = originality.pieces_copied(corpus, texts)
    place = "the data"
    if len(corpus.tokens) > originality.READ:
        place = f"the first {originality.READ:,} tokens of the data"
    return f"{number} of {count} samples hold {originality.LONG} characters or more in a row that stand in {place}"


def capped(trainer):
    """What to say where a text is too short for the time."""
    from ...training.findings import most_steps

    most = most_steps(trainer) if trainer.config.keep_best else None
    if trainer.config.num_steps != most:
        return ""
    return ": more would only teach this text by heart, for it is short"


def speed(trainer):
    """One line on how fast a training run was, and on what it ran."""
    step, tokens, seconds = trainer.since
    steps, tokens, seconds = trainer.step - step, trainer.tokens - tokens, trainer.seconds - seconds
    rate = steps / seconds
    return (
        f"{counted(steps, 'step')} in {seconds:.3f} s: {rate:,.{0 if rate >= 10 else 2}f} steps/s, "
        f"{tokens / seconds:,.0f} tokens/s ({computing(trainer)})"
    )


def counted(number, thing):
    """A number of things: "1 step", "2 steps"."""
    return f"{number} {thing}{'s'[: number != 1]}"


def computing(trainer):
    """Backend, instruction set, dtype, numerics and threads of a training run."""
    from ...backends import name_of

    model = trainer.model
    where = " ".join(filter(None, (name_of(model.backend), getattr(model.engine, "isa", None))))
    count = getattr(model.engine, "threads", 1)
    return f"{where}, {model.dtype}, {model.numerics}, {count} {'thread' if count == 1 else 'threads'}"
