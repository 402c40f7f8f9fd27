"""`verify`: what it finds the same, what it finds different, and that it says where."""

import ast
import hashlib
import re

import numpy as np
import pytest

from microgpt_fast import backends, cli
from microgpt_fast.backends import numpy_backend
from microgpt_fast.checking import original, relu_sides
from microgpt_fast.checking.differences import difference
from microgpt_fast.checking.original import read
from microgpt_fast.checking.relu_sides import first_changed_side
from microgpt_fast.checking.verify import Verification
from microgpt_fast.config import GPTConfig

pytestmark = pytest.mark.slow

OPTIONS = dict(n_embd=8, n_head=2, block_size=5, compare_steps=3)
CASES = {
    "exact": {"numerics": "exact", "n_layer": 2},
    "fast": {"numerics": "fast", "n_layer": 2},
    "float32": {"dtype": "float32"},
    "batch": {"batch_size": 3, "numerics": "fast"},
    "float32 batch": {"batch_size": 3, "dtype": "float32", "activation": "relu2"},
    "first revision": {"preset": "first-revision"},
    "one channel": {"n_embd": 1, "n_head": 1, "numerics": "fast"},
}


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("hello\n  world \n\nwide\nweb\nab\u2028cd\nabcdefgh\u00e9\n", encoding="utf-8")
    return path


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    """A function of arguments: exit code, stdout and stderr of `verify`, run here in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main(["verify", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_backend_is_as_promised(backend, case, words):
    options = {**OPTIONS, **CASES[case]}
    if options.get("numerics") == "exact" and not backend.HAS_EXACT:
        pytest.skip("this backend has no exact numerics")
    verification = Verification(words, backend=backends.name_of(backend), **options)
    lines = list(verification.lines())
    assert verification.holds and not verification.wrong and lines[-1] == "verdict: as promised"
    assert ("first ReLU" in lines[-2]) == (options.get("dtype") == "float32")


def test_exact_is_reported_identical_in_every_place(run):
    code, out, err = run("--compare-steps", 2)
    if "exact" not in out.splitlines()[0]:
        pytest.skip("needs the compiled backend")
    assert (code, err) == (0, "")
    losses = re.findall(r"^ +([12])  (\d\.\d+) +identical$", out, re.M)
    assert [step for step, _ in losses] == ["1", "2"]
    assert [f"{float(loss):.4f}" for _, loss in losses] == ["3.3962", "3.2794"]
    tensors = re.findall(r"^(\S+) +identical +identical +identical +identical$", out, re.M)
    assert tensors == list(GPTConfig(27).shapes())
    assert " ulp" not in out and out.count(": none\n") == 2


class Tampered:
    """An engine whose gradients or training steps are changed from the call with this number on."""

    def __init__(self, engine, method, call, change):
        self._engine, self._method, self._call, self._change = engine, method, call, change

    def __getattr__(self, name):
        method = getattr(self._engine, name)
        if name != self._method:
            return method

        def tampered(*arguments):
            result = method(*arguments)
            self._call -= 1
            if self._call < 0:
                self._change(*arguments)
            return result

        return tampered


def _first_element(config, name):
    """Where a tensor begins in the flat buffer."""
    shapes = config.shapes()
    names = list(shapes)
    return sum(np.prod(shapes[before]) for before in names[: names.index(name)])


def one_ulp(config, name, argument):
    """A change of the first element of a tensor in one of the arguments of a call."""

    def change(*arguments):
        flat, first = arguments[argument], _first_element(config, name)
        flat[first] = np.nextafter(flat[first], np.inf)

    return change


@pytest.mark.parametrize(
    ("method", "argument", "part"),
    [("backward", 0, "gradient"), ("train_steps", 1, "parameters"), ("train_steps", 3, "second moment")],
)
def test_one_bit_is_found_and_named(words, method, argument, part):
    def tampered(verification):
        # train_steps is called once for the whole run, for each of its 3 steps, and for the single steps
        call = 1 if method == "backward" else 5
        change = one_ulp(verification.model.config, "layer0.mlp_fc1", argument)
        return Tampered(verification.model.engine, method, call, change)

    verification = Verification(words, numerics="fast", **OPTIONS)
    verification.model._engine = tampered(verification)
    list(verification.lines())
    assert verification.holds  # fast numerics allow it

    if not verification.model.backend.HAS_EXACT:
        pytest.skip("needs exact numerics")
    verification = Verification(words, numerics="exact", **OPTIONS)
    verification.model._engine = tampered(verification)
    lines = list(verification.lines())
    assert verification.wrong[2] == {part: ["layer0.mlp_fc1"]} and not verification.holds
    assert lines[-2:] == ["verdict: NOT as promised, first at step 2", f"  wrong {part}: layer0.mlp_fc1"]
    row = next(line for line in lines if line.startswith("layer0.mlp_fc1"))
    assert row.count("identical") == 3 and "1 ulp" in row


def test_a_run_that_depends_on_how_it_is_cut_into_calls_is_found(words):
    verification = Verification(words, dtype="float32", **OPTIONS)
    engine = verification.model.engine
    change = one_ulp(verification.model.config, "wte", 1)
    verification.model._engine = Tampered(engine, "train_steps", 3, change)
    list(verification.lines())
    assert list(verification.wrong[3]) == ["parameters, after one call for all steps"]


def test_other_initial_parameters_are_found(words):
    verification = Verification(words, numerics="fast", **OPTIONS)
    verification.model.parameters[0] *= 2
    lines = list(verification.lines())
    assert "verdict: NOT as promised, first at the start" in lines
    assert verification.wrong[0] == {"initial parameters": [None]}


def test_a_gradient_beyond_rounding_is_wrong_in_every_numerics(words):
    for options in ({"numerics": "fast"}, {"dtype": "float32"}):
        verification = Verification(words, **OPTIONS, **options)

        def scale(gradient, *rest):
            gradient *= -0.12

        verification.model._engine = Tampered(verification.model.engine, "backward", 0, scale)
        list(verification.lines())
        assert sorted(verification.wrong[1]["gradient"]) == sorted(verification.tensors)


def test_differences():
    assert difference(np.array([1.0, -2.0]), np.array([1.0, -2.0])) == (0, 0.0)
    assert difference(np.array([1.0, np.nextafter(4.0, 5)]), np.array([1.0, 4.0])) == (1, 2.0**-52)
    assert difference(5e-324, -5e-324).ulps == 3 and difference(0.0, -0.0) == (1, 0.0)
    assert difference(np.array([1 + 2**-23], "f4"), np.array([1.0])) == (1, 2.0**-23)
    assert difference(np.array([1.0], "f4"), np.array([1 + 2.0**-30])).ulps == 0
    assert difference(2e-3, 1e-3, 1.0).relative == pytest.approx(1e-3)
    assert difference(1.0, 0.0).relative == np.inf and np.isnan(difference(np.nan, 1.0).relative)
    assert str(difference(1.0, 1.0)) == "identical"


def test_the_first_relu_on_the_other_side(backend):
    config = GPTConfig(7, n_layer=2, n_embd=8, n_head=2, block_size=4)
    generator = np.random.default_rng(3)
    parameters = generator.normal(size=config.num_params)
    tokens = generator.integers(0, 7, 12).astype(np.int32)
    batch = tokens, np.array([0, 5]), np.array([2, 4], np.int32)
    assert first_changed_side(backend, config, parameters, *batch) is None

    # let the input of unit 5 of layer 0 at document 1, position 2 be 0 but for rounding, of either sign
    first = _first_element(config, "layer0.mlp_fc1") + 5 * 8
    weights = parameters[first : first + 8]

    def pre_activation(row):
        weights[:] = row
        return relu_sides._pre_activations(numpy_backend, config, parameters, *batch)[4, 0, 5]

    normed = np.array([pre_activation(row) for row in np.eye(8)])
    sides = set()
    for row in generator.normal(size=(30, 8)):
        pre_activation(row - (row @ normed) / (normed @ normed) * normed)
        side = first_changed_side(backend, config, parameters, *batch)
        if side is not None:
            assert side[:4] == (1, 2, 0, 5)
            assert abs(side.float64) < 1e-13 and abs(side.float32) < 1e-4
            assert (side.float64 > 0) != (side.float32 > 0)
            sides.add(side.float32 > 0)
    assert sides == {True, False}


ALTERED = {
    "another operation": ("scale for xi in x]", "scale * 1 for xi in x]", 106, "`return`"),
    "a constant that is no number": ("n_head = 4 ", "n_head = 2 + 2 ", 78, "`n_head = ...`"),
    "a statement less": ("        k = linear(x, state_dict[f'layer{li}.attn_wk'])\n", "", 119, "`k = ...`"),
    "a statement more": ("n_layer = 1 ", "print()\nn_layer = 1 ", 75, "`n_layer = ...`"),
    "half of another form": ("BOS = len(uchars)", "BOS = 0", 25, "bos = 'last'"),
    "another epsilon in rmsnorm": ("1e-5", "1e-6", 105, "`scale = ...`"),
    "another layer of the tree": ("        p.grad = 0\n", "    p.grad = 0\n", 182, "`p.grad = ...`"),
    "not Python": ("def gpt(", "def gpt((", 108, "not Python"),
}


@pytest.fixture
def microgpt(shared, tmp_path):
    """A function that writes the original, some texts replaced, and returns the copy's path."""

    def write(*changes, name="microgpt"):
        text = (shared / "original" / f"{name}.py").read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / "copy.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", ["microgpt", "first_revision_model"])
def test_the_original_is_recognised_and_compared(run, microgpt, words, name):
    path = microgpt(name=name)
    constants = read(path).constants
    first = name != "microgpt"
    assert (constants["bos"], constants["zero_init"], constants["activation"]) == (
        ("first", True, "relu2") if first else ("last", False, "relu")
    )
    wanted = (8, 500, 0.9, 0.95, 0.02, 0.6) if first else (16, 1000, 0.85, 0.99, 0.08, 0.5)
    names = ("block_size", "num_steps", "beta1", "beta2", "init_std", "temperature")
    assert tuple(map(constants.get, names)) == wanted
    code, out, _ = run("--original", path, "--data", words, "--compare-steps", 2)
    assert code == 0 and f"against {path}\n" in out and "verdict: as promised" in out
    assert f"steps 1 to 2 of {wanted[1]}" in out


def test_other_constants_comments_and_layout_are_recognised(run, microgpt, words):
    path = microgpt(
        ("n_layer = 1 ", "n_layer=2# deeper\n\n"), ("n_embd = 16", "n_embd   = 6"),
        ("n_head = 4", "n_head = 3"), ("block_size = 16", "block_size = 4"),
        ("random.seed(42)", "random.seed( -7 )"), ("std=0.08", "std = .3"),
        ("0.01, 0.85, 0.99, 1e-8", "0.02, 0.5, 0.75,\\\n  1e-6"), ("num_steps = 1000", "num_steps = 5"),
        ("range(20)", "range(3)"), ("xi.relu() for", "xi.relu()**2 for"),
        ("head_out = [sum", "head_out = [ sum"),
    )  # fmt: skip
    wanted = {
        "n_layer": 2, "n_embd": 6, "n_head": 3, "block_size": 4, "seed": -7, "init_std": 0.3,
        "learning_rate": 0.02, "beta1": 0.5, "beta2": 0.75, "eps_adam": 1e-6, "num_steps": 5,
        "num_samples": 3, "temperature": 0.5, "activation": "relu2", "zero_init": False, "bos": "last",
        "batch_size": 1,
    }  # fmt: skip
    assert read(path).constants == wanted
    code, out, _ = run("--original", path, "--data", words, "--compare-steps", 99)
    assert code == 0 and "steps 1 to 5 of 5" in out and "verdict: as promised" in out


@pytest.mark.parametrize("name", ALTERED)
def test_another_program_is_refused_with_its_line(run, microgpt, name):
    old, new, line, expected = ALTERED[name]
    path = microgpt((old, new))
    code, out, err = run("--original", path)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"microgpt-fast: {path}, line {line}: not a microgpt.py that is known here: ")
    assert expected in err


def test_what_is_refused_is_never_executed(run, tmp_path):
    path, trace = tmp_path / "other.py", tmp_path / "trace"
    path.write_text(f"open({str(trace)!r}, 'w')\n", encoding="utf-8")
    code, _, err = run("--original", path)
    assert code == 2 and "line 1" in err and "expected the original's `import`, found: open(" in err
    assert not trace.exists()


def test_a_statement_forged_to_look_like_the_originals_is_refused(run, microgpt, tmp_path, monkeypatch):
    """The few digits that tell where a program departs can be forged; the digest of the whole cannot."""
    trace = tmp_path / "trace"
    wanted = original.STATEMENTS.split()
    forged = f"print(open({str(trace)!r}, 'w'))"
    [place] = [i for i, word in enumerate(wanted) if word == "print()" and i > 20][:1]
    digits = hashlib.sha256(f"0 {original._canonical(ast.parse(forged).body[0])}".encode()).hexdigest()[:8]
    wanted[place + 1] = digits
    monkeypatch.setattr(original, "STATEMENTS", " ".join(wanted))
    path = microgpt(('print(f"vocab size: {vocab_size}")', forged))
    code, out, err = run("--original", path, "--compare-steps", 1)
    assert (
        (code, out) == (2, "") and err.count("\n") == 1 and "look like the original's, but are others" in err
    )
    assert not trace.exists()


def test_nothing_but_the_recognised_statements_is_run(microgpt):
    program = read(microgpt(("import os ", "'a text'; import os  # a comment\n")))
    assert "comment" not in program.source and "a text" not in program.source
    assert "atomic" not in program.source  # of the original's docstring
    assert ast.dump(ast.parse(program.source)) == ast.dump(ast.parse(read(microgpt()).source))


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("n_layer = 1 ", "n_layer = 'a number' ", "line 75: .*`n_layer = ...`, found: n_layer = 'a number'"),
        ("n_layer = 1 ", "n_layer = 1.0 ", "line 75"),
        ("n_layer = 1 ", "n_layer = True ", "line 75"),
        ("n_layer = 1 ", f"n_layer = {'9' * 5_000} ", "line 75.*4300 digits"),
        ("n_layer = 1 ", "n_layer = 999999999 ", "n_layer = 999999999.* more than the 2,000,000 parameters"),
        ("n_embd = 16", "n_embd = 10**9", "line 76"),
        ("block_size = 16", "block_size = 2147483647", "block_size = 2147483647: more than"),
        ("n_head = 4", "n_head = 0", "n_head must be at least 1, not 0"),
        ("random.seed(42)", f"random.seed(0x{'f' * 5_000})", "seed must be below 10\\*\\*18"),
        ("0.01, 0.85", "1e999, 0.85", "learning_rate must be a finite number, not inf"),
        ("0.01, 0.85", "1j, 0.85", "line 147"),
        ("num_steps = 1000", f"num_steps = 0x{'f' * 5_000}", "num_steps must be below"),
    ],
)
def test_hostile_constants_are_one_line(run, microgpt, old, new, message):
    path = microgpt((old, new))
    code, out, err = run("--original", path)
    assert (code, out) == (2, "") and err.count("\n") == 1 and re.search(message, err)


def test_a_difference_from_the_original_is_found(microgpt, words):
    verification = Verification(words, original=read(microgpt()), numerics="fast", compare_steps=2)
    verification.trainer.batches.order = verification.trainer.order[::-1].copy()
    list(verification.lines())
    assert {"loss", "loss in training", "gradient"} <= set(verification.wrong[1])


def test_an_original_that_fails_is_reported(run, microgpt, words):
    code, _, err = run("--original", microgpt(("0.01, 0.85", "50, 0.85")), "--data", words)
    assert code == 2 and re.search(r"copy.py failed: \w+: .+\n$", err)


def test_what_cannot_be_compared(run, microgpt, words):
    path = microgpt()
    for arguments, message in (
        (["--original", "nosuch.py"], "cannot read nosuch.py: No such file"),
        (["--data", "nosuch.txt"], "cannot read nosuch.txt: No such file"),
        (["--original", path, "--n-embd", "32"], f"n_embd is 16 in {path}, not 32"),
        (["--original", path, "--batch-size", "2"], f"batch_size is 1 in {path}, not 2"),
        (["--compare-steps", "0"], "compare_steps must be at least 1, not 0"),
        (["--num-steps", "0"], "num_steps must be at least 1"),
        (
            ["--n-embd", "512", "--dtype", "float32"],
            "in this model, more than 10,000,000: choose a smaller n_layer",
        ),
        (["--dtype", "float32", "--numerics", "exact"], "exact numerics need dtype float64"),
        (["--data", words, "--learning-rate", "1e300"], "the reference fails at step 2: its loss is nan"),
        (["--learning-rate", "50"], "the reference fails at step 2: math domain error: training diverged"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and message in err and err.count("\n") == 1


def test_a_wrong_result_is_exit_code_1(run, words, monkeypatch):
    monkeypatch.setattr("microgpt_fast.checking.verify.initial_parameters", lambda *a: _zeros(a[0]))
    code, out, _ = run("--data", words, "--compare-steps", 1)
    assert code == 1 and "verdict: NOT as promised, first at the start\n  wrong initial parameters\n" in out


def _zeros(config):
    return {name: [[0.0] * columns] * rows for name, (rows, columns) in config.shapes().items()}
