"""What several test files share: the tiers, the backends to test, and the runs of the original.

A test is quick unless it is marked: `slow` ones run with plain ``pytest``, `thorough` ones with ``pytest --all`` or
where their file is named. CONTRIBUTING.md tells when to run which.
"""

import hashlib
import math
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

TESTS = Path(__file__).parent
# Background jobs of a shell ignore Ctrl-C, those of nohup SIGHUP: so would the programs that tests start and stop.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Processes that write into one cache of Numba's at the same time can take each other's functions.
    os.environ["NUMBA_CACHE_DIR"] = str(TESTS.parent / "build" / "numba" / worker)
    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # NumPy's threads would wait for those of other workers

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tested  # noqa: E402

from microgpt_fast import backends  # noqa: E402
from microgpt_fast.config import GPTConfig, TrainConfig  # noqa: E402

LIBM = "c64c949aab5b6c0af4cfec8ad4c8f05ecb1bc454de2968818c49a226ea29f5c0"  # of glibc 2.36 on x86-64 with FMA
BUILTIN = TESTS.parent / "microgpt_fast" / "datasets" / "us_census_1990_first_names.txt"


def pytest_addoption(parser):
    group = parser.getgroup("microgpt_fast")
    group.addoption("--all", action="store_true", help="run the thorough tests too")
    group.addoption(
        "--allow-missing",
        metavar="NAMES",
        default="",
        help="backends and instruction sets, separated by commas, that need not be here although they could",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: runs with plain pytest, not with -m quick")
    config.addinivalue_line(
        "markers",
        "thorough(backend=None): runs with --all alone, or where its file is named; a backend's variant alone",
    )
    config.addinivalue_line("markers", "quick: given to every test that is neither slow nor thorough")


def _runs_thorough(config):
    """Whether thorough tests run: with --all, or asked for by a file's name or the mark."""
    named = (Path(config.invocation_params.dir, argument.split("::")[0]) for argument in config.args)
    return config.option.all or "thorough" in config.option.markexpr or any(path.is_file() for path in named)


def pytest_sessionstart(session):
    """Refuse to test half without a word, and say what is tested: always, with -q too."""
    option, reporter = session.config.option, session.config.pluginmanager.get_plugin("terminalreporter")
    if worker:
        return
    if refusal := tested.refusal(list(filter(None, option.allow_missing.split(",")))):
        raise pytest.UsageError(refusal)
    if reporter:
        tier = (option.markexpr or "all") + (
            "" if _runs_thorough(session.config) else ", none that are thorough (--all)"
        )
        for line in [tested.summary(), f"tests: {tier}"]:
            reporter.write_line(line)
        if why := tested.outdated():
            reporter.write_line(f"warning: {why}", yellow=True)


def _tier(item):
    """The tier of a test: of its marks that concern its backend, the slowest."""
    variant = getattr(item, "callspec", SimpleNamespace(params={})).params.get("backend")
    name = (
        backends.name_of(variant[0]) if isinstance(variant, tuple) else variant
    )  # of the fixture; or a test's own
    for tier in ("thorough", "slow"):
        if any(mark.kwargs.get("backend", name) == name for mark in item.iter_markers(tier)):
            return tier
    return "quick"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    tiers = {item: _tier(item) for item in items}
    for item in items:
        if tiers[item] == "quick":
            item.add_marker("quick")
    if not _runs_thorough(config):
        items[:] = [item for item in items if tiers[item] != "thorough"]
        config.hook.pytest_deselected(items=[item for item in tiers if tiers[item] == "thorough"])


def _variants():
    """Each usable backend, once for every instruction set that it has on this processor."""
    for name, module, isa in tested.variants():
        marks = [pytest.mark.slow] if name == "numba" else []  # it compiles first
        yield pytest.param((module, isa), id=f"{name}-{isa}" if isa else name, marks=marks)


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


def _core(bits, monkeypatch):
    """The core for WebAssembly, kept in build/ from run to run."""
    from microgpt_fast.config import UsageError
    from microgpt_fast.export import wasm

    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(TESTS.parent / "build" / "web"))
    try:
        return wasm.core(bits)
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def built_core():
    """The bytes of the float32 core for WebAssembly; skips where there is no compiler for it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return _core(32, monkeypatch)


@pytest.fixture(scope="session")
def built_core64():
    """The same in float64."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return _core(64, monkeypatch)
