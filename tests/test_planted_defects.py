"""`verify` finds defects planted in the C core, and names the wrong tensors and the first wrong step.

A copy of the package is built, only the baseline instruction set and without optimisation; for each defect
the one unit that it concerns is changed and compiled again.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from test_core_alone import UNITS

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parent.parent
BACKEND = "microgpt_fast/backends/cython_backend"
EXACT, FAST = ["--numerics", "exact"], ["--numerics", "fast", "--n-embd", "12", "--n-head", "3"]
OPTIONS = [
    *FAST,
    *"--n-head 2 --position rope --qk-norm --norm-gain --final-norm --mlp gated --value-embedding".split(),
    *"--logit-softcap 5 --tie-embeddings".split(),
]
SCALARS = [*FAST, "--residual-scalars"]
MIXTURES = [*FAST, "--residual", "attention_block", "--n-layer", "2"]
EMBEDDINGS = ["wpe", "wte"]
QKV = ["layer0.attn_wv", "layer0.attn_wk", "layer0.attn_wq"]
BLOCK = ["layer0.mlp_fc2", "layer0.mlp_fc1", "layer0.attn_wo", *QKV]
ALL = ["lm_head", *BLOCK, *EMBEDDINGS]
TIED = ["wte", "embd_norm"]
BELOW_GATE = ["layer0.attn_ve", "layer0.mlp_fc1", "layer0.attn_wo", *QKV, *TIED]
SECOND = [name.replace("layer0", "layer1") for name in BLOCK]

# name: (options, {text: its replacement}, first wrong step, what is wrong first, tensors that must be named)
DEFECTS = {
    "keys get a gradient from one query only": (
        EXACT,
        {"g->rows + s * T + s, T, q, T, g->D, columns, n - s);": "g->rows + s * T + s, T, q, T, g->D, columns, 1);"},
        1, "gradient", ["layer0.attn_wk", *EMBEDDINGS],
    ),
    "the second half of rmsnorm's x * x is forgotten": (
        EXACT,
        {") + twice) + twice);": ") + twice));"},
        1, "gradient", ["layer0.attn_wo", *QKV, *EMBEDDINGS],
    ),
    "the halves of rmsnorm's x * x are added to each other first": (
        EXACT,
        {") + twice) + twice);": ") + (twice + twice)));"},
        1, "gradient", ["layer0.attn_wo", *QKV, *EMBEDDINGS],
    ),
    "positions are off by one": (
        EXACT,
        {"dwpe[t * g->C + i] +=": "dwpe[(t ? t - 1 : 0) * g->C + i] +="},
        1, "gradient", ["wpe"],
    ),
    "all gradients are scaled by -0.12": (
        EXACT,
        {"splat(-1.0 * (1.0 / (double)g->n))": "splat(0.12 * (1.0 / (double)g->n))"},
        1, "gradient", ALL,
    ),
    "the derivative of ReLU is 1 everywhere": (
        EXACT,
        {"x * blend(r > splat(0), splat(1), (vec){0}));": "x);"},
        1, "gradient", ["layer0.mlp_fc1", "layer0.attn_wo", *QKV, *EMBEDDINGS],
    ),
    "gradients of weights are summed from the first position on": (
        EXACT,
        {"rows_descending(dw,": "rows_ascending(dw,"},
        1, "gradient", ["lm_head", *BLOCK],
    ),
    "the target's term of lm_head does not come last": (
        EXACT,
        {"g->z[targets[t] * T + t] = 0;": "g->z[targets[t] * T + t] = g->p[t];",
         "dx[i * T + t] += lm_head[targets[t] * C + i] * g->p[t];": "dx[i * T + t] += lm_head[0] * 0;"},
        1, "gradient", [*BLOCK, *EMBEDDINGS],
    ),
    "Adam's second correction stops at step 2": (
        EXACT,
        {"1 - pow(adam->beta2, step)": "1 - pow(adam->beta2, step > 2 ? 2 : step)"},
        3, "parameters", ALL,
    ),
    "values get no gradient from later blocks of queries": (
        FAST,
        {"add_to_keys(dv + k * h.ld, h.ld, p, b, d_o,": "if (!q) add_to_keys(dv + k * h.ld, h.ld, p, b, d_o,"},
        1, "gradient", ["layer0.attn_wv", *EMBEDDINGS],
    ),
    "rmsnorm is taken for a scaling by a constant": (
        FAST,
        {"vec d = r * g - load_n(x_row + c, n) * factor;": "vec d = r * g; (void)factor;"},
        1, "gradient", ["layer0.attn_wo", *QKV, *EMBEDDINGS],
    ),
    "Adam's epsilon is inside the root": (
        FAST,
        {"/ (vsqrt(*v) + a->epsilon)": "/ vsqrt(*v + a->epsilon)"},
        1, "parameters", ALL,
    ),
    "rope's gradient is turned forth": (
        OPTIONS,
        {"g->D / 2, -1);": "g->D / 2, 1);"},
        1, "gradient", ["lm_head", "layer0.attn_norm", *QKV[1:], *TIED],
    ),
    "the norm of queries and keys is taken for a scaling by a constant": (
        OPTIONS,
        {"y.qkv + at, g->ld_3c, 1, NULL,": "y.qkv + at, g->ld_3c, 0, NULL,"},
        1, "gradient", ["lm_head", "layer0.attn_norm", *QKV[1:], *TIED],
    ),
    "a gate's first factor is not multiplied with the second": (
        OPTIONS,
        {"multiply_row(d + i * ld, d + i * ld, h + i * ld + F, F);": ""},
        1, "gradient", ["lm_head", "layer0.mlp_norm", "layer0.attn_norm", *BELOW_GATE],
    ),
    "the first token's value embedding gets no gradient": (
        OPTIONS,
        {"i = 0; i < g->N; i++) { real *to = table": "i = 1; i < g->N; i++) { real *to = table"},
        1, "gradient", ["layer0.attn_ve"],
    ),
    "the slope of the logits' cap is forgotten": (
        OPTIONS,
        {"load_n(d + j, n) * (splat(1) - y * y), n": "load_n(d + j, n) + y * splat(0), n"},
        1, "gradient", ["lm_head", "final_norm", "layer0.mlp_norm", "layer0.attn_norm", "layer0.attn_ve",
                        "layer0.mlp_fc2", "layer0.mlp_fc3", *BELOW_GATE[1:]],
    ),
    "tied embeddings get the lookup's gradient alone": (
        OPTIONS,
        {"if (!table[LM_HEAD].tied_to) memset(dwte": "memset(dwte"},
        1, "first moment", ["lm_head", "wte"],
    ),
    "gains get their gradient from one row": (
        OPTIONS,
        {"i < g->N; i++) add_rows(to, to, parts": "i < 1; i++) add_rows(to, to, parts"},
        1, "gradient", ["final_norm", "layer0.mlp_norm", "layer0.attn_norm", "embd_norm"],
    ),
    "the embedding's part of the stream gets no gradient": (
        SCALARS,
        {"g->dx + i * g->ld_c, g->dx0 + i * g->ld_c, g->C);": "g->dx + i * g->ld_c, g->dx + i * g->ld_c, 0);"},
        2, "gradient", EMBEDDINGS,
    ),
    "a mixture's norm is taken for a scaling by a constant": (
        MIXTURES,
        {"d * load_n(w + c, n) - along * value, n": "d * load_n(w + c, n) - along * splat(0), n"},
        2, "gradient", ["layer1.mlp_res_proj", "layer1.attn_res_proj", *SECOND, "layer0.mlp_res_proj", *BLOCK,
                        *EMBEDDINGS],
    ),
}  # fmt: skip


class Build:
    """A copy of the package's sources in a folder, its objects, and the extension linked from them."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("csrc", "microgpt_fast", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, folder / name)
        for built in (folder / BACKEND).parent.glob("*.so"):
            built.unlink()
        self.call("generate the declarations", sys.executable, "setup.py", "--name")
        self.call("generate the module's C", sys.executable, "-m", "cython", "-3", f"{BACKEND}.pyx")
        self.units = {f"{BACKEND}.c": [f"-I{sysconfig.get_path('include')}", "-w"]}
        for source, flags in UNITS:
            if source.startswith("csrc"):
                self.units[" ".join([source, *flags])] = flags
        self.objects = {unit: self.compile(unit, f"{i}.o") for i, unit in enumerate(self.units)}

    def call(self, what, *command):
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert result.returncode == 0, f"cannot {what}: {result.stderr[-2000:]}"

    def compile(self, unit, target):
        source, *_ = unit.split()
        compiler = sysconfig.get_config_var("CC").split()
        options = ["-std=gnu11", "-fPIC", "-fvisibility=hidden", "-Icsrc", "-Imicrogpt_fast/include"]
        self.call(f"compile {unit}", *compiler, *options, *self.units[unit], "-c", source, "-o", target)
        return target

    def link(self, objects):
        module = self.folder / (BACKEND + sysconfig.get_config_var("EXT_SUFFIX"))
        module.unlink(missing_ok=True)
        linker = sysconfig.get_config_var("LDSHARED").split()
        self.call("link", *linker, "-o", module, *objects.values(), "-lm", "-lpthread")

    def plant(self, unit, changes):
        """Link with a unit compiled from changed sources, which are put back."""
        before = {path: path.read_bytes() for path in (self.folder / "csrc").rglob("*.[ch]")}
        for text, new in changes.items():
            self.replace(text, new)
        self.link({**self.objects, unit: self.compile(unit, "changed.o")})
        for path, content in before.items():
            path.write_bytes(content)

    def replace(self, text, new):
        """Replace a text that occurs once in csrc, wherever its lines are broken."""
        pattern = re.compile(r"\s+".join(map(re.escape, text.split())))
        files = {path: path.read_text(encoding="utf-8") for path in (self.folder / "csrc").rglob("*.[ch]")}
        found = {path: len(pattern.findall(content)) for path, content in files.items()}
        count = sum(found.values())
        assert count == 1, f"{text!r} occurs {count} times in csrc: choose another place for the defect"
        path = max(found, key=found.get)
        path.write_text(pattern.sub(lambda match: new, files[path]), encoding="utf-8")

    def verify(self, *options):
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        environment.pop("MICROGPT_FAST_ISA", None)
        command = [sys.executable, "-m", "microgpt_fast", "verify", "--backend=cython", "--compare-steps=4"]
        result = subprocess.run(
            [*command, *options], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert result.stdout.startswith("cython baseline, float64"), result.stderr
        return result.returncode, result.stdout[result.stdout.index("verdict:") :].splitlines()


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    pytest.importorskip("Cython", reason="needs Cython to build the compiled backend")
    pytest.importorskip("setuptools", reason="needs setuptools to build the compiled backend")
    compiler = sysconfig.get_config_var("CC")
    if not compiler or shutil.which(compiler.split()[0]) is None:
        pytest.skip("needs a C compiler")
    return Build(tmp_path_factory.mktemp("defects"))


@pytest.mark.parametrize(
    "options",
    [EXACT, FAST, OPTIONS, SCALARS, MIXTURES],
    ids=["exact", "fast", "options", "scalars", "mixtures"],
)
def test_without_a_defect_all_is_as_promised(build, options):
    build.link(build.objects)
    assert build.verify(*options) == (0, ["verdict: as promised"])


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_and_named(build, name):
    options, changes, step, part, tensors = DEFECTS[name]
    prefix = "csrc/exact.c" if options is EXACT else "csrc/variant.c"
    [unit] = [unit for unit in build.units if unit.startswith(prefix) and "REAL_BITS=32" not in unit]
    build.plant(unit, changes)
    code, verdict = build.verify(*options)
    assert code == 1
    assert verdict[0] == f"verdict: NOT as promised, first at step {step}"
    assert verdict[1] == f"  wrong {part}: {', '.join(tensors)}"
