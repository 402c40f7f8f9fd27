"""The definition of right: a scalar GPT on a scalar autograd (scalar.py), in plain Python.

Results equal the original microgpt's bit for bit. Whatever else computes this model is compared with this file, so
nothing here is rearranged for speed. docs/models.md has the formulas of its options.
"""

from math import cos, sin

from .reference_residual import residual_of
from .scalar import (
    ACTIVATIONS,
    Scalar,
    added,
    backpropagate,
    dot,
    linear,
    rmsnorm,
    scaled,
    softmax,
    tanh,
    total,
)

ROPE_BASE = 10_000.0


def attend(query, keys, values, scale=None, slope=None):
    """Σ_t softmax(query · key_t / √D (· scale) (- slope · distance))_t · value_t"""
    inverse_root = (len(query) ** 0.5) ** -1
    scores = [dot(query, key) * inverse_root for key in keys]
    if scale is not None:
        scores = [score * scale for score in scores]
    if slope is not None:
        scores = [score + -slope * (len(keys) - 1 - t) for t, score in enumerate(scores)]
    weights = softmax(scores)
    return [dot(weights, column) for column in zip(*values)]


def turned(x, position):
    """RoPE: each pair (x_i, x_(i + D/2)) turned by the angle position · base^(-2i / D)"""
    half = len(x) // 2
    angles = [position * ROPE_BASE ** (-i / half) for i in range(half)]
    first = [a * cos(t) + b * -sin(t) for a, b, t in zip(x[:half], x[half:], angles)]
    second = [b * cos(t) + a * sin(t) for a, b, t in zip(x[:half], x[half:], angles)]
    return first + second


def initial_parameters(config, random, std=0.08, zero_init=False):
    """Draw every parameter in the original's order.

    Parameters
    ----------
    config : GPTConfig
    random : random.Random
        One `gauss` is drawn for each parameter, also where it becomes 0 or starts otherwise.
    std : float
    zero_init : bool
        Matrices that add to the residual stream (attn_wo, mlp_fc2) have standard deviation 0.

    Returns
    -------
    dict of name to list of rows of float
        A vector is one row. Tied names have the same rows.
    """
    parameters = {}
    for parameter in config.parameters():
        rows, columns = parameter.rows
        if parameter.tied_to is not None:
            parameters[parameter.name] = parameters[parameter.tied_to]
            continue
        spread = 0 if zero_init and parameter.starts_at_zero else std
        drawn = [[random.gauss(0, spread) for _ in range(columns)] for _ in range(rows)]
        if parameter.start is not None:
            drawn = [[parameter.start_of(i, j) for j in range(columns)] for i in range(rows)]
        parameters[parameter.name] = drawn
    return parameters


class ReferenceGPT:
    """The model, its gradients, its training and its sampling, one scalar at a time.

    Parameters
    ----------
    config : GPTConfig
    parameters : dict of name to list of rows of float
        Copied. See `initial_parameters`.

    Attributes
    ----------
    parameters : dict of name to list of rows of float
        Without the names that are tied to another. Changed by `adam_step` and `train_steps`.
    first_moments, second_moments : dict
        Adam's averages, shaped as `parameters`; zeros to begin with.
    """

    def __init__(self, config, parameters):
        self.config = config
        self.tied = {p.name: p.tied_to for p in config.parameters() if p.tied_to is not None}
        self.parameters = {
            name: [list(row) for row in parameters[name]] for name in config.shapes() if name not in self.tied
        }
        self.first_moments = self._each(lambda parameter: 0.0)
        self.second_moments = self._each(lambda parameter: 0.0)

    def _each(self, function):
        return {name: [[function(p) for p in row] for row in rows] for name, rows in self.parameters.items()}

    def _weights(self):
        """The parameters as scalars, those that are tied under both names."""
        weights = self._each(Scalar)
        return weights | {name: weights[other] for name, other in self.tied.items()}

    def _check(self, tokens):
        for token in tokens:
            if not 0 <= token < self.config.vocab_size:
                raise IndexError(f"token {token} is not in 0 .. {self.config.vocab_size - 1}")

    def _no_past(self):
        return [([], []) for _ in range(self.config.n_layer)]

    def _norm(self, weights, name, x):
        """rmsnorm, with the gain of this name where there is one"""
        y = rmsnorm(x)
        return scaled(y, weights[name][0]) if self.config.norm_gain else y

    def _logits(self, weights, token, position, past):
        """Logits that follow `token`, whose key and value join `past`: (keys, values) for each layer."""
        config = self.config
        x = weights["wte"][token]
        if config.position == "learned":
            x = added(x, weights["wpe"][position])
        if config.normalises_embedding:
            x = self._norm(weights, "embd_norm", x)
        residual = residual_of(config, weights, x)
        for layer in range(config.n_layer):
            block = f"layer{layer}."
            normed = self._norm(weights, block + "attn_norm", residual.read(layer, "attn_"))
            residual.write(
                layer, "attn_", self._attention(weights, block, normed, token, position, past[layer])
            )
            normed = self._norm(weights, block + "mlp_norm", residual.read(layer, "mlp_"))
            residual.write(layer, "mlp_", self._mlp(weights, block, normed))
        x = residual.end()
        if config.final_norm:
            x = self._norm(weights, "final_norm", x)
        logits, cap = linear(x, weights["lm_head"]), config.logit_softcap
        return [tanh(logit * (1 / cap)) * cap for logit in logits] if cap else logits

    def _attention(self, weights, block, x, token, position, past):
        config, (keys, values) = self.config, past
        heads = [slice(i, i + config.head_dim) for i in range(0, config.n_embd, config.head_dim)]
        query, key, value = (linear(x, weights[block + name]) for name in ("attn_wq", "attn_wk", "attn_wv"))
        if config.qk_norm:
            query, key = (sum((rmsnorm(row[head]) for head in heads), []) for row in (query, key))
        if config.position == "rope":
            query, key = (sum((turned(row[head], position) for head in heads), []) for row in (query, key))
        if config.value_embedding:
            value = added(value, weights[block + "attn_ve"][token])
        keys.append(key)
        values.append(value)
        attended = []
        for h, head in enumerate(heads):
            head_keys, head_values = ([row[head] for row in rows] for rows in (keys, values))
            slope = config.slopes[h] if config.slopes else None
            scale = config.qk_norm_scale if config.qk_norm else None
            attended += attend(query[head], head_keys, head_values, scale, slope)
        return linear(attended, weights[block + "attn_wo"])

    def _mlp(self, weights, block, x):
        activation = ACTIVATIONS[self.config.activation]
        hidden = [activation(h) for h in linear(x, weights[block + "mlp_fc1"])]
        if self.config.mlp == "gated":
            hidden = scaled(hidden, linear(x, weights[block + "mlp_fc3"]))
        return linear(hidden, weights[block + "mlp_fc2"])

    def _loss(self, weights, tokens):
        """Mean over the first block_size positions of -log p(next token)."""
        self._check(tokens)
        length = min(self.config.block_size, len(tokens) - 1)
        past = self._no_past()
        losses = []
        for position in range(length):
            probabilities = softmax(self._logits(weights, tokens[position], position, past))
            losses.append(probabilities[tokens[position + 1]].log() * -1)
        return 1 / length * total(losses)

    def loss_and_gradients(self, *documents):
        """The loss of a batch and its gradient.

        Parameters
        ----------
        *documents : sequence of int
            Tokens from BOS to BOS; cut to block_size predictions.

        Returns
        -------
        loss : float
            Mean over the documents of each one's mean cross-entropy.
        gradients : dict
            Shaped as `parameters`.
        """
        weights = self._weights()
        loss = 1 / len(documents) * total([self._loss(weights, tokens) for tokens in documents])
        backpropagate(loss)
        return loss.value, {
            name: [[weight.gradient for weight in row] for row in weights[name]] for name in self.parameters
        }

    def logits(self, tokens):
        """Logits after each of at most block_size `tokens`: a list of rows of float."""
        self._check(tokens)
        weights, past = self._weights(), self._no_past()
        rows = [self._logits(weights, token, position, past) for position, token in enumerate(tokens)]
        return [[logit.value for logit in row] for row in rows]

    def adam_step(self, gradients, learning_rate, beta1, beta2, eps, step):
        """Update the parameters and the moments in place; `step` counts from 1."""
        correction1, correction2 = 1 - beta1**step, 1 - beta2**step
        for name, rows in self.parameters.items():
            moments = zip(rows, gradients[name], self.first_moments[name], self.second_moments[name])
            for parameter, gradient, m, v in moments:
                for i, g in enumerate(gradient):
                    m[i] = beta1 * m[i] + (1 - beta1) * g
                    v[i] = beta2 * v[i] + (1 - beta2) * g**2
                    parameter[i] -= learning_rate * (m[i] / correction1) / ((v[i] / correction2) ** 0.5 + eps)

    def train_steps(self, documents, train):
        """Train, one step each time the returned iterator is advanced.

        Parameters
        ----------
        documents : sequence of sequences of int
            In the order of training; a step takes the next `train.batch_size` of them, the first again after
            the last.
        train : TrainConfig
            Its num_steps, batch_size, learning_rate (which falls linearly to 0), beta1, beta2, eps_adam.

        Yields
        ------
        (loss, gradients)
            As `loss_and_gradients` gave them; the step with them has been made.
        """
        for step in range(train.num_steps):
            first = step * train.batch_size
            batch = [documents[i % len(documents)] for i in range(first, first + train.batch_size)]
            loss, gradients = self.loss_and_gradients(*batch)
            learning_rate = train.learning_rate * (1 - step / train.num_steps)
            self.adam_step(gradients, learning_rate, train.beta1, train.beta2, train.eps_adam, step + 1)
            yield loss, gradients

    def generate(self, random, bos, temperature):
        """Sample one document.

        Parameters
        ----------
        random : random.Random
            One `choices` is drawn for each token.
        bos : int
            The token that begins and ends a document.
        temperature : float
            Logits are divided by it.

        Returns
        -------
        list of int
            At most block_size tokens, without `bos`.
        """
        weights, past = self._weights(), self._no_past()
        token, sample = bos, []
        for position in range(self.config.block_size):
            logits = self._logits(weights, token, position, past)
            probabilities = softmax([logit * temperature**-1 for logit in logits])
            [token] = random.choices(range(len(logits)), weights=[p.value for p in probabilities])
            if token == bos:
                break
            sample.append(token)
        return sample
