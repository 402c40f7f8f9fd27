"""What a type checker sees of the public names."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import microgpt_fast as mg

PACKAGE = Path(mg.__file__).parent

PROGRAM = """
from pathlib import Path

import microgpt_fast as mg


def watch(run: mg.Trainer, event: mg.Steps) -> None:
    run.stopping = event.step > 2


run = mg.Trainer("names.txt", preset="laptop-1min", num_steps=3)
for event in run.events():
    number: int = event.step
    if isinstance(event, mg.Evaluation):
        print(event.loss + 1, event.is_best)
    else:
        print(event.losses.mean())
run = mg.train([Path("a"), Path("b")], on_step=watch, num_steps=3)
texts: list[str] = mg.generate(run.model, random=run.random, prompt="a", top_k=3)
nats: float = mg.score(run.model, "a.txt").surprises.sum()
mg.save(run.model, Path("model"))
mg.save_training(run, "state")
config: mg.GPTConfig = mg.load("model").config
run = mg.Run.resume("folder").trainer
run = mg.resume_training("state", ["anna"])
print(run.best and run.best.loss, run.model.tensors["wte"].shape, config.num_params, number, texts, nats)
"""
MISTAKES = """
import microgpt_fast as mg

mg.train(data=3)
mg.generate(mg.load("model"), promt="a")
mg.load("model").parametres
"""


def check(tmp_path, program):
    """mypy's complaints about a program, one a line."""
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}  # rather than another one that is installed
    if "site-packages" in PACKAGE.parts:
        del environment["MYPYPATH"]
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "program.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    return [line for line in run.stdout.splitlines() if ": error: " in line] + run.stderr.splitlines()


@pytest.mark.slow
def test_a_typed_program_passes_and_mistakes_are_found(tmp_path):
    pytest.importorskip("mypy")
    assert check(tmp_path, PROGRAM) == []
    assert [line.partition(":")[2].partition(":")[0] for line in check(tmp_path, MISTAKES)] == ["4", "5", "6"]


def test_the_stub_has_the_public_names():
    stub = (PACKAGE / "__init__.pyi").read_text()
    assert sorted(re.findall(r"^from \.[\w.]* import \w+ as (\w+)$", stub, re.MULTILINE)) == sorted(
        mg.__all__
    )
    for module, name in re.findall(r"^from \.(\w+) import (\w+) as", stub, re.MULTILINE):
        assert getattr(import_module(f"microgpt_fast.{module}"), name) is getattr(mg, name)
