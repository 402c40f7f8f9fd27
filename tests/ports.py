"""Ports of microgpt with defects, for the tests of `audit`: the scalar reference, changed where the defect is.

They share no code with the defects that `audit` knows, which are changes of the NumPy twin.
"""

import random
from contextlib import contextmanager

from microgpt_fast import reference
from microgpt_fast.reference import ReferenceGPT, Scalar, initial_parameters

CONSTANTS = {"n_embd": 8, "n_head": 2, "block_size": 6, "num_steps": 12}


def forgotten(rows):
    """The same numbers, through which no gradient flows."""
    return [[Scalar(number.value) for number in row] for row in rows]


def truncated_attention():
    attend = reference.attend

    def replacement(query, keys, values, *others):
        earlier_are_forgotten = (forgotten(rows[:-1]) + rows[-1:] for rows in (keys, values))
        return attend(query, *earlier_are_forgotten, *others)

    return {"attend": replacement}


def norm(place, is_skipped):
    """The rmsnorm at one of the 3 places of a model of one layer, with a wrong backward."""
    calls = iter(range(10**9))
    rmsnorm = reference.rmsnorm

    def replacement(x):
        if next(calls) % 3 != place:
            return rmsnorm(x)
        right = rmsnorm(x)
        if is_skipped:
            return [Scalar(y.value, (number,), (1.0,)) for y, number in zip(right, x)]
        scale = (sum(number.value**2 for number in x) / len(x) + 1e-5) ** -0.5
        return [number * scale for number in x]

    return {"rmsnorm": replacement}


class Port(ReferenceGPT):
    """The reference with some parameters that learn nothing, other positions, another mean or another Adam."""

    fixed = ""
    shift = 0
    token_mean = False
    is_corrected = True
    rate_falls = True

    def loss_and_gradients(self, *documents):
        if self.token_mean:
            loss, gradients = self._mean_over_tokens(documents)
        else:
            loss, gradients = super().loss_and_gradients(*documents)
        if self.fixed:
            gradients[self.fixed] = [[0.0] * len(row) for row in gradients[self.fixed]]
        return loss, gradients

    def _mean_over_tokens(self, documents):
        lengths = [min(self.config.block_size, len(tokens) - 1) for tokens in documents]
        weights = [length / sum(lengths) for length in lengths]
        losses, gradients = zip(*[super(Port, self).loss_and_gradients(tokens) for tokens in documents])
        mean = {
            name: [
                [sum(w * g[name][i][j] for w, g in zip(weights, gradients)) for j in range(len(row))]
                for i, row in enumerate(rows)
            ]
            for name, rows in self.parameters.items()
        }
        return sum(weight * loss for weight, loss in zip(weights, losses)), mean

    def _logits(self, weights, token, position, *others):
        position = min(position + self.shift, self.config.block_size - 1)
        return super()._logits(weights, token, position, *others)

    def adam_step(self, gradients, learning_rate, beta1, beta2, eps, step):
        if not self.rate_falls:
            learning_rate = 0.01
        super().adam_step(gradients, learning_rate, beta1, beta2, eps, step if self.is_corrected else 10**6)


# name of the defect -> (functions of the reference to replace, attributes of the Port, documents per step)
PORTS = {
    "none": (dict, {}, 1),
    "truncated-attention": (truncated_attention, {}, 1),
    "norm-skipped-embedding": (lambda: norm(0, True), {}, 1),
    "norm-constant-embedding": (lambda: norm(0, False), {}, 1),
    "norm-skipped-attention": (lambda: norm(1, True), {}, 1),
    "norm-constant-attention": (lambda: norm(1, False), {}, 1),
    "norm-skipped-mlp": (lambda: norm(2, True), {}, 1),
    "norm-constant-mlp": (lambda: norm(2, False), {}, 1),
    "token-mean": (dict, {"token_mean": True}, 3),
    "position-off-by-one": (dict, {"shift": 1}, 1),
    "no-bias-correction": (dict, {"is_corrected": False}, 1),
    "no-position-gradient": (dict, {"fixed": "wpe"}, 1),
    "no-token-gradient": (dict, {"fixed": "wte"}, 1),
    "constant-rate": (dict, {"rate_falls": False}, 1),
}


def losses_of(name, trainer):
    """The losses of a port with this defect, trained as a Trainer would."""
    replace, attributes, _ = PORTS[name]
    corpus, config = trainer.corpus, trainer.config
    documents = [corpus.tokens[corpus.offsets[d] : corpus.offsets[d + 1]].tolist() for d in trainer.order]
    stream = random.Random(config.seed)
    stream.shuffle([*documents])
    with replaced(replace()):
        port = Port(trainer.model.config, initial_parameters(trainer.model.config, stream))
        vars(port).update(attributes)
        return [loss for loss, _ in port.train_steps(documents, config)]


@contextmanager
def replaced(functions):
    before = {name: getattr(reference, name) for name in functions}
    vars(reference).update(functions)
    try:
        yield
    finally:
        vars(reference).update(before)
