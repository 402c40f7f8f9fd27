"""ops at the edges of what they take: nothing at all, empty lists, masks, numbers that are not whole."""

from itertools import product

import numpy as np
import pytest

from microgpt_fast import GPTConfig, ops

SHAPES = {
    "gemm_nn": lambda M, N, K: ((M, K), (K, N)),
    "gemm_nt": lambda M, N, K: ((M, K), (N, K)),
    "gemm_tn": lambda M, N, K: ((K, M), (K, N)),
}


def contiguous(shape):
    return np.ones(shape)


def sliced(shape):
    return np.ones((2 * shape[0], shape[1] + 2))[::2, : shape[1]]


@pytest.mark.parametrize("layout", [contiguous, sliced])
@pytest.mark.parametrize("kernel", SHAPES)
def test_products_of_empty_matrices(backend, kernel, layout):
    for sizes in product((0, 1, 3), repeat=3):
        if 0 in sizes:
            a, b = map(layout, SHAPES[kernel](*sizes))
            c = getattr(ops, kernel)(a, b, backend=backend)
            assert c.shape == sizes[:2] and not c.any()
            out = np.full(sizes[:2], 5.0)
            getattr(ops, kernel)(a, b, accumulate=True, out=out, backend=backend)
            assert (out == 5).all()


def test_steps_are_whole_numbers():
    p, m, v, g = (np.ones(3) for _ in range(4))
    for step in (1.9, 2.0, np.float64(2), "2", None):
        with pytest.raises(TypeError):
            ops.adamw_step(p, m, v, g, step=step, lr=0.1)
    assert (p == 1).all() and (m == 1).all()
    ops.adamw_step(p, m, v, g, step=np.int64(2), lr=0.1)
    assert (p != 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_empty_lists(backend, dtype):
    logits, table = np.ones((0, 5), dtype), np.ones((4, 3), dtype)
    losses, lse = ops.cross_entropy_forward(logits, [], backend=backend)
    assert losses.shape == lse.shape == (0,) and losses.dtype == dtype
    assert ops.cross_entropy_backward([], lse, logits, [], backend=backend).shape == (0, 5)
    x = ops.embedding_forward([], [], table, table, backend=backend)
    assert x.shape == (0, 3) and x.dtype == dtype
    config = GPTConfig(4, n_embd=4, n_head=2, block_size=4)
    with pytest.raises(ValueError, match="documents"):
        params = np.zeros(config.num_params, dtype)
        ops.gpt_train_steps(params, params.copy(), params.copy(), [], [], [], config, lr=[0.1])
    with pytest.raises(TypeError, match="targets must be of an integer dtype"):
        ops.cross_entropy_forward(logits, np.ones(0), backend=backend)


def test_masks_are_not_ignored():
    masked = np.ma.masked_array(np.ones((2, 3)), mask=[[0, 1, 0], [0, 0, 0]])
    x = np.ones((2, 3))
    with pytest.raises(TypeError, match="w is a masked array"):
        ops.linear_forward(x, masked)
    with pytest.raises(TypeError, match="targets is a masked array"):
        ops.cross_entropy_forward(x, np.ma.masked_array([0, 1]))
    with pytest.raises(TypeError, match="out for y is a masked array"):
        ops.linear_forward(x, x, out=np.ma.zeros((2, 2)))
    with pytest.raises(TypeError, match="cu_seqlens is a masked array"):
        ops.attention_forward(*[np.ones((2, 1, 3))] * 3, cu_seqlens=np.ma.masked_array([0, 2]))
    with pytest.raises(TypeError, match="g is a masked array"):
        ops.adamw_step(x, x.copy(), x.copy(), masked, step=1, lr=0.1)
