import random

import numpy as np
import pytest

from microgpt_fast.random_stream import PythonRandom, seeded

SEEDS = [42, 0, -7, 2**32, 123456789012345678901234567890]


@pytest.fixture(params=["python", "backend"])
def make(request, backend):
    """A function of a seed: PythonRandom, and the stream that the backend gets."""
    return PythonRandom if request.param == "python" else lambda seed: seeded(seed, backend)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_stream_is_that_of_the_random_module(make, seed):
    stream, expected = make(seed), random.Random(seed)
    order = list(range(1000))
    expected.shuffle(order)
    permutation = stream.permutation(1000)
    assert permutation.dtype == np.int64 and permutation.tolist() == order

    for count, std in ((7, 0.08), (3, 0.0), (1, 0.0), (1001, 2.5)):  # odd counts: gauss() makes two at a time
        draws = np.full(count, np.nan)
        stream.normal(draws, std)
        assert draws.tolist() == [expected.gauss(0, std) for _ in range(count)]

    weights = np.array([0.1, 0.0, 0.7, 1e-9, 0.2])
    assert [stream.choices(weights) for _ in range(500)] == [
        expected.choices(range(5), weights=weights.tolist())[0] for _ in range(500)
    ]
    assert stream.getstate() == expected.getstate()


def test_small_permutations(make):
    for n in (0, 1, 2):
        order = list(range(n))
        random.Random(1).shuffle(order)
        assert make(1).permutation(n).tolist() == order


def test_a_state_can_be_kept_and_exchanged(make):
    stream = make(5)
    first = np.empty(3)
    stream.normal(first, 1.0)
    state = stream.getstate()
    expected, repeated = np.empty(700), np.empty(700)
    stream.normal(expected, 1.0)
    stream.setstate(state)
    stream.normal(repeated, 1.0)
    assert expected.tolist() == repeated.tolist()
    python = random.Random()
    python.setstate(state)
    assert python.gauss(0, 1.0) == expected[0]


@pytest.mark.parametrize("index", [-1, 625, 10**6, 1.5, "1", None, 2**80])
def test_an_index_outside_the_state_is_refused(index):
    compiled = pytest.importorskip("microgpt_fast.backends.cython_backend")
    version, words, gauss = random.Random(1).getstate()
    stream = compiled.Random(1)
    before = stream.getstate()
    for bad in (
        (version, (*words[:624], index), gauss),
        (version, (*words[:623], -1, 0), gauss),
        (version, (*words[:623], 2**32, 0), gauss),
        (version, (*words[:623], "1", 0), gauss),
        (version, words[:624], gauss),
        (2, words, gauss),
        (version, words, "1"),
        (version, words),
        None,
    ):
        with pytest.raises(ValueError, match="random stream"):
            stream.setstate(bad)
    assert stream.getstate() == before
