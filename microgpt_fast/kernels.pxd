# For Cython: `from microgpt_fast.kernels cimport rmsnorm_forward_f32`. Every kernel of microgpt_fast_kernels.h is here
# under its name and dtype, `noexcept nogil`, on the instruction set in use.
from microgpt_fast.backends.cython_backend cimport *
