"""What the layers of a narrow model compute with tiles of rows."""

from ..composed import NORM_EPS
from ..numba_compile import inline
from ..numba_rows import load_column, load_row, repeat, row_width, spread, sum_of_rows
from ..numba_simd import fma, sqrt


@inline
def product(total, depth, x, ld_x, w, ld_w):
    """total + x w for x [R, depth] and w [depth, C]"""
    for k in range(depth):
        total = fma(load_column(x + k, ld_x), repeat(load_row(w + k * ld_w), total), total)
    return total


@inline
def inverse_norm(p, x):
    """(mean x^2 + eps)^(-1/2) of each row of a tile"""
    return 1 / sqrt(sum_of_rows(p, x * x) * (1 / row_width(p)) + NORM_EPS)


@inline
def norm_backward(p, dh, h, rstd):
    """The gradient of h = x rstd: dx = rstd (dh - h mean(dh h))"""
    mean = sum_of_rows(p, dh * h) * (1 / row_width(p))
    return (dh - h * spread(mean, h)) * spread(rstd, h)
