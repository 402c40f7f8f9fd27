"""Arrays of other libraries in ops: read and written where they lie, results of their kind, others refused."""

import subprocess
import sys

import numpy as np
import pytest

from microgpt_fast import GPTConfig, ops

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((5, 4)), RNG.standard_normal((3, 4))


class Interface:
    """An array that offers `__array_interface__` alone."""

    def __init__(self, array):
        self.array = array

    @property
    def __array_interface__(self):
        return self.array.__array_interface__


class Capsule:
    """An array that offers DLPack alone, on the device it is told to name."""

    def __init__(self, array, device=(1, 0)):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jax():
    return pytest.importorskip("jax")


@pytest.mark.parametrize("wrap", [Interface, Capsule])
def test_arrays_that_offer_a_protocol(backend, wrap):
    y = ops.linear_forward(wrap(X), wrap(W), backend=backend)
    assert type(y) is np.ndarray and np.array_equal(y, ops.linear_forward(X, W, backend=backend))
    out = wrap(np.full((5, 3), np.nan))
    assert ops.linear_forward(X, wrap(W), out=out, backend=backend) is out
    assert np.array_equal(out.array, y)
    targets = wrap(np.array([2, 0, 1, 1, 2]))
    assert np.array_equal(
        ops.cross_entropy_forward(y, targets, backend=backend)[0],
        ops.cross_entropy_forward(y, targets.array, backend=backend)[0],
    )


def test_other_devices_are_refused():
    with pytest.raises(TypeError, match=r"^w is on device 2:1: kernels here read the CPU's memory"):
        ops.linear_forward(X, Capsule(W, (2, 1)))
    with pytest.raises(TypeError, match=r"^out for y is on device 8:0"):
        ops.linear_forward(X, W, out=Capsule(np.zeros((5, 3)), (8, 0)))

    class Gpu:
        __cuda_array_interface__ = {}

    with pytest.raises(TypeError, match="x is in the memory of a GPU"):
        ops.linear_forward(Gpu(), W)


def test_an_out_is_checked_whatever_its_kind():
    frozen = np.zeros((5, 3))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        ops.linear_forward(X, W, out=Interface(frozen))
    with pytest.raises(ValueError, match="overlaps x"):
        ops.linear_forward(X, W, out=Interface(X.reshape(-1)[:15].reshape(5, 3)))
    with pytest.raises(TypeError, match="out for y must be an array that can be written to, not list"):
        ops.linear_forward(X, W, out=[0.0])


def test_torch_tensors(torch, backend):
    x, w = torch.from_numpy(X.copy()), torch.from_numpy(W.copy())
    y = ops.linear_forward(x, w, backend=backend)
    assert isinstance(y, torch.Tensor) and np.array_equal(
        y.numpy(), ops.linear_forward(X, W, backend=backend)
    )
    assert isinstance(ops.linear_forward(X, w, backend=backend), torch.Tensor)
    out = torch.empty(5, 3, dtype=torch.float64)
    assert ops.linear_forward(x, w, out=out, backend=backend) is out and torch.equal(out, y)
    dx, dw = ops.linear_backward(y, x, w, with_dx=False, backend=backend)
    assert dx is None and isinstance(dw, torch.Tensor)
    p, m, v, g = (torch.ones(3, 2) for _ in range(4))
    ops.adamw_step(p, m, v, g, step=1, lr=0.5, backend=backend)
    assert not (p == 1).any()


def test_torch_tensors_that_ops_cannot_take(torch):
    x, w = torch.from_numpy(X.copy()), torch.from_numpy(W.copy())
    with pytest.raises(
        TypeError, match=r"^w requires a gradient, which ops do not record: give w.detach\(\)"
    ):
        ops.linear_forward(x, w.requires_grad_())
    with torch.no_grad():
        assert not ops.linear_forward(x, w).requires_grad
    with pytest.raises(TypeError, match="x is on meta"):
        ops.linear_forward(x.to("meta"), W)
    with pytest.raises(TypeError, match="x must be .*bfloat16"):
        ops.linear_forward(x.bfloat16(), W)
    with pytest.raises(TypeError, match="x must be .*sparse"):
        ops.linear_forward(x.to_sparse(), W)


def test_torch_learns_that_a_tensor_was_written(torch):
    out = torch.ones(5, 3, dtype=torch.float64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    product = scale * out  # saves out
    ops.linear_forward(X, W, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_jax_arrays(jax, backend):
    x, w = jax.numpy.asarray(X, "float32"), jax.numpy.asarray(W, "float32")
    y = ops.linear_forward(x, w, backend=backend)
    assert isinstance(y, jax.Array) and y.dtype == np.float32
    want = ops.linear_forward(np.asarray(x), np.asarray(w), backend=backend)
    assert np.array_equal(np.asarray(y), want)
    out = np.empty((5, 3), np.float32)
    assert ops.linear_forward(x, w, out=out, backend=backend) is out
    with pytest.raises(TypeError, match="out for y is a JAX array, which cannot be written to"):
        ops.linear_forward(x, w, out=y)
    with pytest.raises(TypeError, match=r"x is traced by JAX \(jit, grad, vmap\)"):
        jax.jit(lambda x: ops.linear_forward(x, np.asarray(w)))(x)


def test_two_libraries_are_not_mixed(torch, jax):
    with pytest.raises(TypeError, match="x of torch and w of jax cannot be mixed"):
        ops.linear_forward(torch.ones(5, 4), jax.numpy.ones((3, 4)))


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_the_whole_model(library, request):
    module = request.getfixturevalue(library)
    of_library = module.from_numpy if library == "torch" else module.numpy.asarray
    kind = module.Tensor if library == "torch" else module.Array
    config = GPTConfig(5, n_embd=4, n_head=2, block_size=4)
    params = RNG.standard_normal(config.num_params).astype(np.float32)
    documents = (of_library(np.array([4, 1, 2, 4], np.int32)), [0], [3], config)
    losses, grads = ops.gpt_backward(of_library(params), *documents)
    assert isinstance(losses, kind) and isinstance(grads, kind)
    want = ops.gpt_backward(params, np.array([4, 1, 2, 4]), *documents[1:])
    np.testing.assert_allclose(np.asarray(grads), want[1], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(losses), want[0], rtol=1e-6)
    assert isinstance(ops.gpt_forward(of_library(params), *documents), kind)


def test_neither_library_is_imported_by_us():
    code = (
        "import sys, numpy, microgpt_fast\nfrom microgpt_fast import ops\n"
        "ops.linear_forward(numpy.ones((2, 3)), numpy.ones((4, 3)))\n"
        "print({'torch', 'jax'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
