"""What several test files share: the backends to test, and the runs of the original."""

import hashlib
import math
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from microgpt_fast import backends
from microgpt_fast.config import GPTConfig, TrainConfig

LIBM = "c64c949aab5b6c0af4cfec8ad4c8f05ecb1bc454de2968818c49a226ea29f5c0"  # of glibc 2.36 on x86-64 with FMA
TESTS = Path(__file__).parent
BUILTIN = TESTS.parent / "microgpt_fast" / "datasets" / "us_census_1990_first_names.txt"


def _variants():
    """Each usable backend, once for every instruction set that it has on this CPU."""
    for name in ("numpy", "numba", "cython"):
        try:
            module = backends.load(name)
        except backends.BackendError:
            continue
        for isa in module.isas() if hasattr(module, "isas") else [None]:
            yield pytest.param((module, isa), id=f"{name}-{isa}" if isa else name)


def pytest_report_header():
    return f"backends to test: {', '.join(variant.id for variant in _variants())}"


@pytest.fixture(params=_variants())
def backend(request):
    """A backend module, with one of its instruction sets in use."""
    module, isa = request.param
    if isa is None:
        yield module
        return
    previous = module.active_isa()
    module.use_isa(isa)
    yield module
    module.use_isa(previous)


@pytest.fixture(scope="session")
def shared():
    """The folder of test data beside the repository."""
    path = TESTS.parent.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"needs the test data in {path}")
    return path


@pytest.fixture(scope="session")
def same_libm():
    """Skips where the C library's functions round otherwise than those behind the bits in tests/golden."""
    draw = random.Random(0).random
    values = []
    for _ in range(5000):
        values += [
            math.exp(13 * draw() - 10),
            math.log(1 - draw()),
            draw() ** 0.5,
            (99 * draw() + 1e-6) ** -0.5,
        ]
        values += [(1 - draw() / 2) ** int(1 + 1000 * draw()), math.cos(7 * draw()), math.sin(7 * draw())]
    found = hashlib.sha256(np.array(values, "<f8").tobytes()).hexdigest()
    if found != LIBM:
        pytest.skip("this C library's exp, log, pow, cos or sin has other last bits than glibc's with FMA")


@pytest.fixture
def original_run(request):
    """A function of a name in tests/golden: that run of the original, and what is needed to repeat it.

    Attributes of the result: `figures` (see tests/golden/README.md), `config`, `train`; `documents` as token
    lists in the order of training, `text(tokens)`, `bos`; `random`, about to draw the parameters.
    """

    def load(name):
        with np.load(TESTS / "golden" / f"{name}.npz") as archive:
            figures = dict(archive)
        constants = {key: value.item() for key, value in figures.items() if value.ndim == 0}
        config, train = (
            kind(**{key[len(prefix) :]: constants[key] for key in constants if key.startswith(prefix)})
            for kind, prefix in ((GPTConfig, "model."), (TrainConfig, "train."))
        )

        path = BUILTIN
        if constants["data"] != BUILTIN.name:
            path = request.getfixturevalue("shared") / "data" / constants["data"]
        with open(path, encoding="utf-8") as lines:
            texts = [line.strip() for line in lines if line.strip()]
        stream = random.Random(train.seed)
        stream.shuffle(texts)
        symbols = sorted(set("".join(texts)))
        bos = 0 if train.bos == "first" else len(symbols)
        symbols.insert(bos, "")
        ids = {symbol: i for i, symbol in enumerate(symbols)}
        return SimpleNamespace(
            figures=figures,
            config=config,
            train=train,
            documents=[[bos, *(ids[char] for char in text), bos] for text in texts],
            text=lambda tokens: "".join(symbols[token] for token in tokens),
            bos=bos,
            random=stream,
        )

    return load


@pytest.fixture(scope="session")
def flatten():
    """A function: parameters or gradients of reference.py as one flat array."""
    return lambda tensors: np.concatenate([np.array(rows, float).ravel() for rows in tensors.values()])
