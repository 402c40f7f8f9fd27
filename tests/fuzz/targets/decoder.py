"""Calls of a decoder in any order: tokens and positions out of turn are refused, logits are the NumPy backend's."""

from types import SimpleNamespace

import numpy as np

from microgpt_fast import backends, ops
from microgpt_fast.backends import numpy_backend as twin
from microgpt_fast.random_stream import seeded

from .gpt import CONFIGS

BACKEND = backends.load()
RNG = np.random.default_rng(0)
PARAMETERS = [0.3 * RNG.standard_normal(config.num_params) for config in CONFIGS]
ODD = [
    None,
    -1,
    5,
    6,
    7,
    100,
    2**31 - 1,
    2**31,
    2**63 - 1,
    2**63,
    2**70,
    -(2**31),
    -(2**63),
    1.5,
    "1",
    [],
    True,
]
TEMPERATURES = [0.5, 1.0, 3.0, 0.0, -1.0, float("nan"), float("inf"), 1e-300, 1e300, None, "1"]


def make(random):
    """A model, and calls: (token, position), or a temperature."""
    calls, position = [], 0
    for _ in range(random.choice([1, 3, 6, 10])):
        if random.random() < 0.1:
            calls.append((random.choice(TEMPERATURES), random.randrange(5)))
            position = 0
            continue
        token = random.choice(ODD) if random.random() < 0.1 else random.randrange(5)
        at = random.choice(ODD) if random.random() < 0.1 else random.choice([position] * 9 + [0])
        calls.append((token, at, "step"))
        position = at + 1 if type(at) is int and 0 <= at < 6 else position
    return SimpleNamespace(
        model=random.randrange(len(CONFIGS)), dtype=random.choice(["float32", "float64"]), calls=calls
    )


def run(case):
    """Decode on the fastest backend and on NumPy's."""
    params, config = PARAMETERS[case.model].astype(case.dtype), CONFIGS[case.model]
    decoders = [ops.gpt_decode(params, config, backend=backend) for backend in (BACKEND, twin)]
    precision = 1e-4 if case.dtype == "float32" else 1e-10
    for call in case.calls:
        got, want = (_answer(decoder, call) for decoder in decoders)
        assert isinstance(got, Exception) == isinstance(want, Exception), (call, got, want)
        if len(call) == 3 and isinstance(want, np.ndarray):
            assert got.dtype == want.dtype and np.abs(got - want).max() <= precision * np.abs(want).max()


def _answer(decoder, call):
    """What a call returns, or the error that it raises."""
    try:
        with np.errstate(all="ignore"):
            if len(call) == 3:
                return decoder.step(*call[:2])
            temperature, bos = call
            tokens = decoder.generate(seeded(1, BACKEND), bos, temperature)
            assert len(tokens) <= 6 and all(0 <= token < 5 and token != bos for token in tokens.tolist())
            return tokens
    except (IndexError, TypeError) as error:
        return error
