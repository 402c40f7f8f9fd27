"""`microgpt-fast train`: what the original prints, and a model in a file."""

from ..config import MODEL_OPTIONS, TRAIN_OPTIONS
from ..output import machines_file, tell
from .common import CONSTANTS, add_constants, fail, stop_on_interrupt, users_file


def add_arguments(parser):
    """The options of `train`."""
    parser.add_argument("--preset", default="microgpt", help="microgpt (default) or first-revision")
    parser.add_argument(
        "--data", metavar="FILE", help="UTF-8 text, one document a line (default: built-in names)"
    )
    parser.add_argument("--save", metavar="FILE", help="write the trained model here")
    parser.add_argument("--quiet", action="store_true", help="leave the step lines out")
    add_constants(parser, CONSTANTS, "the preset's")


def run(options, stdout):
    """Train, print what the original prints, save."""
    from ..checkpoint import check_writable, save
    from ..sample import samples
    from ..training import Trainer

    constants = {
        name: value
        for name, value in vars(options).items()
        if name in MODEL_OPTIONS + TRAIN_OPTIONS and value is not None
    }
    if options.save is not None:
        with users_file("write", options.save):
            check_writable(options.save)
    with users_file("read", options.data):
        trainer = Trainer(options.data, preset=options.preset, **constants)
    if trainer.note:
        tell(trainer.note)
    config, model = trainer.config, trainer.model
    stdout.survives_pipe = options.save is not None
    stdout.write(
        f"num docs: {len(trainer.corpus)}\n"
        f"vocab size: {model.config.vocab_size}\n"
        f"num params: {model.config.num_params}\n"
    )
    with stop_on_interrupt(trainer):
        for losses in trainer.chunks():
            if not options.quiet:
                stdout.steps(trainer.step, config.num_steps, losses)
        stdout.end_steps()
        if options.save is not None:
            with machines_file(options.save):
                save(model, options.save)
    if config.num_samples and not trainer.stopping:
        stdout.write("\n--- inference (new, hallucinated names) ---\n")
        stdout.samples(samples(model, config.num_samples, config.temperature, random=trainer.random))
    elif trainer.step and not options.quiet:
        stdout.write("\n")
    stdout.flush()
    if trainer.stopping:
        saved = f"; saved {options.save}" if options.save is not None else ""
        return fail(130, f"interrupted after step {trainer.step} of {config.num_steps}{saved}")
    if trainer.step:
        tell(speed(trainer))
    return 0


def speed(trainer):
    """One line on what a training run took, and on what."""
    from ..backends import name_of

    model, seconds = trainer.model, trainer.seconds
    where = " ".join(filter(None, (name_of(model.backend), getattr(model.engine, "isa", None))))
    count = getattr(model.engine, "threads", 1)
    how = f"{model.parameters.dtype}, {model.numerics}, {count} {'thread' if count == 1 else 'threads'}"
    return (
        f"{trainer.step} steps in {seconds:.3f} s: {trainer.step / seconds:,.0f} steps/s, "
        f"{trainer.tokens / seconds:,.0f} tokens/s ({where}, {how})"
    )
