"""The definition of right: a scalar GPT on a scalar autograd, in plain Python.

Every number is a `Scalar`, every operation on one or two numbers makes a new one, and a gradient is summed in
the order in which a depth-first search meets the operations. That order, and the split of each formula into
single operations, are those of the original microgpt: results equal its results bit for bit. Whatever else
computes this model is compared with this file, so nothing here is rearranged for speed.
"""

from functools import reduce
from math import exp, log, pi
from operator import add, mul

_NEW, _OPEN, _DONE = range(3)


class Scalar:
    """A number that remembers how it was computed.

    Attributes
    ----------
    value : float
    gradient : float
        Derivative of the output with respect to this number, once `backpropagate(output)` has run.
    operands : tuple of Scalar
        What it was computed from, in the order of the formula; constants are left out.
    slopes : tuple of float
        Derivative of `value` with respect to each operand.
    """

    __slots__ = ("gradient", "operands", "slopes", "state", "value")

    def __init__(self, value, operands=(), slopes=()):
        self.value = value
        self.gradient = 0.0
        self.operands = operands
        self.slopes = slopes
        self.state = _NEW if operands else _DONE

    def __add__(self, other):
        if type(other) is Scalar:
            return Scalar(self.value + other.value, (self, other), (1.0, 1.0))
        return Scalar(self.value + other, (self,), (1.0,))

    def __mul__(self, other):
        if type(other) is Scalar:
            return Scalar(self.value * other.value, (self, other), (other.value, self.value))
        return Scalar(self.value * other, (self,), (other,))

    __radd__ = __add__
    __rmul__ = __mul__

    def __pow__(self, exponent):
        value = self.value
        return Scalar(value**exponent, (self,), (exponent * value ** (exponent - 1),))

    def exp(self):
        value = exp(self.value)
        return Scalar(value, (self,), (value,))

    def log(self):
        return Scalar(log(self.value), (self,), (1 / self.value,))

    def relu(self):
        return Scalar(self.value, (self,), (1.0,)) if self.value > 0 else Scalar(0.0, (self,), (0.0,))


def backpropagate(output):
    """Add to the `gradient` of every scalar that `output` was computed from d output / d scalar.

    A scalar is handled when everything computed from it has been: in the reverse of the order in which a
    depth-first search, operands from first to last, leaves them. The search keeps its own stack, for a graph
    is deeper than Python's recursion may be. Leaves have nothing to pass on and are not visited.
    """
    order = []
    stack = [output]
    while stack:
        scalar = stack.pop()
        if scalar.state == _NEW:
            scalar.state = _OPEN
            stack.append(scalar)
            for operand in reversed(scalar.operands):
                if operand.state == _NEW:
                    stack.append(operand)
        elif scalar.state == _OPEN:  # back from its operands
            scalar.state = _DONE
            order.append(scalar)

    output.gradient = 1.0
    for scalar in reversed(order):
        gradient = scalar.gradient
        for operand, slope in zip(scalar.operands, scalar.slopes):
            operand.gradient += slope * gradient


def total(terms):
    """Σ terms, one after the other from 0 (the built-in `sum` compensates its rounding for floats)."""
    return reduce(add, terms, 0.0)


def dot(left, right):
    """Σ left_i · right_i"""
    return total(map(mul, left, right))


def linear(x, weight):
    """y_o = Σ weight_oi · x_i"""
    return [dot(row, x) for row in weight]


def rmsnorm(x):
    """y = x · (mean(x²) + 1e-5)^(-1/2)"""
    mean_square = dot(x, x) * len(x) ** -1
    scale = (mean_square + 1e-5) ** -0.5
    return [value * scale for value in x]


def softmax(scores):
    """p_i = e^(s_i - max s) / Σ e^(s_j - max s); each quotient takes its own power of the sum."""
    largest = max(score.value for score in scores)
    exponentials = [(score + -largest).exp() for score in scores]
    normaliser = total(exponentials)
    return [exponential * normaliser**-1 for exponential in exponentials]


def attend(query, keys, values):
    """Σ_t softmax(query · key_t / √D)_t · value_t"""
    inverse_root = (len(query) ** 0.5) ** -1
    weights = softmax([dot(query, key) * inverse_root for key in keys])
    return [dot(weights, column) for column in zip(*values)]


def sigmoid(x):
    """1 / (1 + e^-x), by an exponential that is at most 1"""
    if x.value >= 0:
        return ((x * -1).exp() + 1) ** -1
    return x.exp() * (x.exp() + 1) ** -1


def gelu(x):
    """The tanh form: x · sigmoid(2 √(2/π) (x + 0.044715 x³))"""
    return x * sigmoid((x + x**3 * 0.044715) * (2 * (2 / pi) ** 0.5))


ACTIVATIONS = {
    "relu": Scalar.relu,
    "relu2": lambda x: x.relu() ** 2,
    "gelu": gelu,
    "silu": lambda x: x * sigmoid(x),
}


def initial_parameters(config, random, std=0.08, zero_init=False):
    """Draw every parameter in the original's order.

    Parameters
    ----------
    config : GPTConfig
    random : random.Random
        One `gauss` is drawn for each parameter, also where it becomes 0.
    std : float
    zero_init : bool
        Matrices that add to the residual stream (attn_wo, mlp_fc2) have standard deviation 0.

    Returns
    -------
    dict of name to list of rows of float
    """
    parameters = {}
    for parameter in config.parameters():
        rows, columns = parameter.shape
        spread = 0 if zero_init and parameter.starts_at_zero else std
        parameters[parameter.name] = [[random.gauss(0, spread) for _ in range(columns)] for _ in range(rows)]
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
        Changed by `adam_step` and `train_steps`.
    first_moments, second_moments : dict
        Adam's averages, shaped as `parameters`; zeros to begin with.
    """

    def __init__(self, config, parameters):
        self.config = config
        self.parameters = {name: [list(row) for row in parameters[name]] for name in config.shapes()}
        self.first_moments = self._each(lambda parameter: 0.0)
        self.second_moments = self._each(lambda parameter: 0.0)

    def _each(self, function):
        return {name: [[function(p) for p in row] for row in rows] for name, rows in self.parameters.items()}

    def _check(self, tokens):
        for token in tokens:
            if not 0 <= token < self.config.vocab_size:
                raise IndexError(f"token {token} is not in 0 .. {self.config.vocab_size - 1}")

    def _no_past(self):
        return [([], []) for _ in range(self.config.n_layer)]

    def _logits(self, weights, token, position, past):
        """Logits that follow `token`, whose key and value join `past`: (keys, values) for each layer."""
        activation = ACTIVATIONS[self.config.activation]
        head_dim = self.config.n_embd // self.config.n_head
        x = rmsnorm(list(map(add, weights["wte"][token], weights["wpe"][position])))
        for layer, (keys, values) in enumerate(past):
            block = f"layer{layer}."
            normed = rmsnorm(x)
            query = linear(normed, weights[block + "attn_wq"])
            keys.append(linear(normed, weights[block + "attn_wk"]))
            values.append(linear(normed, weights[block + "attn_wv"]))
            attended = []
            for first in range(0, self.config.n_embd, head_dim):
                head = slice(first, first + head_dim)
                head_keys, head_values = ([row[head] for row in rows] for rows in (keys, values))
                attended += attend(query[head], head_keys, head_values)
            x = list(map(add, linear(attended, weights[block + "attn_wo"]), x))
            hidden = [activation(h) for h in linear(rmsnorm(x), weights[block + "mlp_fc1"])]
            x = list(map(add, linear(hidden, weights[block + "mlp_fc2"]), x))
        return linear(x, weights["lm_head"])

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
        weights = self._each(Scalar)
        loss = 1 / len(documents) * total([self._loss(weights, tokens) for tokens in documents])
        backpropagate(loss)
        return loss.value, {
            name: [[weight.gradient for weight in row] for row in rows] for name, rows in weights.items()
        }

    def logits(self, tokens):
        """Logits after each of at most block_size `tokens`: a list of rows of float."""
        self._check(tokens)
        weights, past = self._each(Scalar), self._no_past()
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
        weights, past = self._each(Scalar), self._no_past()
        token, sample = bos, []
        for position in range(self.config.block_size):
            logits = self._logits(weights, token, position, past)
            probabilities = softmax([logit * temperature**-1 for logit in logits])
            [token] = random.choices(range(len(logits)), weights=[p.value for p in probabilities])
            if token == bos:
                break
            sample.append(token)
        return sample
