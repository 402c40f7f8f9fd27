"""The C core without Python: built by a plain compiler, for this machine and, under emulation, for arm64."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from microgpt_fast import backends
from microgpt_fast.config import GPTConfig

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FAST = ["-ffp-contract=fast", "-fno-math-errno"]
MIXED = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
EXACT = ["-ffp-contract=off", "-fno-builtin"]
# The baseline alone, as a user of csrc would build it: (source, flags).
UNITS = [
    *(
        (source, [*FAST, f"-DREAL_BITS={bits}", f"-DMGF_TABLE=mgf_f{bits}_baseline"])
        for source in ("csrc/narrow.c", "csrc/variant.c")
        for bits in (32, 64)
    ),
    ("csrc/mixed.c", [*MIXED, "-DREAL_BITS=32", "-DMGF_MIXED_TABLE=mgf_mixed_baseline"]),
    ("csrc/exact.c", [*EXACT, "-DMGF_EXACT_TABLE=mgf_exact_baseline"]),
    ("csrc/random.c", EXACT),
    ("csrc/threads.c", []),
    ("csrc/dispatch.c", ["-DMGF_ISAS(X)=X(baseline, baseline)"]),
    ("tests/core_check.c", []),
]
# Adam amplifies the rounding of gradients near zero; on another machine exact is relative to that machine's libm.
RTOL = {"f32": 1e-4, "f64": 1e-9, "exact": 1e-9, "mixed": 0}


def build(compiler, folder, extra=()):
    """The program, its units compiled side by side with little optimisation: that takes most of this file's time."""

    def compile_unit(index):
        source, flags = UNITS[index]
        subprocess.run(
            [
                compiler,
                "-std=gnu11",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-Icsrc",
                "-Imicrogpt_fast/include",
                *flags,
                "-c",
                source,
                "-o",
                folder / f"{index}.o",
            ],
            cwd=ROOT,
            check=True,
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_unit, range(len(UNITS))))
    program = folder / "core_check"
    objects = [folder / f"{index}.o" for index in range(len(UNITS))]
    subprocess.run([compiler, *extra, "-o", program, *objects, "-lm", "-lpthread"], check=True)
    return program


def losses_of(command):
    """(configuration, batch, kind) -> losses, from the program's lines."""
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {tuple(line.split()[:8]): np.array(line.split()[8:], float) for line in lines}


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc")
    return losses_of([build(compiler, tmp_path_factory.mktemp("native"))])


def engine_losses(module, key):
    """The same run through the compiled backend; see core_check.c."""
    n_layer, n_embd, n_head, block_size, vocab_size, activation, batch = map(int, key[:7])
    config = GPTConfig(vocab_size, n_layer, n_embd, n_head, block_size, ("relu", "relu2")[activation])
    dtype = np.float32 if key[7] in ("f32", "mixed") else np.float64
    engine = module.Engine(
        config, "bfloat16" if key[7] == "mixed" else dtype, "exact" if key[7] == "exact" else "fast"
    )
    t, i, p = np.arange(4096), np.arange(5 * batch), np.arange(config.num_params)
    params = ((p * 7919 % 1000 - 500) * 2e-4).astype(dtype)
    losses = np.empty(5)
    engine.train_steps(
        losses,
        params,
        np.zeros_like(params),
        np.zeros_like(params),
        ((t * 131 + t // 7) % vocab_size).astype(np.int32),
        i * 37 % 1000,
        (1 + i * 5 % block_size).astype(np.int32),
        batch,
        np.full(5, 1e-4),
        (0.85, 0.99, 1e-8, 0.0),
        1,
    )
    return losses


def test_plain_c_program_equals_the_backend(native):
    try:
        module = backends.load("cython")
    except backends.BackendError as error:
        pytest.skip(str(error))
    assert len(native) == 20
    for key, losses in native.items():
        if key[7] == "exact":
            assert np.array_equal(losses, engine_losses(module, key)), key
        else:
            np.testing.assert_allclose(losses, engine_losses(module, key), rtol=RTOL[key[7]])


def test_arm64_equals_this_machine(native, tmp_path):
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if not (compiler and emulator):
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64")
    there = losses_of([emulator, build(compiler, tmp_path, ["-static"])])
    assert there.keys() == native.keys()
    for key, losses in native.items():
        np.testing.assert_allclose(losses, there[key], rtol=RTOL[key[7]])
