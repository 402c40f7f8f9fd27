"""Text from a model."""

import numpy as np

from .config import TrainConfig, UsageError
from .random_stream import seeded


def generate(model, num_samples=None, temperature=None, seed=None, random=None):
    """Draw documents from a model.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    num_samples, temperature, seed : int, float, int, optional
        As in `TrainConfig`; None takes what the model was trained with, or else the defaults there.
    random : random stream, optional
        Continue this stream instead of a new one from `seed`: a training run's own continues as the
        original does.

    Returns
    -------
    samples : list of str

    Raises
    ------
    UsageError
        (a ValueError) for a value that is not allowed, or a model whose logits are not finite.
    """
    return list(samples(model, num_samples, temperature, seed, random))


def samples(model, num_samples=None, temperature=None, seed=None, random=None):
    """`generate`, one document at a time."""
    trained = model.train_config or TrainConfig()
    options = {"num_samples": num_samples, "temperature": temperature, "seed": seed}
    config = TrainConfig(
        **{name: getattr(trained, name) if value is None else value for name, value in options.items()}
    )
    if model.tokenizer is None:
        raise UsageError("a model without a tokenizer cannot write text")
    if random is None:
        random = seeded(config.seed, model.backend)
    bos = model.tokenizer.bos
    decoder = model.engine.decoder(model.parameters)
    if config.num_samples and not np.isfinite(decoder.step(bos, 0)).all():
        raise UsageError("the model's logits are not finite: nothing can be drawn from it")
    for _ in range(config.num_samples):
        yield model.tokenizer.decode(decoder.generate(random, bos, config.temperature))
