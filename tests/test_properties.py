"""Every kernel of every backend is its twin at shapes nobody chose: 1, primes, long rows, nothing at all."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_kernels import DTYPES, assert_close, in_float64, label

from microgpt_fast.backends import numpy_backend as twin
from microgpt_fast.checking.cases import CASES, RELU, RELU2

pytestmark = pytest.mark.slow

WIDTHS = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 128, 131, 257, 509, 1031]))
ROWS = st.one_of(st.integers(0, 20), st.sampled_from([31, 37, 64, 67]))
FLAG = st.sampled_from([0, 1])
LENGTHS = st.lists(st.one_of(st.integers(0, 9), st.sampled_from([16, 17, 33, 64, 65, 131])), max_size=4).map(
    tuple
)
HEADS = dict(H=st.integers(1, 3), D=st.one_of(st.integers(1, 20), st.sampled_from([64, 67, 131])))
NORM = dict(N=ROWS, C=WIDTHS, gain=st.booleans())
CROSS_ENTROPY = dict(N=ROWS, V=st.one_of(WIDTHS, st.just(5003)))
MLP = dict(N=ROWS, C=WIDTHS, F=WIDTHS, activation=st.sampled_from([RELU, RELU2]))
GEMM = dict(M=ROWS, N=WIDTHS, K=st.one_of(st.just(0), WIDTHS), pad=st.integers(0, 3), accumulate=FLAG)
EMBEDDING = dict(N=ROWS, C=WIDTHS, V=WIDTHS, T=WIDTHS)
ATTENTION = dict(lengths=LENGTHS, **HEADS, pad=st.integers(0, 3), alibi=st.booleans())
ROPE = dict(N=ROWS, H=st.integers(1, 3), D=st.integers(1, 70).map(lambda half: 2 * half))
SIZES = {
    "embedding_forward": EMBEDDING,
    "embedding_backward": EMBEDDING,
    "rmsnorm_forward": NORM,
    "rmsnorm_backward": dict(**NORM, accumulate_dx=FLAG),
    "linear_forward": dict(N=ROWS, C=WIDTHS, O=WIDTHS),
    "linear_backward": dict(N=ROWS, C=WIDTHS, O=WIDTHS, accumulate_dx=FLAG, with_dx=st.booleans()),
    "attention_forward": ATTENTION,
    "attention_backward": ATTENTION,
    "attention_decode": dict(
        lengths=st.lists(st.integers(1, 131), max_size=3).map(tuple),
        **HEADS,
        T_max=st.integers(131, 140),
        alibi=st.booleans(),
    ),
    "rope_forward": ROPE,
    "rope_backward": ROPE,
    "mlp_forward": MLP,
    "mlp_backward": MLP,
    "cross_entropy_forward": CROSS_ENTROPY,
    "cross_entropy_backward": CROSS_ENTROPY,
    "adamw_step": dict(n=WIDTHS, step=st.integers(1, 10**7), weight_decay=st.sampled_from([0.0, 0.1])),
    "gemm_nn": GEMM,
    "gemm_nt": GEMM,
    "gemm_tn": GEMM,
}


def longest_sum(size):
    """No sum of the kernel has more terms than this, in round figures."""
    lengths = [value for value in size.values() if isinstance(value, int)]
    return max([*lengths, sum(size.get("lengths", ())), 1])


@pytest.mark.parametrize("dtype", DTYPES, ids=label)
@pytest.mark.parametrize("kernel", SIZES)
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_equals_the_twin_at_any_shape(backend, kernel, dtype, data):
    if backend is twin and dtype == np.float64:
        pytest.skip("the twin itself")
    case = CASES[kernel]
    size = {name: data.draw(values, label=name) for name, values in SIZES[kernel].items()}
    seed = data.draw(st.integers(0, 999), label="seed")
    arguments, wanted = case.arguments(dtype, seed, **size), in_float64(case.arguments(dtype, seed, **size))
    assert case.run(backend, arguments) == case.run(twin, wanted)
    bound = case.bound * max(1, longest_sum(size) / 131) ** 0.5
    for name in case.outputs:
        if arguments[name] is not None and arguments[name].size:
            assert_close(arguments[name], wanted[name], dtype, bound, name, case.scale(name, wanted))


def test_every_kernel_is_here():
    assert SIZES.keys() == CASES.keys()
