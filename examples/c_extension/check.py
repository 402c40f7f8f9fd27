"""Checks the extension module that setup.py built: the gradient of a softmax of two logits."""

import math

import consumer

loss, (first, second) = consumer.softmax_gradient(1.0, 3.0, 0)
p = 1 / (1 + math.exp(2))
assert math.isclose(loss, -math.log(p)) and math.isclose(first, p - 1) and math.isclose(second, 1 - p)
try:
    consumer.softmax_gradient(1.0, 3.0, 2)
except IndexError as error:
    print(error)
