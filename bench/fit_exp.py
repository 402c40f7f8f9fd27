"""The coefficients of the polynomials behind the vector exponentials of csrc/base/simd.h and numba_simd/arithmetic.py.

    e^r = 1 + r + r^2 p(r)   for |r| <= ln 2 / 2

p interpolates (e^r - 1 - r) / r^2 at Chebyshev nodes, which keeps the largest error close to the least possible; with
the first two coefficients exactly 1, e^r is right next to 0. Computed with 50 digits, then rounded:

    python bench/fit_exp.py
"""

from decimal import Decimal, getcontext

import numpy as np

getcontext().prec = 50
HALF_LN2 = Decimal(2).ln() / 2
PI = Decimal("3.14159265358979323846264338327950288419716939937510")
DEGREES = {np.float32: 6, np.float64: 11}


def series(x, first):
    """x^0 / first! + x^1 / (first + 1)! + ...: e^x without its first terms, divided by x^first"""
    term = total = Decimal(1)
    for i in range(1, 60):
        total += (term := term * x / (first + i))
    for i in range(2, first + 1):
        total /= i
    return total


def cosine(x):
    """cos x = 1 - x^2 / 2! + x^4 / 4! - ..."""
    term = total = Decimal(1)
    for i in range(2, 80, 2):
        total += (term := -term * x * x / (i * (i - 1)))
    return total


def interpolation(x, y):
    """Coefficients, from the constant on, of the polynomial through the points, by Newton's divided differences."""
    differences = list(y)
    for j in range(1, len(x)):
        for i in reversed(range(j, len(x))):
            differences[i] = (differences[i] - differences[i - 1]) / (x[i] - x[i - j])
    polynomial = [Decimal(0)] * len(x)
    for node, difference in zip(reversed(x), reversed(differences)):  # polynomial * (r - node) + difference
        shifted = [difference, *polynomial[:-1]]
        polynomial = [a - b * node for a, b in zip(shifted, polynomial)]
    return polynomial


def fit(degree):
    """Coefficients of e^r, from the constant on."""
    count = degree - 1
    nodes = [HALF_LN2 * cosine(PI * (2 * k + 1) / (2 * count)) for k in range(count)]
    return [Decimal(1), Decimal(1), *interpolation(nodes, [series(node, 2) for node in nodes])]


def relative_error(coefficients, points=1001):
    """The largest of a polynomial against e^r, for |r| <= ln 2 / 2, without the rounding of its evaluation."""
    worst = Decimal(0)
    for i in range(points):
        r, value = HALF_LN2 * (2 * i - points + 1) / (points - 1), Decimal(0)
        for coefficient in reversed(coefficients):
            value = value * r + Decimal(float(coefficient))
        worst = max(worst, abs(value / series(r, 0) - 1))
    return float(worst)


def main():
    for dtype, degree in DEGREES.items():
        rounded = [dtype(coefficient) for coefficient in fit(degree)]
        print(dtype.__name__, ", ".join(map(str, rounded)))
        print(f"    relative error {relative_error(rounded):.2g}")


if __name__ == "__main__":
    main()
