"""The compiled backend. Arrays of a call are of one dtype; see microgpt_fast_kernels.h."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..config import GPTConfig
from ..parameters import Parameter

_Real: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
_Int32: TypeAlias = NDArray[np.int32]
_Int64: TypeAlias = NDArray[np.int64]
_Float64: TypeAlias = NDArray[np.float64]

HAS_EXACT: bool
HAS_MIXED: bool
ISA_VARIABLE: str
abi_version: int
c_api: Any
__pyx_capi__: dict[str, Any]

def compiled_isas() -> list[str]: ...
def isas() -> list[str]: ...
def cpu_features() -> list[str]: ...
def active_isa() -> str: ...
def use_isa(name: str) -> None: ...
def isa_reason() -> str: ...
def measure_peak(dtype: DTypeLike, isa: str | None = None, seconds: float = 0.05) -> float: ...
def measure_bandwidth(size: int, seconds: float = 0.05) -> float: ...
def path_of(config: GPTConfig, numerics: str = "fast", dtype: DTypeLike | None = None) -> str | None: ...
def parameter_table(config: GPTConfig) -> list[Parameter]: ...
def kernel_addresses() -> dict[str, int]: ...
def embedding_forward(
    x: _Real,
    tokens: _Int32,
    positions: _Int32,
    wte: _Real,
    wpe: _Real,
    N: int,
    C: int,
    V: int,
    T: int,
) -> int: ...
def embedding_backward(
    dwte: _Real,
    dwpe: _Real,
    dx: _Real,
    tokens: _Int32,
    positions: _Int32,
    N: int,
    C: int,
    V: int,
    T: int,
) -> int: ...
def rmsnorm_forward(
    y: _Real,
    rstd: _Real,
    x: _Real,
    gain: _Real | None,
    N: int,
    C: int,
    eps: float,
) -> None: ...
def rmsnorm_backward(
    dx: _Real,
    dgain: _Real | None,
    dy: _Real,
    x: _Real,
    gain: _Real | None,
    rstd: _Real,
    N: int,
    C: int,
    accumulate_dx: int,
) -> None: ...
def linear_forward(y: _Real, x: _Real, w: _Real, N: int, C: int, O: int) -> None: ...
def linear_backward(
    dx: _Real | None,
    dw: _Real | None,
    dy: _Real,
    x: _Real,
    w: _Real,
    N: int,
    C: int,
    O: int,
    accumulate_dx: int,
) -> None: ...
def attention_forward(
    o: _Real,
    lse: _Real,
    q: _Real,
    k: _Real,
    v: _Real,
    ld_o: int,
    ld_qkv: int,
    cu_seqlens: _Int32,
    B: int,
    H: int,
    D: int,
    scale: float,
    slopes: _Real | None,
) -> None: ...
def attention_backward(
    dq: _Real,
    dk: _Real,
    dv: _Real,
    delta: _Real,
    d_o: _Real,
    o: _Real,
    lse: _Real,
    q: _Real,
    k: _Real,
    v: _Real,
    ld_o: int,
    ld_qkv: int,
    cu_seqlens: _Int32,
    B: int,
    H: int,
    D: int,
    scale: float,
    slopes: _Real | None,
) -> None: ...
def attention_decode(
    o: _Real,
    q: _Real,
    k_cache: _Real,
    v_cache: _Real,
    lengths: _Int32,
    B: int,
    T_max: int,
    H: int,
    D: int,
    scale: float,
    slopes: _Real | None,
) -> None: ...
def rope_forward(y: _Real, x: _Real, positions: _Int32, N: int, H: int, D: int, base: float) -> None: ...
def rope_backward(dx: _Real, dy: _Real, positions: _Int32, N: int, H: int, D: int, base: float) -> None: ...
def mlp_forward(
    y: _Real,
    h: _Real,
    x: _Real,
    w1: _Real,
    w2: _Real,
    N: int,
    C: int,
    F: int,
    activation: int,
) -> None: ...
def mlp_backward(
    dx: _Real,
    dw1: _Real,
    dw2: _Real,
    dh: _Real,
    dy: _Real,
    h: _Real,
    x: _Real,
    w1: _Real,
    w2: _Real,
    N: int,
    C: int,
    F: int,
    activation: int,
) -> None: ...
def cross_entropy_forward(
    losses: _Real,
    lse: _Real,
    logits: _Real,
    targets: _Int32,
    N: int,
    V: int,
) -> int: ...
def cross_entropy_backward(
    dlogits: _Real,
    dlosses: _Real,
    lse: _Real,
    logits: _Real,
    targets: _Int32,
    N: int,
    V: int,
) -> int: ...
def adamw_step(
    p: _Real,
    m: _Real,
    v: _Real,
    g: _Real,
    n: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
) -> None: ...
def gemm_nn(
    c: _Real,
    a: _Real,
    b: _Real,
    M: int,
    N: int,
    K: int,
    ld_c: int,
    ld_a: int,
    ld_b: int,
    accumulate: int,
) -> None: ...
def gemm_nt(
    c: _Real,
    a: _Real,
    b: _Real,
    M: int,
    N: int,
    K: int,
    ld_c: int,
    ld_a: int,
    ld_b: int,
    accumulate: int,
) -> None: ...
def gemm_tn(
    c: _Real,
    a: _Real,
    b: _Real,
    M: int,
    N: int,
    K: int,
    ld_c: int,
    ld_a: int,
    ld_b: int,
    accumulate: int,
) -> None: ...

class Engine:
    dtype: np.dtype[Any]
    numerics: str
    threads: int
    isa: str
    path: str
    def __init__(
        self, config: GPTConfig, dtype: DTypeLike, numerics: str = "fast", threads: int = 1
    ) -> None: ...
    def train_steps(
        self,
        losses: _Float64,
        params: _Real,
        m: _Real,
        v: _Real,
        tokens: _Int32,
        starts: _Int64,
        lengths: _Int32,
        batch_size: int,
        lr: _Float64,
        adam: Sequence[float],
        first_step: int,
    ) -> None: ...
    def forward(
        self, params: _Real, tokens: _Int32, starts: _Int64, lengths: _Int32, logits: _Real | None = None
    ) -> _Float64: ...
    def backward(
        self, grads: _Real, params: _Real, tokens: _Int32, starts: _Int64, lengths: _Int32
    ) -> _Float64: ...
    def update(
        self,
        params: _Real,
        m: _Real,
        v: _Real,
        grads: _Real,
        lr: float,
        adam: Sequence[float],
        step: int,
        divisor: float = 1.0,
        max_norm: float = 0.0,
    ) -> float: ...
    def decoder(self, params: _Real) -> Decoder: ...
    def streams(self, params: _Real, size: int) -> Streams: ...

class Decoder:
    def __init__(self, engine: Engine, params: _Real) -> None: ...
    def step(self, token: int, position: int) -> _Real: ...
    def generate(self, random: Random, bos: int, temperature: float) -> _Int32: ...

class Streams:
    def __init__(self, engine: Engine, params: _Real, size: int) -> None: ...
    def step(self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]) -> _Real: ...
    def draw(
        self,
        slots: Sequence[int],
        tokens: Sequence[int],
        positions: Sequence[int],
        randoms: Sequence[Random | None],
        temperature: float,
    ) -> _Int32: ...

class QuickCall:
    def __init__(
        self,
        outputs: Sequence[Any],
        inputs: Sequence[Any],
        order: Sequence[str],
        function: Callable[..., Any],
    ) -> None: ...
    def __call__(
        self,
        inputs: dict[str, Any],
        out: Any,
        sizes: Any,
        without: Any,
        added: Any,
        constants: dict[str, Any],
    ) -> Any: ...

@final
class Random:
    def __init__(self, seed: int) -> None: ...
    def random(self) -> float: ...
    def permutation(self, n: int) -> _Int64: ...
    def normal(self, out: _Float64, std: float) -> None: ...
    def choices(self, weights: _Float64) -> int: ...
    def getstate(self) -> tuple[int, tuple[int, ...], float | None]: ...
    def setstate(self, state: tuple[int, tuple[int, ...], float | None]) -> None: ...
