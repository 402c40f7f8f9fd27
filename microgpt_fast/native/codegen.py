"""What the build makes from the kernels' signatures: Cython declarations, and functions over the tables.

setup.py calls `generate`; nothing else in the package does.
"""

from pathlib import Path

from .signatures import read_signatures

BACKENDS = Path(__file__).parents[1] / "backends"
MADE = "# Made by setup.py from include/microgpt_fast_kernels.h.\n"
DTYPES = (("f32", "float"), ("f64", "double"))

TABLE_HEAD = """
from libc.stdint cimport int32_t, int64_t, uint32_t

cdef extern from "microgpt_fast.h" nogil:
    int MGF_ABI_VERSION
    ctypedef struct mgf_config:
        Py_ssize_t n_layer, n_embd, n_head, block_size, vocab_size
        int activation
        int tie_embeddings, position, qk_norm, norm_gain, final_norm, gated, value_embedding, residual, residual_scalars
        Py_ssize_t mlp_hidden, layers_per_block
        double qk_norm_scale, logit_softcap
    ctypedef struct mgf_adam:
        double beta1, beta2, eps, weight_decay
    ctypedef struct mgf_pool:
        pass
    ctypedef struct mgf_random:
        uint32_t state[624]
        int32_t index, has_gauss
        double gauss
"""
API_TAIL = """
    ctypedef struct mgf_api:
        int32_t abi_version
        uint32_t size, table_size
        const char *isa
        const mgf_kernels_f32 *f32
        const mgf_kernels_f64 *f64
        const mgf_exact *exact
        mgf_pool *(*pool_create)(int threads) noexcept nogil
        void (*pool_destroy)(mgf_pool *pool) noexcept nogil
        void (*random_seed)(mgf_random *random, const uint32_t *digits, Py_ssize_t count) noexcept nogil
        const mgf_mixed *mixed
"""


def cython_type(ctype, real):
    return ctype.replace("real", real).replace("ptrdiff_t", "Py_ssize_t")


def _parameters(signature, real):
    return ", ".join(f"{cython_type(a.ctype, real)} {a.name}" for a in signature.arguments)


def _table(name, signatures, real):
    """A table of function pointers as Cython sees it."""
    yield f"    ctypedef struct {name}:"
    for s in signatures:
        yield f"        {cython_type(s.result, real)} (*{s.name})({_parameters(s, real)}) noexcept nogil"


def tables(signatures):
    """cython_tables.pxd: the C structs of microgpt_fast.h."""
    lines = [MADE + TABLE_HEAD.rstrip()]
    for suffix, real in DTYPES:
        lines += _table(f"mgf_kernels_{suffix}", signatures, real)
    lines += _table("mgf_exact", [s for s in signatures if s.is_exact], "double")
    lines += _table("mgf_mixed", [s for s in signatures if s.is_model], "float")
    return "\n".join(lines) + API_TAIL


def declarations(kernels):
    """cython_backend.pxd: the functions that other Cython modules cimport."""
    lines = [MADE, "from libc.stdint cimport int32_t, int64_t", ""]
    for suffix, real in DTYPES:
        for s in kernels:
            result = cython_type(s.result, real)
            lines.append(f"cdef {result} {s.name}_{suffix}({_parameters(s, real)}) noexcept nogil")
    return "\n".join(lines) + "\n"


def concrete_function(s, suffix, real):
    """The function of one kernel and dtype that is called without Python, with the instruction set in use."""
    keyword = "" if s.result == "void" else "return "
    return (
        f"cdef {cython_type(s.result, real)} {s.name}_{suffix}({_parameters(s, real)}) noexcept nogil:\n"
        f"    {keyword}{suffix}.{s.name}({', '.join(a.name for a in s.arguments)})"
    )


def python_function(s):
    """The Python function of one kernel: checks the arrays' dtypes and calls the table of that dtype."""
    names = ", ".join(a.name for a in s.arguments)
    python = ", ".join(
        a.name if a.is_pointer else f"{cython_type(a.ctype, 'double')} {a.name}" for a in s.arguments
    )
    first_real = next(a.name for a in s.arguments if a.base == "real" and a.is_const)  # never NULL
    lines = [f"def {s.name}({python}):", f'    """{s.name}({names}), see microgpt_fast_kernels.h."""']
    lines += [f"    cdef bint single = is_single({first_real})"]
    for a in s.arguments:
        if a.is_pointer:
            kind = "REAL32 if single else REAL64" if a.base == "real" else a.base.upper()
            lines.append(
                f'    cdef void *p_{a.name} = address({a.name}, {kind}, {int(not a.is_const)}, "{a.name}")'
            )
    result = "" if s.result == "void" else "result = "
    if result:
        lines.append(f"    cdef {cython_type(s.result, 'double')} result")
    lines.append("    with nogil:")
    for (suffix, real), condition in zip(DTYPES, ("if single:", "else:")):
        arguments = ", ".join(
            f"<{cython_type(a.ctype, real)}> p_{a.name}" if a.is_pointer else a.name for a in s.arguments
        )
        lines += [f"        {condition}", f"            {result}{suffix}.{s.name}({arguments})"]
    if result:
        lines.append("    return result")
    return "\n".join(lines)


def model_function(s):
    """The function of one gpt_* function, as an engine's tables say: exact, in mixed precision, float32 or float64."""
    arguments = ", ".join(
        f"{cython_type(a.ctype, 'void')} {a.name}"
        if a.base == "real"
        else f"{cython_type(a.ctype, '')} {a.name}"
        for a in s.arguments
    )
    keyword = "" if s.result == "void" else "return "
    lines = [
        f"cdef {cython_type(s.result, 'double')} {s.name}(const engine_tables *t, {arguments}) noexcept nogil:"
    ]
    choices = [("exact", "double")] if s.is_exact else []
    for table, real in [*choices, ("mixed", "float"), ("f32", "float"), ("f64", "double")]:
        passed = ", ".join(
            f"<{cython_type(a.ctype, real)}> {a.name}" if a.base == "real" else a.name for a in s.arguments
        )
        lines += [f"    if t.{table} != NULL:", f"        {keyword}t.{table}.{s.name}({passed})"]
        if not keyword:
            lines.append("        return")
    return "\n".join(lines)


def addresses(kernels):
    """A Python function that tells where the functions of the instruction set in use are."""
    lines = [
        "def kernel_addresses():",
        '    """Addresses by name and dtype, such as "gemm_nn_f32", for the instruction set in use."""',
        "    return {",
    ]
    for suffix, _ in DTYPES:
        lines += [f'        "{s.name}_{suffix}": <size_t> <void *> {suffix}.{s.name},' for s in kernels]
    return "\n".join([*lines, "    }"])


def _write_if_changed(path, text):
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def generate(folder=BACKENDS):
    """Write cython_tables.pxd, cython_backend.pxd and cython_kernels.pxi, those that changed."""
    signatures = read_signatures()
    kernels = [s for s in signatures if not s.is_model]
    functions = [concrete_function(s, suffix, real) for suffix, real in DTYPES for s in kernels]
    functions += [python_function(s) for s in kernels]
    functions.append(addresses(kernels))
    functions += [model_function(s) for s in signatures if s.is_model]
    _write_if_changed(folder / "cython_tables.pxd", tables(signatures))
    _write_if_changed(folder / "cython_backend.pxd", declarations(kernels))
    _write_if_changed(folder / "cython_kernels.pxi", MADE + "\n\n" + "\n\n\n".join(functions) + "\n")
