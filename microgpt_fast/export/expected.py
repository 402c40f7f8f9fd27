"""What an exported program compares itself with: numbers that Python computed when it was exported."""

import numpy as np

from ..model import GPT

LOSS_STEPS = 20
LEARNING_RATE = 1e-3
ADAM = (0.85, 0.99, 1e-8, 0.0)


def float32_of(model, parameters=None):
    """A copy in float32 with fast numerics, with other parameters if they are given."""
    copy = GPT(model.config, model.tokenizer, dtype="float32", numerics="fast", threads=1)
    copy.parameters[:] = model.parameters if parameters is None else parameters
    copy.train_config = model.train_config
    return copy


def is_stream(model):
    """Whether the model learned from one long text rather than from a document a line."""
    return bool(model.train_config) and model.train_config.data_mode == "stream"


def greedy(model):
    """The likeliest token after bos, after these two, and so on, up to block_size tokens or the next bos."""
    decoder, bos = model.engine.decoder(model.parameters), model.tokenizer.bos
    token, ids = bos, []
    for position in range(model.config.block_size):
        token = int(np.argmax(decoder.step(token, position)))
        ids.append(token)
        if token == bos:
            break
    return ids


def first_logits(model):
    """The logits that follow bos, float32 [V]."""
    return model.logits([model.tokenizer.bos])[0]


def loss_after_training(model):
    """The losses of a few steps, each on the greedy text; the model is not changed."""
    bos = model.tokenizer.bos
    ids = [bos, *greedy(model)][: model.config.block_size + 1]
    losses, moments = np.empty(LOSS_STEPS), [np.zeros_like(model.parameters) for _ in "mv"]
    starts = np.zeros(LOSS_STEPS, np.int64)
    lengths = np.full(LOSS_STEPS, len(ids) - 1, np.int32)
    rates = np.full(LOSS_STEPS, LEARNING_RATE)
    model.engine.train_steps(
        losses, model.parameters.copy(), *moments, np.array(ids, np.int32), starts, lengths, 1, rates, ADAM, 1
    )
    return losses.tolist()
