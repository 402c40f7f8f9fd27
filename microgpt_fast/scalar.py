"""Numbers that remember how they were computed, and the small functions of which the reference is made.

Every operation on one or two numbers makes a new one, and a gradient is summed in the order in which a depth-first
search meets the operations. That order, and the split of each formula into single operations, are those of the
original microgpt.
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


def tanh(x):
    """2 / (1 + e^-2x) - 1"""
    return sigmoid(x * 2) * 2 + -1


def scaled(x, factors):
    """Element by element: x_i · factor_i"""
    return list(map(mul, x, factors))


def added(x, y):
    """Element by element: x_i + y_i"""
    return list(map(add, x, y))
