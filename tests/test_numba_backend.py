"""What is particular to the Numba backend; that it is right, test_kernels.py and test_engine.py show."""

import inspect
import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

numba = pytest.importorskip("numba")

import microgpt_fast  # noqa: E402
from microgpt_fast.backends import numba_activations, numba_backend, numba_narrow, numba_simd  # noqa: E402
from microgpt_fast.backends import numpy_backend as twin  # noqa: E402
from microgpt_fast.checking.cases import CASES  # noqa: E402
from microgpt_fast.config import ACTIVATIONS, GPTConfig  # noqa: E402

pytestmark = pytest.mark.slow

SOURCE = Path(microgpt_fast.__file__).parent.parent


def python(program, *arguments, **changes):
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **changes}
    environment = {name: text for name, text in environment.items() if text is not None}
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout, run.stderr


def test_the_package_alone_does_not_import_numba():
    out, _ = python("import sys, microgpt_fast; microgpt_fast.GPT; print('numba' in sys.modules)")
    assert out == "False\n"


WITHOUT_COMPILED = """
import sys
sys.modules["microgpt_fast.backends.cython_backend"] = None
from microgpt_fast import backends
"""


def test_numba_stands_in_for_the_compiled_backend():
    program = WITHOUT_COMPILED + "print(backends.name_of(backends.load()))"
    out, error = python(program)
    assert out == "numba\n"
    assert "using the slower numba backend" in error


@pytest.mark.parametrize("broken", ["raise ImportError('no llvmlite')", "raise AttributeError('moved')"])
def test_a_broken_numba_does_not_break_the_others(tmp_path, broken):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(broken)
    path = os.pathsep.join([str(tmp_path), str(SOURCE)])
    program = WITHOUT_COMPILED + "print(backends.name_of(backends.load())); print(backends.describe())"
    out, error = python(program, PYTHONPATH=path)
    assert out.startswith("numpy\n") and broken.split("'")[1] in out
    assert "using the slower numpy backend" in error and broken.split("'")[1] in error


DIRECTORY = "from microgpt_fast.backends import numba_backend, numba_compile; print(numba_compile.DIRECTORY)"


def test_compiled_functions_are_kept_in_a_folder_named_by_the_sources(tmp_path):
    call = "numba_backend.adamw_step(*np.ones((4, 1)), 1, .1, .9, .9, 1., 0., 1)"
    program = f"{DIRECTORY}; import numpy as np; {call}"
    out, error = python(program, NUMBA_CACHE_DIR=str(tmp_path / "chosen"))
    folder = Path(out.strip())
    assert folder.parent == tmp_path / "chosen" / "microgpt_fast"
    [line] = error.splitlines()
    assert line.startswith("microgpt-fast: Numba compiles") and str(folder.parent) in line
    [index] = folder.rglob("*.nbi")
    assert "adamw_step" in index.name and "microgpt_fast" in str(index)
    changed = index.stat().st_mtime_ns
    _, error = python(program, NUMBA_CACHE_DIR=str(tmp_path / "chosen"))
    assert error == ""
    assert index.stat().st_mtime_ns == changed  # found, not compiled again

    out, _ = python(DIRECTORY, NUMBA_CACHE_DIR=None, XDG_CACHE_HOME=str(tmp_path / "user"))
    assert Path(out.strip()) == tmp_path / "user" / "microgpt_fast" / folder.name


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_no_folder_that_others_can_write_to_is_trusted(tmp_path):
    (tmp_path / "open" / "microgpt_fast").mkdir(parents=True)
    (tmp_path / "open" / "microgpt_fast").chmod(0o777)
    (tmp_path / "file").touch()
    no_folder = str(tmp_path / "file" / "no folder")
    settings = dict(NUMBA_CACHE_DIR=str(tmp_path / "open"), XDG_CACHE_HOME=no_folder)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    out, _ = python(DIRECTORY, **settings, TMPDIR=str(temporary))
    assert Path(out.strip()).is_relative_to(temporary)
    (temporary / f"cache-{os.getuid()}" / "microgpt_fast").chmod(0o777)
    out, _ = python(DIRECTORY, **settings, TMPDIR=str(temporary))
    assert out == "None\n"


def test_importing_leaves_numbas_settings_alone():
    program = "import numba.core.config as c; before = c.CACHE_DIR; "
    program += "import microgpt_fast.backends.numba_backend; print(c.CACHE_DIR == before)"
    assert python(program)[0] == "True\n"


@numba.njit
def normalised_twice(y, rstd, x, N, C):
    for _ in range(2):
        numba_backend.rmsnorm_forward(y, rstd, x, None, N, C, 1e-5)
        x[:] = y
    return numba_backend.cross_entropy_forward(rstd, rstd, y, np.zeros(N, np.int32), N, C)


def test_kernels_can_be_called_from_jitted_code():
    x = np.random.default_rng(0).standard_normal((5, 20))
    wanted = x.copy()
    for _ in range(2):
        wanted /= np.sqrt((wanted**2).mean(axis=1, keepdims=True) + 1e-5)
    assert normalised_twice(np.empty_like(x), np.empty(5), x, 5, 20) == -1
    np.testing.assert_allclose(x, wanted, rtol=1e-14)


OWN_CODE = """
import numba, numpy as np
from microgpt_fast.backends.numba_backend import gemm_nt

@numba.njit(cache=True)
def gram(c, x):
    return gemm_nt(c, x, x, x.shape[0], x.shape[0], x.shape[1], c.shape[0], x.shape[1], x.shape[1], 0)

x = np.arange(6.0).reshape(2, 3)
c = np.empty((2, 2))
gram(c, x)
print(np.array_equal(c, x @ x.T), sum(gram.stats.cache_hits.values()))
"""


def test_own_cached_code_works_in_a_second_process(tmp_path):
    (tmp_path / "own.py").write_text(OWN_CODE)
    program = "import runpy, sys; runpy.run_path(sys.argv[1])"
    for hits in (0, 1):
        out, _ = python(program, str(tmp_path / "own.py"), NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        assert out == f"True {hits}\n"


def test_arrays_of_any_strides_and_read_only_ones_share_one_compiled_version():
    rows = np.arange(40.0).reshape(5, 8)
    for x in (rows.copy(), rows[:, :6]):
        for read_only in (False, True):
            x.setflags(write=not read_only)
            y = np.full((5, x.shape[1]), np.nan)
            identity = np.eye(x.shape[1])
            for _ in range(2):
                numba_backend.gemm_nn(y, x, identity, 5, x.shape[1], x.shape[1], x.shape[1], 8, x.shape[1], 0)
                assert np.array_equal(y, x)
    assert sum(types[1].dtype == numba.float64 for types in numba_backend.gemm_nn.overloads) == 1


def test_the_gil_is_released():
    for kernel in [*CASES, "gpt_forward", "gpt_backward", "gpt_train_steps", "gpt_decode"]:
        assert getattr(numba_backend, kernel).targetoptions["nogil"], kernel
    assert numba_narrow.train_steps(GPTConfig(27)).targetoptions["nogil"]


@pytest.mark.parametrize("kernel", CASES)
def test_every_kernel_documents_its_arguments(kernel):
    function = getattr(numba_backend, kernel)
    text = pydoc.render_doc(function, renderer=pydoc.plaintext)
    parameters = text.partition("Parameters\n")[2]
    documented = re.findall(r"^    ((?:\w+, )*\w+) : (.+)$", parameters, re.MULTILINE)
    names = [name for names, _ in documented for name in names.split(", ")]
    assert names == list(inspect.signature(function.py_func).parameters)
    assert ("Returns" in text) == kernel.startswith(("embedding", "cross_entropy"))


def test_what_a_kernels_documentation_says():
    text = inspect.getdoc(numba_backend.linear_backward)
    assert "dx : array [N, C] or None\n    Overwritten, or added to where `accumulate_dx` is not 0." in text
    assert "dw : array [O, C] or None\n    Added to." in text and "\nN, C, O : int\n" in text
    text = inspect.getdoc(numba_backend.attention_decode)
    assert "q : array [B, H, D]\nk_cache, v_cache : array [B, T_max, H, D]\nlengths : int32 array [B]" in text
    assert "slopes : array [H] or None" in text


def test_codes_of_activations_are_their_places_in_config():
    for known in (numba_activations.NAMES, twin.ACTIVATIONS):
        assert list(known)[: len(ACTIVATIONS)] == list(ACTIVATIONS)


def test_read_only_parameters_and_what_an_engine_refuses():
    config = GPTConfig(7, n_embd=8, n_head=2, block_size=4)
    engine = numba_backend.Engine(config, np.float64)
    params = np.random.default_rng(0).standard_normal(config.num_params)
    batch = np.arange(6, dtype=np.int32), np.array([0, 1]), np.array([4, 3], np.int32)
    wanted = twin.Engine(config, np.float64).forward(params, *batch)
    params.setflags(write=False)
    np.testing.assert_allclose(engine.forward(params, *batch), wanted, rtol=1e-12)
    assert len(engine.forward(params, batch[0], batch[1][:0], batch[2][:0])) == 0
    with pytest.raises(TypeError, match="params must be float64, not float32"):
        engine.forward(params.astype(np.float32), *batch)
    with pytest.raises(ValueError, match="params must be contiguous"):
        engine.forward(params[:-1], *batch)
    with pytest.raises(ValueError, match="grads must be contiguous"):
        engine.backward(np.zeros(2 * len(params))[::2], params, *batch)
    decoder = engine.decoder(params)
    with pytest.raises(IndexError, match="position 2 is out of turn"):
        decoder.step(0, 2)


EVERY_WIDTH = """
import sys
import numpy as np
from microgpt_fast.backends import numba_backend, numba_simd, numpy_backend
from microgpt_fast.checking.cases import CASES

dtype = np.dtype(sys.argv[1])
error = 1e-12 if dtype == np.float64 else 1e-5
for kernel in ("linear_backward", "attention_forward", "attention_backward", "mlp_forward",
               "cross_entropy_forward", "adamw_step"):
    case = CASES[kernel]
    for size in case.sizes[1:]:
        if size.get("pad") or not (size.get("with_dx", True) and size.get("with_dw", True)):
            continue
        got, wanted = case.arguments(dtype, **size), case.arguments(dtype, **size)
        case.run(numba_backend, got)
        case.run(numpy_backend, wanted)
        for name in case.outputs:
            atol = error * abs(wanted[name]).max()
            np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=atol, err_msg=name)
print(numba_simd.VECTOR_BYTES)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not numba_simd.X86, reason="needs an x86-64 processor")
@pytest.mark.parametrize(
    ("features", "dtype", "bytes_wide"),
    [("", "float64", 16),
     pytest.param("+avx,+avx2,+fma", "float32", 32,
                  marks=pytest.mark.skipif(numba_simd.VECTOR_BYTES < 32, reason="needs AVX2"))],
)  # fmt: skip
def test_narrower_vectors_compute_the_same(features, dtype, bytes_wide):
    settings = dict(NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=features)
    assert python(EVERY_WIDTH, dtype, **settings)[0] == f"{bytes_wide}\n"
