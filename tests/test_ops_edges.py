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


def test_numbers_are_numbers(backend):
    x = np.ones((2, 3))
    for bad in ("1", b"1", [], None, {}, 1j):
        with pytest.raises(TypeError, match="eps must be a number"):
            ops.rmsnorm_forward(x, eps=bad, backend=backend)
        with pytest.raises(TypeError, match="lr must be a number"):
            ops.adamw_step(x.copy(), x.copy(), x.copy(), x, step=1, lr=bad, backend=backend)
    with pytest.raises(ValueError, match="eps is too large"):
        ops.rmsnorm_forward(x, eps=10**400, backend=backend)
    for bad in (1, 1.0, -0.1, 1e300, np.nan):
        with pytest.raises(ValueError, match="beta2 must be at least 0 and below 1"):
            ops.adamw_step(x.copy(), x.copy(), x.copy(), x, step=1, lr=0.1, beta2=bad, backend=backend)
    with pytest.raises(ValueError, match="step must be at least 1 and at most"):
        ops.adamw_step(x.copy(), x.copy(), x.copy(), x, step=2**63, lr=0.1, backend=backend)
    for bad in (-1, 2**63):
        with pytest.raises(ValueError, match="vocab_size must be at least 0"):
            ops.embedding_backward(x, [0, 0], [0, 1], vocab_size=bad, block_size=4, backend=backend)
    for flag in (np.inf, 2**80, "yes"):  # whatever is true
        c = ops.gemm_nn(x, x.T, accumulate=flag, out=np.ones((2, 2)), backend=backend)
        assert (c == 4).all()


def test_an_output_of_one_row_must_be_contiguous_too(backend):
    arrays = (
        [np.ones((1, 2, 3)) for _ in range(2)] + [np.ones((1, 2))] + [np.ones((1, 2, 3)) for _ in range(3)]
    )
    wide, fine = np.zeros((1, 2, 6)), [np.zeros((1, 2, 3)) for _ in range(2)]
    with pytest.raises(ValueError, match="out for dq, dk and dv must be contiguous"):
        ops.attention_backward(*arrays, out=(wide[..., ::2], *fine, np.zeros((1, 2))), backend=backend)
    assert not wide.any()


def test_no_output_overlaps_what_says_where_to_write(backend):
    """cu_seqlens, tokens, starts and lengths are checked once: a kernel that overwrites them would run wild."""
    memory = np.zeros(64)
    memory[:1].view(np.int32)[:] = [0, 2]
    q, o = np.ones((2, 1, 3)), memory[:6].reshape(2, 1, 3)
    cu_seqlens, lse = memory[:1].view(np.int32), np.ones((2, 1))
    with pytest.raises(ValueError, match="out for o .* overlaps cu_seqlens"):
        ops.attention_forward(q, q, q, cu_seqlens, out=(o, None), backend=backend)
    with pytest.raises(ValueError, match="out for dk .* overlaps cu_seqlens"):
        outs = (np.ones((2, 1, 3)), o, np.ones((2, 1, 3)), None)
        ops.attention_backward(q, q, lse, q, q, q, cu_seqlens, out=outs, backend=backend)

    config = GPTConfig(4, n_embd=4, n_head=2, n_layer=1, block_size=4)
    memory = np.zeros(config.num_params)
    documents = dict(
        tokens=np.array([1, 2, 1], np.int32), starts=np.array([0]), lengths=np.array([2], np.int32)
    )
    for name, array in documents.items():
        inside = memory[:2].view(array.dtype)[: array.size]
        inside[:] = array
        given, params = {**documents, name: inside}, np.ones(config.num_params)
        with pytest.raises(ValueError, match=f"out for grads .* overlaps {name}"):
            ops.gpt_backward(params, config=config, out=memory, **given, backend=backend)
        with pytest.raises(ValueError, match=f"out for m .* overlaps {name}"):
            ops.gpt_train_steps(
                params, memory, params.copy(), config=config, lr=[0.1], **given, backend=backend
            )
        with pytest.raises(ValueError, match=f"out for logits .* overlaps {name}"):
            logits = memory[:8].reshape(2, 4)
            ops.gpt_forward(params, config=config, logits=logits, **given, backend=backend)


def test_nothing_of_no_width(backend):
    empty = np.ones((0, 0))
    assert ops.cross_entropy_backward([], [], empty, [], backend=backend).shape == (0, 0)
    assert ops.cross_entropy_forward(empty, [], backend=backend)[0].shape == (0,)


def test_an_out_that_is_no_table_is_named(backend):
    for bad, error in ((3, TypeError), ([[1.0]], TypeError), (np.ones(4), ValueError)):
        for tokens in ([0], [2**40]):
            with pytest.raises(error, match="out for dwte"):
                out = (bad, np.ones((2, 3)))
                ops.embedding_backward(np.ones((1, 3)), tokens, [0], out=out, backend=backend)


def test_documents_that_begin_beyond_all_memory(backend):
    config = GPTConfig(4, n_embd=4, n_head=2, n_layer=1, block_size=4)
    params, tokens = np.ones(config.num_params), np.array([1, 2, 1], np.int32)
    for start in (2**63 - 1, 2**63 - 2, 2**62, 2, -1, -(2**63)):
        with pytest.raises(IndexError, match="document 1"):
            ops.gpt_forward(params, tokens, [0, start], [2, 1], config, backend=backend)
