"""The kernels inside JAX: results and derivatives, traced and not, by compiled handlers and through Python."""

import subprocess
import sys

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import microgpt_fast.jax as fast  # noqa: E402
from microgpt_fast.jax import calls  # noqa: E402

RNG = np.random.default_rng(0)
CU = np.array([0, 3, 3, 7])
TOKENS, POSITIONS = np.array([4, 0, 4, 2, 1, 1, 3]), np.array([0, 1, 2, 0, 1, 2, 3])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["handlers", "callback"])
def way(request, monkeypatch):
    if request.param == "callback":
        monkeypatch.setattr(calls, "has_handlers", lambda: False)
    elif not calls.has_handlers():
        pytest.skip("the package was not built beside jaxlib")


def draw(*shape):
    return RNG.standard_normal(shape)


def plain_rmsnorm(x, gain=1.0):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain


def plain_attention(q, k, v, cu_seqlens=CU):
    s = jnp.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
    document = np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens))
    seen = np.tril(document[:, None] == document)
    return jnp.einsum("hij,jhd->ihd", jax.nn.softmax(jnp.where(seen, s, -jnp.inf)), v)


# name: (our function, the same in plain JAX, the arrays that both take)
FUNCTIONS = {
    "rmsnorm": (fast.rmsnorm, plain_rmsnorm, (draw(7, 5),)),
    "rmsnorm_gain": (fast.rmsnorm, plain_rmsnorm, (draw(2, 3, 5), draw(5))),
    "linear": (fast.linear, lambda x, w: x @ w.T, (draw(2, 3, 5), draw(4, 5))),
    "gemm_nn": (fast.gemm_nn, lambda a, b: a @ b, (draw(3, 5), draw(5, 4))),
    "gemm_nt": (fast.gemm_nt, lambda a, b: a @ b.T, (draw(3, 5), draw(4, 5))),
    "gemm_tn": (fast.gemm_tn, lambda a, b: a.T @ b, (draw(5, 3), draw(5, 4))),
    "mlp": (
        lambda x, w1, w2: fast.mlp(x, w1, w2, "gelu"),
        lambda x, w1, w2: jax.nn.gelu(x @ w1.T, approximate=True) @ w2.T,
        (draw(7, 5), draw(6, 5), draw(5, 6)),
    ),
    "cross_entropy": (
        lambda logits: fast.cross_entropy(logits, TOKENS),
        lambda logits: jax.nn.logsumexp(logits, -1) - logits[np.arange(7), TOKENS],
        (draw(7, 5),),
    ),
    "embedding": (
        lambda wte, wpe: fast.embedding(TOKENS, POSITIONS, wte, wpe),
        lambda wte, wpe: wte[TOKENS] + wpe[POSITIONS],
        (draw(5, 3), draw(4, 3)),
    ),
    "attention": (lambda q, k, v: fast.attention(q, k, v, CU), plain_attention, tuple(draw(3, 7, 2, 3))),
    "attention_batched": (
        fast.attention,
        jax.vmap(lambda q, k, v: plain_attention(q, k, v, np.array([0, 4]))),
        tuple(draw(3, 2, 4, 2, 3)),
    ),
}
EVERY_FUNCTION = pytest.mark.parametrize("name", FUNCTIONS)


def gradients(function, arrays):
    weights = np.random.default_rng(1).standard_normal(jax.eval_shape(function, *arrays).shape)
    return jax.value_and_grad(
        lambda *arrays: (function(*arrays) * weights.astype(arrays[0].dtype)).sum(), tuple(range(len(arrays)))
    )


def assert_same(found, wanted, tolerance=1e-12):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@EVERY_FUNCTION
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_and_gradients_are_plain_jaxs(name, traced, dtype, way):
    ours, plain, arrays = FUNCTIONS[name]
    arrays = tuple(jnp.asarray(array, dtype) for array in arrays)
    function = gradients(ours, arrays)
    tolerance = 1e-12 if dtype == "float64" else 5e-5
    found = (jax.jit(function) if traced else function)(*arrays)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(found))
    assert_same(found, gradients(plain, arrays)(*arrays), tolerance)


@EVERY_FUNCTION
def test_under_vmap(name, way):
    ours, plain, arrays = FUNCTIONS[name]
    batch = tuple(np.stack([array, 2 * array, -array]) for array in arrays)
    assert_same(jax.vmap(ours)(*batch), jax.vmap(plain)(*batch))


def test_gradients_of_gradients_are_refused_or_right(way):
    a, b = draw(3, 5), draw(5, 4)

    def curvature(product):
        return jax.grad(lambda a: (jax.grad(lambda a: (product(a, b) ** 3).sum())(a) ** 2).sum())(a)

    assert_same(curvature(fast.gemm_nn), curvature(lambda a, b: a @ b), 1e-10)
    with pytest.raises(ValueError, match="cannot be differentiated|do not support JVP"):
        jax.grad(lambda x: (jax.grad(lambda x: (fast.rmsnorm(x) ** 3).sum())(x) ** 2).sum())(draw(2, 3))


def test_what_is_refused(way):
    x = np.ones((3, 4))
    with pytest.raises(TypeError, match="x must be float32 or float64, not int"):
        fast.rmsnorm(np.ones((3, 4), int))
    with pytest.raises(TypeError, match="one dtype"):
        fast.linear(x, x.astype(np.float32))
    with pytest.raises(
        ValueError, match=r"linear takes w \[O, C\] with O = 5, C = 4, not the shape \(5, 3\)"
    ):
        fast.linear(x, np.ones((5, 3)))
    with pytest.raises(ValueError, match="one id per row"):
        fast.cross_entropy(x, [0, 1])
    with pytest.raises(TypeError, match="targets must be of an integer dtype"):
        fast.cross_entropy(x, np.ones(3))
    with pytest.raises(ValueError, match="activation must be one of"):
        fast.mlp(x, x, x.T, "tanh")
    with pytest.raises(Exception, match="out of range|not in the vocabulary"):
        jax.block_until_ready(jax.jit(fast.cross_entropy)(x, np.array([0, 4, 1])))
    with pytest.raises(Exception, match="rise from 0 to 3"):
        jax.block_until_ready(jax.jit(fast.attention)(*[np.ones((3, 1, 2))] * 3, np.array([0, 9, 3])))


def test_slopes(way):
    q, k, v = draw(3, 7, 2, 3)
    slopes = np.array([0.5, 0.25])
    o = jax.jit(lambda *arrays: fast.attention(*arrays, CU, slopes=slopes))(q, k, v)
    rows = np.arange(7)
    s = np.einsum("ihd,jhd->hij", q, k) / 3**0.5 - slopes[:, None, None] * (rows[:, None] - rows)
    document = np.repeat(np.arange(3), np.diff(CU))
    s[:, ~np.tril(document[:, None] == document)] = -np.inf
    assert_same(o, np.einsum("hij,jhd->ihd", np.asarray(jax.nn.softmax(s)), v))


def test_the_handlers_follow_the_instruction_set():
    if not calls.has_handlers():
        pytest.skip("the package was not built beside jaxlib")
    from microgpt_fast import backends

    compiled = backends.load("cython")
    previous, x = compiled.active_isa(), draw(5, 37)
    try:
        for isa in compiled.isas():
            compiled.use_isa(isa)
            assert_same(fast.rmsnorm(x), plain_rmsnorm(x))
    finally:
        compiled.use_isa(previous)


def test_without_jax_the_message_says_what_to_install():
    code = "import sys; sys.modules['jax'] = None\nimport microgpt_fast.jax"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "microgpt_fast.jax needs JAX: pip install 'microgpt-fast[jax]'" in run.stderr
