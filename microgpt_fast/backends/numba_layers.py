"""Rows of the other layers, for the Numba backend: what its kernels and the whole model share."""

import math

from .numba_activations import value
from .numba_compile import helper, inline
from .numba_simd import (
    exp,
    fma,
    is_null,
    lane_numbers,
    lanes,
    load,
    load_partial,
    log,
    max_lanes,
    maximum,
    sqrt,
    store_partial,
    sum_lanes,
    where,
    zeros,
)


@inline
def add_rows(to, a, b, C):
    n = lanes(to)
    for c in range(0, C, n):
        count = min(n, C - c)
        store_partial(to, c, load_partial(a, c, count) + load_partial(b, c, count), count)


@inline
def dot_row(a, b, C):
    """sum over C of a * b; two chains, so that one addition's latency does not set the pace"""
    n = lanes(a)
    even = odd = zeros(a)
    whole = C & -(2 * n)
    for c in range(0, whole, 2 * n):
        even = fma(load(a, c), load(b, c), even)
        odd = fma(load(a, c + n), load(b, c + n), odd)
    for c in range(whole, C, n):
        count = min(n, C - c)
        even = fma(load_partial(a, c, count), load_partial(b, c, count), even)
    return sum_lanes(even + odd)


@inline
def all_finite(x, ld, rows, columns):
    """Whether a block of numbers, its rows ld apart, holds neither NaN nor infinity."""
    n = lanes(x)
    total = zeros(x)
    for i in range(rows):
        for c in range(0, columns, n):
            total += load_partial(x, i * ld + c, min(n, columns - c)) * 0
    return sum_lanes(total) == 0


@helper
def rmsnorm_rows(y, ld_y, rstd, x, ld_x, gain, N, C, eps):
    """y = x * rstd (* gain), rstd = (mean(x^2) + eps)^(-1/2); y may be x"""
    n = lanes(x)
    for i in range(N):
        row, y_row = x + i * ld_x, y + i * ld_y
        r = (1 / sqrt(zeros(x) + (dot_row(row, row, C) / C + eps)))[0]
        rstd[i] = r
        for c in range(0, C, n):
            count = min(n, C - c)
            z = load_partial(row, c, count) * r
            if not is_null(gain):
                z *= load_partial(gain, c, count)
            store_partial(y_row, c, z, count)


@helper
def rmsnorm_rows_backward(dx, base, dy, x, normalised, gain, rstd, ld, N, C):
    """dx (+ base) = rstd * g - x * factor * sum(x * g) / C, g = dy (* gain), of rows ld apart

    x is the input and factor = rstd^3; or x is the normalised output and factor = rstd. base may be 0, or dx.
    """
    n = lanes(x)
    for i in range(N):
        row, dy_row, dx_row, base_row = x + i * ld, dy + i * ld, dx + i * ld, base + i * ld
        if is_null(gain):
            total = dot_row(dy_row, row, C)
        else:
            product = zeros(x)
            for c in range(0, C, n):
                count = min(n, C - c)
                g = load_partial(dy_row, c, count) * load_partial(gain, c, count)
                product = fma(g, load_partial(row, c, count), product)
            total = sum_lanes(product)
        r = rstd[i]
        factor = total * (r if normalised else r * r * r) / C
        for c in range(0, C, n):
            count = min(n, C - c)
            g = load_partial(dy_row, c, count)
            if not is_null(gain):
                g *= load_partial(gain, c, count)
            d = g * r - load_partial(row, c, count) * factor
            if not is_null(base):
                d += load_partial(base_row, c, count)
            store_partial(dx_row, c, d, count)


@inline
def activate(to, ld_to, h, ld_h, rows, columns, activation):
    """to = f(h)"""
    n = lanes(to)
    for i in range(rows):
        for j in range(0, columns, n):
            count = min(n, columns - j)
            a = value(load_partial(h, i * ld_h + j, count), activation)
            store_partial(to, i * ld_to + j, a, count)


@inline
def exp_lanes(row, j, shift, V):
    """exp(row[j] - shift) and so on, 0 beyond V"""
    left = V - j
    e = exp(load_partial(row, j, min(lanes(row), left)) - shift)
    return where(lane_numbers(row) < left, e, 0)


@inline
def largest_of_row(row, V):
    n = lanes(row)
    largest = zeros(row) - math.inf
    for j in range(0, V & -n, n):
        largest = maximum(load(row, j), largest)
    if V & (n - 1):
        left = V & (n - 1)
        rest = load_partial(row, V - left, left)
        largest = maximum(where(lane_numbers(row) < left, rest, -math.inf), largest)
    return max_lanes(largest)


@inline
def log_number(number, like):
    return log(zeros(like) + number)[0]


@inline
def _adam_vector(p, m, v, g, i, count, beta1, beta2, rate, epsilon, keep):
    first = fma(load_partial(m, i, count), beta1, g * (1 - beta1))
    second = fma(load_partial(v, i, count), beta2, g * g * (1 - beta2))
    store_partial(m, i, first, count)
    store_partial(v, i, second, count)
    step = first * rate / (sqrt(second) + epsilon)
    store_partial(p, i, load_partial(p, i, count) * keep - step, count)


@helper
def adam(p, m, v, g, scale, size, lr, beta1, beta2, eps, weight_decay, step):
    """AdamW with the gradient scale g; p = p (1 - lr weight_decay) - rate m / (sqrt(v) + epsilon): the
    corrections 1 - beta^step of both moments are in rate and epsilon"""
    n = lanes(p)
    root = math.sqrt(1 - beta2**step)
    rate, epsilon, keep = lr * root / (1 - beta1**step), eps * root, 1 - lr * weight_decay
    for i in range(0, size, n):
        count = min(n, size - i)
        d = load_partial(g, i, count) * scale
        _adam_vector(p, m, v, d, i, count, beta1, beta2, rate, epsilon, keep)


@helper
def turn_heads(y, x, positions, N, H, D, base, sign):
    """y = x [N, H, D], pairs (x_i, x_(i + D/2)) of rows turned by the angle sign * position * base^(-2i / D)."""
    half = D // 2
    for i in range(half):
        frequency = sign * base ** (-i / half)
        for row in range(N):
            cosine, sine = math.cos(positions[row] * frequency), math.sin(positions[row] * frequency)
            for at in range(row * H * D + i, (row + 1) * H * D, D):
                a, b = x[at], x[at + half]
                y[at] = a * cosine - b * sine
                y[at + half] = b * cosine + a * sine
