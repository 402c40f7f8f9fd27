"""Every kernel of every backend and instruction set is its NumPy twin, whose backwards are derivatives."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast
from microgpt_fast.backends import numpy_backend as twin
from microgpt_fast.checking.cases import CASES

DTYPES = [np.float32, np.float64]


def label(value):
    if isinstance(value, dict):
        return "-".join(f"{name}{item}".replace(" ", "") for name, item in value.items())
    return getattr(value, "__name__", None)


EVERY_CASE = pytest.mark.parametrize(
    ("kernel", "size"), [(case.kernel, size) for case in CASES.values() for size in case.sizes], ids=label
)
EVERY_GRADIENT = pytest.mark.parametrize(
    ("kernel", "size"),
    # at exactly 0 relu has no derivative, and the difference quotient is not the agreed 0
    [(c.kernel, size) for c in CASES.values() if c.gradients for size in c.sizes if not size.get("zero_row")],
    ids=label,
)


def in_float64(arguments):
    return {
        name: value.astype(np.float64) if getattr(value, "dtype", None) == np.float32 else value
        for name, value in arguments.items()
    }


def storage(array):
    """Everything in the buffer that an array is a view into: padding and neighbours too."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def assert_close(got, want, dtype, bound, name, scale=None):
    """Errors count relative to the largest element of a tensor, or to `scale`."""
    error = 1e-12 if dtype == np.float64 else bound * np.finfo(np.float32).eps
    scale = np.abs(want).max() if scale is None else scale
    assert np.isfinite(got).all(), name
    np.testing.assert_allclose(got, want, rtol=0, atol=error * scale, err_msg=name)


@EVERY_CASE
@pytest.mark.parametrize("dtype", DTYPES, ids=label)
def test_equals_the_twin_in_float64(backend, kernel, size, dtype):
    case = CASES[kernel]
    arguments, before = case.arguments(dtype, seed=1, **size), case.arguments(dtype, seed=1, **size)
    wanted = in_float64(case.arguments(dtype, seed=1, **size))
    assert case.run(backend, arguments) == case.run(twin, wanted)
    for name in case.outputs:
        if arguments[name] is not None:
            scale = case.scale(name, wanted)
            assert_close(arguments[name], wanted[name], dtype, case.bound, name, scale)
            arguments[name][...] = before[name][...] = 0
    for name, value in arguments.items():  # nothing else has changed
        if isinstance(value, np.ndarray):
            assert storage(value).tobytes() == storage(before[name]).tobytes(), name
        else:
            assert value == before[name]


@EVERY_GRADIENT
def test_backward_of_the_twin_is_the_derivative_of_its_forward(kernel, size):
    """<gradient, u> is the central difference of the loss Σ upstream · output along random directions u."""
    case = CASES[kernel]
    arguments = case.arguments(np.float64, seed=2, **size)
    for output in case.gradients:
        if arguments[output] is not None:
            arguments[output][...] = 0
    case.run(twin, arguments)

    forward = CASES[case.forward]
    forward_size = {k: v for k, v in size.items() if k in inspect.signature(forward.build).parameters}
    forward_arguments = forward.arguments(np.float64, **forward_size)
    for name in forward_arguments.keys() - forward.outputs:  # what the backward does not take may be any
        forward_arguments[name] = arguments.get(name, forward_arguments[name])

    def loss(changed, value):
        inputs = {**forward_arguments, changed: value}
        forward.run(twin, inputs)
        return sum((arguments[upstream] * inputs[output]).sum() for output, upstream in case.upstream.items())

    rng, step = np.random.default_rng(3), 1e-6
    for output, name in case.gradients.items():
        if (gradient := arguments[output]) is None:
            continue
        value = forward_arguments[name]
        scale = np.abs(value).max()
        for _ in range(3):
            direction = scale * rng.standard_normal(value.shape)
            ahead, behind = (loss(name, value + sign * step * direction) for sign in (1, -1))
            size_of_terms = np.linalg.norm(gradient) * np.linalg.norm(direction)
            error = abs((ahead - behind) / (2 * step) - (gradient * direction).sum())
            assert error <= 1e-7 * size_of_terms + 1e-9 * abs(ahead), output


def test_the_twin_computes_what_reference_does_not():
    """Slopes, gains and weight decay, from their definitions."""
    a = CASES["attention_forward"].arguments(np.float64, lengths=(3,), H=2, D=4, alibi=True)
    CASES["attention_forward"].run(twin, a)
    for h, slope in enumerate([2**-4, 2**-8]):
        scores = [a["q"][2, h] @ a["k"][j, h] / 2 - slope * (2 - j) for j in range(3)]
        p = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(a["o"][2, h], p @ a["v"][:, h], rtol=1e-14)

    a = CASES["rmsnorm_forward"].arguments(np.float64, N=1, C=4, gain=True)
    a["x"][...], a["gain"][...] = [[3, 1, 1, 5]], [1, 2, 3, 4]
    CASES["rmsnorm_forward"].run(twin, a)
    np.testing.assert_allclose(a["y"][0], np.array([3, 2, 3, 20]) / np.sqrt(9 + 1e-5), rtol=1e-14)

    p, m, v, g = (np.array([x]) for x in (2.0, 0.0, 0.0, 3.0))
    twin.adamw_step(p, m, v, g, 1, 0.1, 0.9, 0.99, 1.0, 0.5, 1)
    np.testing.assert_allclose([p[0], m[0], v[0]], [2 - 0.1 * (3 / (3 + 1) + 0.5 * 2), 0.3, 0.09], rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=label)
def test_softmax_of_large_scores_does_not_overflow(backend, dtype):
    case = CASES["cross_entropy_forward"]
    arguments = case.arguments(dtype, N=3, V=5)
    arguments["logits"][...] = [[1e4, -1e4, 0, 1e4, 9999], [-1e4] * 5, [1e4, 0, 0, 0, 0]]
    arguments["targets"][...] = [1, 4, 0]
    case.run(backend, arguments)
    smallest = 2 + np.exp(-1.0)
    np.testing.assert_allclose(arguments["losses"], [2e4 + np.log(smallest), np.log(5), 0], rtol=1e-3)

    case = CASES["attention_forward"]
    arguments, wanted = (case.arguments(dtype, lengths=(9, 4), H=2, D=8) for _ in range(2))
    for a in (arguments, wanted):
        a["q"][...] *= 1000
    wanted = in_float64(wanted)
    case.run(backend, arguments)
    case.run(twin, wanted)
    assert np.isfinite(arguments["o"]).all() and np.isfinite(arguments["lse"]).all()
    np.testing.assert_allclose(arguments["lse"], wanted["lse"], rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("bad", [-1, 27, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize(
    ("kernel", "name"),
    [("embedding_forward", "tokens"), ("embedding_forward", "positions"), ("embedding_backward", "tokens"),
     ("embedding_backward", "positions"), ("cross_entropy_forward", "targets"),
     ("cross_entropy_backward", "targets")],
)  # fmt: skip
def test_first_bad_row_is_returned_before_anything_is_written(backend, kernel, name, bad):
    size = dict(N=9, V=27) if "cross" in kernel else dict(N=9, C=5, V=27, T=27)
    arguments, before = (CASES[kernel].arguments(np.float64, **size) for _ in range(2))
    arguments[name][[4, 7]] = before[name][[4, 7]] = bad
    assert CASES[kernel].run(backend, arguments) == 4
    for argument, value in arguments.items():
        assert np.array_equal(value, before[argument], equal_nan=isinstance(value, np.ndarray)), argument


@pytest.mark.parametrize("dtype", DTYPES, ids=label)
@pytest.mark.parametrize("alibi", [False, True])
def test_decoding_with_a_cache_is_the_last_row_of_attention(backend, dtype, alibi):
    T, H, D = 13, 2, 3
    attention = CASES["attention_forward"].arguments(dtype, lengths=(T,), H=H, D=D, alibi=alibi)
    CASES["attention_forward"].run(backend, attention)
    for row in range(T):
        size = dict(lengths=(row + 1,), T_max=T, H=H, D=D, alibi=alibi)
        decode = CASES["attention_decode"].arguments(dtype, **size)
        decode["q"][...] = attention["q"][row]
        decode["k_cache"][...], decode["v_cache"][...] = attention["k"], attention["v"]
        CASES["attention_decode"].run(backend, decode)
        assert_close(decode["o"][0], attention["o"][row], dtype, 16, f"row {row}")


def test_no_document_sees_another(backend):
    """Attention of a packed batch is that of its documents alone, bit for bit."""
    packed = CASES["attention_forward"].arguments(np.float32, lengths=(5, 1, 9), H=2, D=4)
    CASES["attention_forward"].run(backend, packed)
    for first, last in ((0, 5), (5, 6), (6, 15)):
        alone = CASES["attention_forward"].arguments(np.float32, lengths=(last - first,), H=2, D=4)
        for name in "qkv":
            alone[name][...] = packed[name][first:last]
        CASES["attention_forward"].run(backend, alone)
        assert np.array_equal(alone["o"], packed["o"][first:last])
        assert np.array_equal(alone["lse"], packed["lse"][first:last])


def test_every_kernel_of_the_header_has_a_case_and_a_twin_with_its_arguments():
    header = Path(microgpt_fast.__file__).parent / "include" / "microgpt_fast_kernels.h"
    kernels = dict(re.findall(r"^KERNEL\(\w+, (\w+), \((.*)\)\)$", header.read_text(), re.MULTILINE))
    assert kernels.keys() == CASES.keys()
    for kernel, arguments in kernels.items():
        names = [argument.split()[-1].lstrip("*") for argument in arguments.split(",")]
        assert list(inspect.signature(getattr(twin, kernel)).parameters) == names
        assert list(CASES[kernel].arguments(np.float32, **CASES[kernel].sizes[0])) == names
