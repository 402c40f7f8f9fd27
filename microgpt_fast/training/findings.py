"""What the end of a training says about the model: what it is worth on text that it has not seen."""

from math import log

import numpy as np

from . import validation

COUNTED = 1 << 20  # tokens that are counted for the guess by frequency
RISE = 1.02  # times the best validation loss: from here on it has risen
RECENT = 100  # steps whose mean loss is the training loss
ADVICE = "more text, a smaller model (--n-embd, --n-layer) or fewer steps help"
PASSES, PASSES_A_PARAMETER = 20, 20  # over the text, and for each of its tokens per parameter of the model


def most_steps(trainer):
    """The number of steps beyond which a model gains nothing from a text of this size: it would learn it by heart.

    passes = 20 + 20 (tokens of the text) / (parameters). Whatever the number of parameters, 450 names (0.07 tokens for
    each of them) are learned best in some 10 passes.
    """
    config, batches = trainer.config, trainer.batches
    tokens = len(trainer.corpus.tokens) * (1 - config.val_fraction)
    passes = PASSES + PASSES_A_PARAMETER * tokens / trainer.model.config.num_params
    if trainer.corpus.mode == "lines":
        a_pass, a_step = len(batches.order), config.batch_size
    else:
        a_pass, a_step = tokens, config.batch_size * batches.longest
    return max(1, int(passes * a_pass / (a_step * config.gradient_accumulation_steps)))


def findings(trainer):
    """Lines on the validation loss of the model that is kept, compared with guesses; none without a validation."""
    kept, best = trainer.kept, trainer.best
    if kept is None:
        return
    guess, way = min((_by_frequency(trainer), "by their frequency"), (log(_vocab_size(trainer)), "at random"))
    place = f"held-out loss {kept.loss:.4f} at step {kept.step}"
    if kept.loss < guess:
        yield f"{place}; guessing characters {way} gives {guess:.4f}"
    elif trainer.losses[-RECENT:].mean() < guess:
        yield (
            f"{place} is worse than guessing characters {way}, {guess:.4f}: the model has learned its text by heart, "
            f"and nothing that holds for other text: {ADVICE}"
        )
    else:
        yield (
            f"{place} is worse than guessing characters {way}, {guess:.4f}: the model has hardly learned anything "
            "yet: train it longer"
        )
    last = trainer.evaluations[-1]
    if last.loss > RISE * best.loss:
        which = "the model of that step is kept" if kept is best else "--keep-best keeps the best model"
        yield (
            f"the held-out loss was best at step {best.step}, {best.loss:.4f}, and rose to {last.loss:.4f}, as the "
            f"model learns its text by heart: {which}; {ADVICE}"
        )


def _vocab_size(trainer):
    return trainer.model.config.vocab_size


def _by_frequency(trainer):
    """The held-out loss of the frequencies of tokens in the text that is trained on, each counted once more."""
    config, batches = trainer.config, trainer.batches
    count = max(1, COUNTED // batches.longest)
    if trainer.order is not None:
        count = min(count, len(trainer.order))
    counts = np.ones(_vocab_size(trainer))
    counts += np.bincount(_targets(trainer, *batches.sequences(0, count)), minlength=len(counts))
    held_out = validation.sample(batches.validation, config.eval_tokens or COUNTED, config.seed)
    surprises = np.log(counts.sum()) - np.log(counts)
    return float(surprises[_targets(trainer, *held_out)].mean())


def _targets(trainer, starts, lengths):
    """The tokens that are predicted in some sequences."""
    tokens, places = trainer.corpus.gather(starts, lengths)
    lengths = lengths.astype(np.int64)
    begins = np.cumsum(lengths) - lengths
    return tokens[np.repeat(places + 1 - begins, lengths) + np.arange(lengths.sum())]
