"""The processor's vectors as types of Numba: Vec, of lanes, and Pointer, of an element's address."""

import llvmlite.binding
from llvmlite import ir
from numba.core import config, types
from numba.extending import models, register_model


def _cpu_features():
    """Names of the features that Numba compiles for."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    features = llvmlite.binding.get_host_cpu_features()
    return {name for name in features if features[name] and (config.ENABLE_AVX or not name.startswith("avx"))}


_FEATURES = _cpu_features()
VECTOR_BYTES = 64 if "avx512f" in _FEATURES else 32 if "avx2" in _FEATURES else 16
VECTOR_REGISTERS = 32 if VECTOR_BYTES == 64 or "neon" in _FEATURES else 16
X86 = llvmlite.binding.get_process_triple().startswith(("x86_64", "i686", "amd64"))


class Vec(types.Type):
    """The Numba type of `n` lanes of `dtype`: float32, float64, or boolean for the result of a comparison."""

    def __init__(self, dtype, n):
        self.dtype, self.n = dtype, n
        super().__init__(name=f"Vec({dtype}, {n})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, vec):
        lane = ir.IntType(1) if vec.dtype == types.boolean else manager[vec.dtype].get_value_type()
        super().__init__(manager, vec, ir.VectorType(lane, vec.n))


class Pointer(types.CPointer):
    """The Numba type of an element's address: p + i is the address i elements on, p[i] that element."""

    def __init__(self, dtype):
        super().__init__(dtype)
        self.name = f"Pointer({dtype})"


register_model(Pointer)(models.PointerModel)


def native(dtype):
    """How many lanes of dtype a vector of the processor has."""
    return VECTOR_BYTES * 8 // dtype.bitwidth
