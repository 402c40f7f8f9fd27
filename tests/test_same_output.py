"""Standard output against runs of the original, with constants that nothing was tuned to."""

import json
import os
import subprocess
import sys

import pytest

from microgpt_fast import cli

# Replaces constants in the text of the original, and runs it with the recursion that its autograd needs.
RUNNER = """
import json, re, sys, threading

path, constants = sys.argv[1], json.loads(sys.argv[2])
text = open(path, encoding="utf-8").read()
names = ("learning_rate", "beta1", "beta2", "eps_adam")
adam = "".join(f"{name} = {constants.pop(name)!r}\\n" for name in names if name in constants)
patterns = {
    "seed": (r"random\\.seed\\(42\\)", "random.seed(%r)"),
    "init_std": (r"std=0\\.\\d+", "std=%r"),
    "num_samples": (r"range\\(20\\)", "range(%r)"),
    "learning_rate": (r"(?m)^m = ", adam + "m = "),
}
if adam:
    constants["learning_rate"] = None
for name, value in constants.items():
    pattern, new = patterns.get(name, (rf"(?m)^{name} = \\S+", f"{name} = %r"))
    text, count = re.subn(pattern, lambda match: new % value if "%r" in new else new, text, count=1)
    assert count == 1, name
sys.setrecursionlimit(10**6)
threading.stack_size(512 * 2**20)
thread = threading.Thread(target=exec, args=(compile(text, path, "exec"), {"__name__": "__main__"}))
thread.start()
thread.join()
sys.stdout.flush()
"""

WORDS = "hello\nworld\nwide\nweb\n"
UNICODE = (
    "\ufeffé😀한글\nab\u2028cd\u2028\n\u2028\n\x0cfeed\x0c\x1cz\x85\r\nca\rcr\n\x00nul\n  한 글  \nn\u0301"
    "\n\U0010ffff\uffff"
)
CASES = {
    "three layers": (WORDS, {"n_layer": 3, "n_embd": 6, "n_head": 3, "num_steps": 5, "num_samples": 5}),
    "odd width": (WORDS, {"n_embd": 15, "n_head": 5, "num_steps": 4, "seed": 7, "block_size": 6}),
    "one wide head a channel": (WORDS, {"n_embd": 7, "n_head": 7, "num_steps": 6, "temperature": 1.3}),
    "documents longer than the block": (
        "abcdefghijklm" * 4 + "\nxyz\n",
        {"n_embd": 9, "n_head": 1, "block_size": 5, "num_steps": 8, "seed": -3},
    ),
    "the smallest model": (
        "ab\nba\n",
        {"n_embd": 1, "n_head": 1, "block_size": 1, "num_steps": 30, "temperature": 0.1},
    ),
    "one-character documents": ("a\nb\nc\na\n \n\t\nd", {"num_steps": 20, "num_samples": 120, "n_embd": 8}),
    "one document": ("zz", {"num_steps": 15, "seed": 123456789012345678901234567890, "num_samples": 3}),
    "unicode": (UNICODE, {"num_steps": 12, "seed": 1, "block_size": 4, "num_samples": 40, "n_embd": 8}),
    "line ends": ("anna\r\nbob\r\n\r\ncleo\rdora", {"num_steps": 12, "n_embd": 4, "n_head": 2}),
    "other constants": (
        WORDS,
        {
            "num_steps": 12,
            "n_embd": 4,
            "n_head": 2,
            "init_std": 0.5,
            "learning_rate": 0.05,
            "beta1": 0.5,
            "beta2": 0.9,
            "eps_adam": 1e-3,
        },
    ),
    "no steps": (WORDS, {"num_steps": 0, "seed": 0}),
    "first revision": (WORDS, {"num_steps": 15, "n_embd": 8, "n_head": 2}),
    "first revision, two layers": (
        WORDS,
        {"num_steps": 8, "n_layer": 2, "n_embd": 10, "n_head": 2, "block_size": 3, "seed": 5},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_stdout_equals_the_original(case, shared, tmp_path, capfdbinary):
    text, constants = CASES[case]
    first = case.startswith("first revision")
    (tmp_path / "input.txt").write_bytes(text.encode())
    script = shared / "original" / ("first_revision_model.py" if first else "microgpt.py")
    original = subprocess.run(
        [sys.executable, "-c", RUNNER, script, json.dumps(constants)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUTF8": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    options = [f"--{name.replace('_', '-')}={value}" for name, value in constants.items()]
    preset = "first-revision" if first else "microgpt"
    assert cli.main(["train", "--data", str(tmp_path / "input.txt"), "--preset", preset, *options]) == 0
    assert capfdbinary.readouterr().out == original.stdout
    assert original.stdout.count(b"\nsample ") == constants.get("num_samples", 20)
