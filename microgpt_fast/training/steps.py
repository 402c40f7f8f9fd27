"""The steps of a training, one call for many where that can be."""

import numpy as np

from .schedule import learning_rates


def take_steps(trainer, count):
    """Take a trainer's next steps, without any note of them.

    Returns
    -------
    losses : float64 array [count]
    tokens : int
        The number of tokens predicted.
    """
    config, model = trainer.config, trainer.model
    sequences = config.batch_size * config.gradient_accumulation_steps
    starts, lengths = trainer.batches.sequences(trainer.step * sequences, count * sequences)
    tokens, starts = trainer.corpus.gather(starts, lengths)
    rates = learning_rates(config, np.arange(trainer.step, trainer.step + count))
    adam = (config.beta1, config.beta2, config.eps_adam, config.weight_decay)
    losses = np.empty(count)
    if trainer.sharded:
        for i in range(count):
            part = slice(i * sequences, (i + 1) * sequences)
            number = trainer.step + 1 + i
            losses[i] = trainer.sharded.step(tokens, starts[part], lengths[part], rates[i], number)
        return losses, int(lengths.sum())
    m, v = trainer.moments
    if trainer.is_simple:
        documents = (tokens, starts, lengths, config.batch_size)
        model.engine.train_steps(losses, model.parameters, m, v, *documents, rates, adam, trainer.step + 1)
        return losses, int(lengths.sum())
    for i in range(count):
        part = slice(i * sequences, (i + 1) * sequences)
        losses[i] = _accumulate(trainer, tokens, starts[part], lengths[part])
        model.engine.update(
            model.parameters,
            m,
            v,
            trainer.gradient,
            rates[i],
            adam,
            trainer.step + 1 + i,
            config.gradient_accumulation_steps,
            config.grad_clip,
        )
    return losses, int(lengths.sum())


def _accumulate(trainer, tokens, starts, lengths):
    """The mean loss of one step's batches; the sum of their gradients is added to `trainer.gradient`."""
    config, model = trainer.config, trainer.model
    if trainer.gradient is None:
        trainer.gradient = np.zeros_like(model.parameters)
    loss = 0.0
    for first in range(0, len(starts), config.batch_size):
        part = slice(first, first + config.batch_size)
        loss += model.engine.backward(
            trainer.gradient, model.parameters, tokens, starts[part], lengths[part]
        ).mean()
    return loss / config.gradient_accumulation_steps
