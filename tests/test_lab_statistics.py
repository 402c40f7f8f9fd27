"""Student's t against tables, and the intervals against the truth."""

import math
import random
import statistics

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast.lab.compare import compare
from microgpt_fast.lab.statistics import Difference, difference_of, holm, seeds_needed, t_quantile, t_within

# two-sided 95 % and 99 %, of the tables of any textbook
TABLE = {
    1: (12.7062, 63.6567), 2: (4.3027, 9.9248), 3: (3.1824, 5.8409), 4: (2.7764, 4.6041), 7: (2.3646, 3.4995),
    10: (2.2281, 3.1693), 31: (2.0395, 2.7440), 100: (1.9840, 2.6259), 1000: (1.9623, 2.5808),
}  # fmt: skip


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_tables(freedom):
    for level, wanted in zip((0.95, 0.99), TABLE[freedom]):
        assert t_quantile(level, freedom) == pytest.approx(wanted, abs=6e-5)
        assert t_within(t_quantile(level, freedom), freedom) == pytest.approx(level, abs=1e-12)


def test_the_approximation_for_many_degrees_of_freedom_is_the_sum():
    for freedom in (1001, 5000):
        assert t_within(t_quantile(0.95, freedom), freedom) == pytest.approx(0.95, abs=1e-6)


def test_a_difference_by_hand():
    # differences 1, 2, 3: mean 2, deviation 1, half width 4.3027 / √3
    difference = difference_of([1, 1, 1], [2, 3, 4])
    assert (difference.mean, difference.deviation, difference.pairs) == (2, 1, 3)
    assert difference.half_width == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert not difference.is_clear
    assert difference.p == pytest.approx(0.0742, abs=1e-4)
    assert Difference(0.5, 0.0, 3).is_clear and not Difference(0.0, 0.0, 3).is_clear
    assert not Difference(0.5, math.nan, 1).is_clear


def test_the_interval_and_p_say_the_same():
    draw = random.Random(1)
    for _ in range(200):
        pairs = [draw.gauss(0.5, 1) for _ in range(draw.randint(2, 20))]
        difference = difference_of([0.0] * len(pairs), pairs)
        assert difference.is_clear == (difference.p < 0.05)


def significant(draws, pairs, comparisons=400):
    """The part of comparisons of arms without a difference that are clear; `draws()` gives a loss."""
    clear = 0
    for _ in range(comparisons):
        losses = [[draws() for _ in range(pairs)] for _ in range(2)]
        clear += difference_of(*losses).is_clear
    return clear / comparisons


@pytest.mark.parametrize("pairs", [4, 32])
def test_identical_arms_differ_in_five_of_a_hundred_simulations(pairs):
    draw = random.Random(8)
    assert significant(lambda: draw.gauss(2.4, 0.01), pairs) == pytest.approx(0.05, abs=0.02)


@pytest.mark.slow
def test_identical_arms_differ_in_five_of_a_hundred_real_comparisons():
    """Two arms are identical if the losses of both are drawn from those of one arm's 200 runs."""
    result = compare([{}], 200, num_steps=60, dtype="float32")
    losses = [*result.arms[0].losses.values()]
    draw = random.Random(3)
    assert len(set(losses)) == 200
    assert significant(lambda: draw.choice(losses), 16) == pytest.approx(0.05, abs=0.02)


def test_the_seeds_that_are_asked_for_show_a_difference_in_four_of_five_experiments():
    mean, deviation = 0.01, 0.02
    needed = seeds_needed(mean, deviation)
    normal = statistics.NormalDist()
    about = ((normal.inv_cdf(0.975) + normal.inv_cdf(0.8)) * deviation / mean) ** 2
    assert about < needed < about + 4
    random_numbers = np.random.default_rng(2)
    found = [
        difference_of([0.0] * needed, random_numbers.normal(mean, deviation, needed).tolist()).is_clear
        for _ in range(500)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)
    assert seeds_needed(0.0, 1.0) is None and seeds_needed(1e-9, 1.0) is None
    assert seeds_needed(1.0, 1e-9) == 2


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == [True, False, False]  # 0.03 > 0.05 / 2
    assert holm([0.01, 0.02, 0.04]) == [True, True, True]
    assert holm([]) == []


def test_pairs_take_out_what_the_seeds_share():
    """With the same seeds both arms have the same documents held out, the same order and initial parameters."""
    result = mg.compare([{"eps_adam": 1e-8}, {"eps_adam": 2e-8}], 6, num_steps=60, dtype="float32")
    first, second = result.arms
    assert second.difference.deviation < 0.2 * statistics.stdev(first.losses.values())
