"""The functions of ops: results from any layout of inputs, refusals before anything is written."""

import inspect
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from test_kernels import DTYPES, EVERY_CASE, assert_close, in_float64, label

from microgpt_fast import backends, ops
from microgpt_fast.backends import numpy_backend as twin
from microgpt_fast.checking.cases import CASES
from microgpt_fast.config import ACTIVATIONS
from microgpt_fast.ops._call import ARGUMENTS, ORDER

RENAMED = {"embedding_backward": {"vocab_size": "V", "block_size": "T"}}


def call_ops(kernel, arguments, backend, out="given", convert=lambda array: array):
    """Call an ops function with a kernel's arguments; the inputs are converted before.

    `out` is "given" for the arguments' own output arrays, "none" to let the function allocate.
    """
    function, renamed = getattr(ops, kernel), RENAMED.get(kernel, {})
    options = {}
    for name in inspect.signature(function).parameters:
        value = arguments.get(renamed.get(name, name))
        if isinstance(value, np.ndarray):
            writes = kernel == "adamw_step" and name in CASES[kernel].outputs
            value = value if writes else convert(value)
        if value is not None:
            options[name] = value
    if "activation" in options:
        options["activation"] = ACTIVATIONS[options["activation"]]
    if kernel == "linear_backward":
        options.update(with_dx=arguments["dx"] is not None, with_dw=arguments["dw"] is not None)
    outputs = CASES[kernel].outputs
    if out == "given" and "out" in inspect.signature(function).parameters:
        out = tuple(writable(arguments[name]) for name in outputs)
        options["out"] = out if len(out) > 1 else out[0]
    results = function(**options, backend=backend)
    if kernel == "adamw_step":
        return {name: arguments[name] for name in outputs}
    return dict(zip(outputs, results if len(outputs) > 1 else (results,)))


def writable(array):
    """The array if ops can write to it, else a copy."""
    return array if array is None or array.flags.c_contiguous else np.array(array, order="C")


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array):
    """Every second element of a larger, read-only array."""
    wide = np.full((*array.shape, 2), 99, array.dtype)
    wide[..., 0] = array
    wide.flags.writeable = False
    return wide[..., 0]


def fortran(array):
    return np.asfortranarray(array)


def backwards(array):
    return np.ascontiguousarray(array[::-1])[::-1]


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype)
    raw[...] = array.ravel()
    return raw.reshape(array.shape)


@EVERY_CASE
@pytest.mark.parametrize("dtype", DTYPES, ids=label)
def test_every_case_from_any_layout(backend, kernel, size, dtype):
    case = CASES[kernel]
    wanted = in_float64(case.arguments(dtype, seed=4, **size))
    case.run(twin, wanted)
    for convert in (np.array, read_only, strided, fortran, backwards, unaligned):
        seen = []

        def recorded(array, convert=convert, seen=seen):
            seen.append((array.copy(), convert(array)))
            return seen[-1][1]

        results = call_ops(kernel, case.arguments(dtype, seed=4, **size), backend, convert=recorded)
        for name, result in results.items():
            assert (result is None) == (wanted[name] is None)
            if result is not None:
                assert_close(result, wanted[name], dtype, case.bound, name, case.scale(name, wanted))
        for before, after in seen:
            assert np.array_equal(before, after, equal_nan=True)


@EVERY_CASE
def test_without_out_sums_begin_at_zero(backend, kernel, size):
    if size.get("accumulate") or size.get("accumulate_dx") or kernel == "adamw_step":
        pytest.skip("adds to what the caller has")
    case = CASES[kernel]
    wanted = case.arguments(np.float64, seed=5, **size)
    for argument in ARGUMENTS[kernel][0]:
        if argument.adds and wanted[argument.name] is not None:
            wanted[argument.name][...] = 0
    case.run(twin, wanted)
    results = call_ops(kernel, case.arguments(np.float64, seed=5, **size), backend, out="none")
    for name, result in results.items():
        if result is not None:
            assert result.flags.writeable and result.dtype == np.float64
            assert_close(result, wanted[name], np.float64, case.bound, name, case.scale(name, wanted))


def test_the_table_of_shapes_covers_every_kernel():
    assert ARGUMENTS.keys() == CASES.keys()
    for kernel, (outputs, inputs) in ARGUMENTS.items():
        assert tuple(argument.name for argument in outputs) == CASES[kernel].outputs
        assert {argument.name for argument in outputs + inputs} <= set(ORDER[kernel])
        for section in ("Parameters", "Raises"):
            text = getattr(ops, kernel).__doc__
            assert section in text or "as in `gemm_nn`" in text


@pytest.fixture(params=["numpy", "cython"])
def checks(request):
    """A backend, and with it who checks: ops alone, or the compiled backend first."""
    try:
        backends.load(request.param)
    except backends.BackendError as error:
        pytest.skip(str(error))
    return request.param


EVERY_INPUT = pytest.mark.parametrize(
    ("kernel", "name"), [(k, argument.name) for k, (_, inputs) in ARGUMENTS.items() for argument in inputs]
)


@EVERY_INPUT
def test_wrong_dtype_or_shape_of_an_input(kernel, name, checks):
    sizes = CASES[kernel].sizes
    for size in sizes:
        arguments = CASES[kernel].arguments(np.float64, seed=6, **size)
        if arguments[name] is not None:
            break
    array = arguments[name]
    before = {n: a.copy() for n, a in arguments.items() if isinstance(a, np.ndarray)}
    for wrong in (array.astype(complex), array.astype(bool), array.astype(np.float16), array.astype(">f8")):
        with pytest.raises(TypeError, match=name):
            call_ops(kernel, {**arguments, name: wrong}, checks)
    if array.dtype == np.float64 and kernel != "adamw_step":
        others = [a for a in ARGUMENTS[kernel][1] if arguments[a.name] is not None]
        if sum(arguments[a.name].dtype == np.float64 for a in others) > 1:
            with pytest.raises(TypeError, match="one dtype"):
                call_ops(kernel, {**arguments, name: array.astype(np.float32)}, checks, out="none")
    longer = np.concatenate([array, array])
    any_length = kernel == "embedding_forward" and name in ("wte", "wpe")
    for wrong in (array[None],) if any_length else (longer, array[None]):
        with pytest.raises(ValueError) as error:
            call_ops(kernel, {**arguments, name: wrong}, checks)
        assert str(wrong.shape) in str(error.value)
    for n, a in before.items():
        assert np.array_equal(a, arguments[n], equal_nan=True), n


EVERY_OUTPUT = pytest.mark.parametrize(
    ("kernel", "name"), [(k, argument.name) for k, (outputs, _) in ARGUMENTS.items() for argument in outputs]
)


@EVERY_OUTPUT
def test_wrong_out(kernel, name, checks):
    for size in CASES[kernel].sizes:
        arguments = CASES[kernel].arguments(np.float64, seed=6, **size)
        if arguments[name] is not None and arguments[name].size > 1 and arguments[name].flags.c_contiguous:
            break
    array = np.zeros(arguments[name].shape)
    frozen = read_only(array)
    refused = [
        (TypeError, array.astype(np.float32)),
        (TypeError, array.tolist()),
        (ValueError, frozen),
        (ValueError, np.zeros((*array.shape, 2))),
        (ValueError, np.concatenate([array, array])),
        (ValueError, np.zeros((*array.shape, 2))[..., 0]),
        (ValueError, unaligned(array)),
    ]
    for error, wrong in refused:
        given = {**arguments, name: wrong}
        before = {n: a.copy() for n, a in given.items() if isinstance(a, np.ndarray)}
        with pytest.raises(error, match=name):
            options = (
                {} if kernel == "adamw_step" else {"out": tuple(given[n] for n in CASES[kernel].outputs)}
            )
            if len(CASES[kernel].outputs) == 1:
                options["out"] = wrong
            positional = [
                given.get(RENAMED.get(kernel, {}).get(n, n))
                for n, parameter in inspect.signature(getattr(ops, kernel)).parameters.items()
                if parameter.kind == parameter.POSITIONAL_OR_KEYWORD
            ]
            if kernel == "adamw_step":
                options |= {n: given[n] for n in ("step", "lr")}
            if kernel == "embedding_backward":
                options |= dict(vocab_size=given["V"], block_size=given["T"])
            getattr(ops, kernel)(*positional, **options, backend=checks)
        for n, a in before.items():
            assert np.array_equal(a, given[n], equal_nan=True), n


@pytest.mark.parametrize("kernel", [kernel for kernel in CASES if kernel != "adamw_step"])
def test_overlap_is_refused(kernel, checks):
    """Each output shares one element with each input, in turn; both shapes are named."""
    checked = 0
    for output in CASES[kernel].outputs:
        for argument in ARGUMENTS[kernel][1]:
            arguments = next(
                a
                for a in (CASES[kernel].arguments(np.float64, **size) for size in CASES[kernel].sizes)
                if a[argument.name] is not None and a[output] is not None
            )
            source = arguments[argument.name]
            if source.dtype != np.float64:
                continue
            memory = np.zeros(source.size + arguments[output].size - 1)
            arguments[argument.name] = memory[: source.size].reshape(source.shape)
            arguments[output] = memory[source.size - 1 :].reshape(arguments[output].shape)
            with pytest.raises(ValueError, match="overlaps") as error:
                call_ops(kernel, arguments, checks)
            assert str(source.shape) in str(error.value) and str(arguments[output].shape) in str(error.value)
            assert not memory.any()
            checked += 1
    assert checked


def test_two_outputs_in_one_memory_are_refused():
    p, g = np.ones(4), np.ones(4)
    with pytest.raises(ValueError, match=r"v of shape \(4,\) overlaps m of shape \(4,\)"):
        m = np.zeros(4)
        ops.adamw_step(p, m, m, g, step=1, lr=0.1)
    assert (p == 1).all()


@pytest.mark.parametrize("bad", [-1, 27, 2**31, 2**40, -(2**63)])
@pytest.mark.parametrize(
    "kernel", ["embedding_forward", "embedding_backward", "cross_entropy_forward", "cross_entropy_backward"]
)
def test_index_out_of_range(backend, kernel, bad):
    size = dict(N=9, V=27) if "cross" in kernel else dict(N=9, C=5, V=27, T=27)
    for name in ("targets",) if "cross" in kernel else ("tokens", "positions"):
        arguments = CASES[kernel].arguments(np.float64, **size)
        before = {n: arguments[n].copy() for n in CASES[kernel].outputs}
        arguments[name] = arguments[name].astype(np.int64)
        arguments[name][4] = bad
        with pytest.raises(IndexError, match=rf"{name}\[4\] is {bad}, .* 27"):
            call_ops(kernel, arguments, backend)
        for n, array in before.items():
            assert np.array_equal(array, arguments[n], equal_nan=True)


def test_bad_documents_lengths_and_options():
    q = np.ones((5, 2, 3))
    for wrong in ([0, 4], [1, 5], [0, 3, 2, 5], [], [[0, 5]]):
        with pytest.raises(ValueError, match="cu_seqlens"):
            ops.attention_forward(q, q, q, np.array(wrong, int))
    with pytest.raises(TypeError, match="cu_seqlens"):
        ops.attention_forward(q, q, q, [0.0, 5.0])
    cache = np.ones((5, 4, 2, 3))
    for wrong in (0, 5, -1):
        with pytest.raises(IndexError, match=rf"lengths\[2\] is {wrong}, not in 1 .. 4"):
            ops.attention_decode(q, cache, cache, [1, 4, wrong, 2, 3])
    with pytest.raises(ValueError, match="activation must be one of relu, .*, not 'swish'"):
        ops.mlp_forward(q[:, 0], np.ones((4, 3)), np.ones((3, 4)), activation="swish")
    with pytest.raises(ValueError, match="step must be at least 1"):
        ops.adamw_step(q, q.copy(), q.copy(), q.copy(), step=0, lr=0.1)
    with pytest.raises(ValueError, match="needs vocab_size"):
        ops.embedding_backward(q[:, 0], [0] * 5, [0] * 5, block_size=3)
    with pytest.raises(ValueError, match=r"out must be a tuple \(y, rstd\)"):
        ops.rmsnorm_forward(q[:, 0], out=np.ones((5, 3)))
    with pytest.raises(ValueError, match="not computed"):
        ops.rmsnorm_backward(q[:, 0], q[:, 0], np.ones(5), out=(None, np.ones(3)))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int64, np.uint64])
def test_indices_of_any_integer_dtype(backend, kind):
    table = np.arange(20.0).reshape(5, 4)
    tokens = np.array([4, 0, 3], kind)
    x = ops.embedding_forward(tokens, tokens[::-1], table, table, backend=backend)
    assert np.array_equal(x, table[[4, 0, 3]] + table[[3, 0, 4]])


def test_attention_on_views_of_one_array_copies_nothing_and_returns_such_views(backend):
    rng = np.random.default_rng(0)
    qkv = rng.standard_normal((11, 3, 2, 5))
    q, k, v = np.moveaxis(qkv, 1, 0)
    o, lse = ops.attention_forward(q, k, v, [0, 4, 11], backend=backend)
    want = ops.attention_forward(q.copy(), k.copy(), v.copy(), [0, 4, 11], backend=backend)
    np.testing.assert_allclose(o, want[0], rtol=1e-12)
    d_o = rng.standard_normal(o.shape)
    into = np.full_like(qkv, np.nan)
    fresh = ops.attention_backward(d_o, o, lse, q, k, v, [0, 4, 11], backend=backend)
    ops.attention_backward(
        d_o, o, lse, q, k, v, [0, 4, 11], out=(*np.moveaxis(into, 1, 0), None), backend=backend
    )
    apart = ops.attention_backward(
        d_o,
        o,
        lse,
        q.copy(),
        k.copy(),
        v.copy(),
        [0, 4, 11],
        out=(*np.moveaxis(into.copy(), 1, 0), None),
        backend=backend,
    )
    for part, one, other in zip(np.moveaxis(into, 1, 0), fresh, apart):
        assert np.array_equal(part, one) and np.array_equal(one, other)
        assert one.strides[0] == 3 * 2 * 5 * 8
    with pytest.raises(ValueError, match="views of one array"):
        mixed = (into[:, 0], np.zeros((11, 2, 5)), np.zeros((11, 2, 5)), None)
        ops.attention_backward(d_o, o, lse, q, k, v, [0, 4, 11], out=mixed, backend=backend)


def test_gemm_takes_rows_that_lie_apart(backend):
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((13, 40))
    a, b = wide[:, 2:19], wide[:, 20:35]
    np.testing.assert_allclose(ops.gemm_tn(a, b, backend=backend), a.T @ b, rtol=1e-12)
    c = np.ones((17, 15))
    assert ops.gemm_tn(a, b, accumulate=True, out=c, backend=backend) is c
    np.testing.assert_allclose(c, 1 + a.T @ b, rtol=1e-12)
    np.testing.assert_allclose(ops.gemm_nt(a.T, b.T, backend=backend), a.T @ b, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=label)
def test_logits_of_ten_thousand_and_a_vocabulary_of_50000(backend, dtype):
    V = 50_000
    logits = np.random.default_rng(0).uniform(-1e4, 1e4, (3, V)).astype(dtype)
    logits[0] = 1e4
    logits[1] = -1e4
    logits[1, 7] = 1e4
    targets = [V - 1, 7, 123]
    losses, lse = ops.cross_entropy_forward(logits, targets, backend=backend)
    wide = logits[2].astype(np.float64)
    wanted = [np.log(V), 0, wide.max() + np.log(np.exp(wide - wide.max()).sum()) - wide[123]]
    np.testing.assert_allclose(losses, wanted, rtol=1e-5, atol=2e-3 if dtype == np.float32 else 1e-11)
    d = ops.cross_entropy_backward(np.ones(3, dtype), lse, logits, targets, backend=backend)
    assert np.isfinite(d).all()
    tolerance = 2e-3 if dtype == np.float32 else 1e-11  # an ulp of 1e4 in the exponent
    np.testing.assert_allclose(d.sum(axis=1), 0, atol=tolerance)
    np.testing.assert_allclose(d[0], 1 / V - (np.arange(V) == V - 1), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=label)
def test_attention_over_4096_positions_in_linear_memory(backend, dtype):
    if backend is twin:
        pytest.skip("the twin keeps every score")
    N = 4096
    q, k, v = np.random.default_rng(0).standard_normal((3, N, 1, 16)).astype(dtype)

    def attention(q, k, v):
        o, lse = ops.attention_forward(q, k, v, backend=backend)
        return o, lse, *ops.attention_backward(o, o, lse, q, k, v, backend=backend)

    attention(q[:1], k[:1], v[:1])  # Numba's compiler takes memory too
    tracemalloc.start()
    o, lse, dq, dk, dv, delta = attention(q, k, v)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * q.nbytes  # five results of q's size; all scores would take 128 times as much
    rows = slice(N - 3, N)
    s = q[rows, 0].astype(float) @ k[:, 0].T.astype(float) / 4
    s[np.arange(3)[:, None] + N - 3 < np.arange(N)] = -np.inf
    p = np.exp(s - s.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(o[rows, 0], p @ v[:, 0], atol=1e-5)
    assert abs(dv[:, 0].sum(axis=0) - o[:, 0].sum(axis=0)).max() < 1e-3  # rows of p sum to 1
    assert abs(dq[0]).max() < 1e-5 and np.isfinite(dk).all() and np.isfinite(delta).all()


def test_importing_the_package_or_ops_imports_no_compiler():
    for use, loaded in (("", ""), ("microgpt_fast.ops", "numpy")):
        code = f"import sys, microgpt_fast\n{use}\n" + (
            "print(*sorted({'numba', 'llvmlite', 'scipy', 'numpy'} & set(sys.modules)))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == loaded
