"""`audit` names the defects that were planted into ports, reads what programs print, and says where they part."""

import json
import math
import os
import select
import sys

import numpy as np
import pytest
from ports import CONSTANTS, PORTS, losses_of

import microgpt_fast as mg
from microgpt_fast.cli import main
from microgpt_fast.config import UsageError
from microgpt_fast.lab.audit import Audit, as_dict, lines
from microgpt_fast.lab.defects import DEFECTS
from microgpt_fast.lab.printed import Printed, losses_in, split_lines, unit_of
from microgpt_fast.lab.program import running
from microgpt_fast.training.trainer import Trainer

NAMES = ["anna", "bert", "clara", "dora", "emil", "fritz", "gerda", "hans", "ida", "jan", "konstantin"]

QUICK = ("none", "truncated-attention")
SUBTLE = (
    "norm-skipped-attention",
    "norm-constant-attention",
)  # float32's rounding would hide these for some steps


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("input.txt").write_text("\n".join(NAMES))
    return tmp_path


def printed(losses, digits=4):
    text = "".join(f"step {step:4d} / 12 | loss {loss:.{digits}f}\r" for step, loss in enumerate(losses, 1))
    return [*losses_in(split_lines(text))]


def command(capfd, *arguments):
    code = main(["audit", *arguments])
    return code, *capfd.readouterr()


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PORTS]
)
def test_a_planted_defect_is_named(name):
    trainer = Trainer(NAMES, **CONSTANTS, batch_size=PORTS[name][2])
    losses = losses_of(name, trainer)
    few = 15 if name in SUBTLE else 6
    for digits in {few, 15}:
        audit = Audit(trainer, printed(losses, digits))
        assert [match.defect.name for match in audit.matches] == [name]
        assert audit.holds == (name == "none")
    if name != "none":
        assert audit.parts_at.step == 1 + np.argmax(np.abs(losses - audit.reference.losses) > 1e-9)
        assert audit.matches[0].text in lines(audit)[-1]


def test_every_defect_but_one_of_the_forward_has_a_port():
    assert {defect.name for defect in DEFECTS} == {*PORTS} - {"none"} | {"unscaled-scores"}


def test_float32_is_the_same_algorithm():
    trainer = Trainer(NAMES, **CONSTANTS)
    single = mg.train(NAMES, **CONSTANTS, dtype="float32", numerics="fast").losses
    audit = Audit(trainer, printed(single, 9))
    assert audit.holds and [match.dtype for match in audit.matches] == ["float32"]
    assert "float32" in lines(audit)[-1]


def test_a_defect_in_float32_is_named():
    trainer = Trainer(NAMES, **CONSTANTS)
    losses = np.float32(losses_of("truncated-attention", trainer)) * (1 + 2e-7)
    [match] = Audit(trainer, printed(losses, 9)).matches
    assert (match.defect.name, match.dtype) == ("truncated-attention", "float32")


def test_unknown_defects_are_not_named():
    trainer = Trainer(NAMES, **CONSTANTS)
    losses = Audit(trainer, [Printed(12, 0.0, 0.1)]).reference.losses.copy()
    losses[7:] += 0.01
    audit = Audit(trainer, printed(losses))
    assert (audit.matches, audit.parts_at.step) == ([], 8)
    assert lines(audit)[-1] == "verdict: DIFFERS from step 8 on, like no known defect"
    losses += 0.1
    assert "other initial parameters" in lines(Audit(trainer, printed(losses)))[-1]
    losses[0] = math.nan
    assert json.dumps(as_dict(Audit(trainer, printed(losses))), allow_nan=False)


def test_what_too_few_losses_cannot_tell_is_said():
    trainer = Trainer(NAMES, **CONSTANTS)
    audit = Audit(trainer, printed(losses_of("none", trainer)[:1]))
    assert audit.holds and "truncated-attention" in [c.defect.name for c in audit.unseen]
    assert any("would not show" in line for line in lines(audit))


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("step    1 / 1000 | loss 3.3660\rstep    2 / 1000 | loss 3.4243\r", [(1, 3.366), (2, 3.4243)]),
        ("iter 0: train loss = 3.5\niter 1: train loss = 3.25\n", [(1, 3.5), (2, 3.25)]),
        ('{"step": 10, "loss": 2.5e0}\n{"step": 20, "loss": 2.25e-1}', [(10, 2.5), (20, 0.225)]),
        ("num docs: 3\nloss: 3.5, 2 ms\nval loss 1.0\nloss: 3.0\n", [(1, 3.5), (2, 3.0)]),
        ("\x1b[32mStep 1\x1b[0m Loss=\x1b[1m3.5\x1b[0m\r\n", [(1, 3.5)]),
        ("step 1: train_loss 3.5, val_loss 1.0\n2: val_loss=1.5\n", [(1, 3.5)]),
        ("a lossless 3.5\nglossary 2.5\nloss less 4\nno loss\nloss 3.5.1\n", []),
    ],
)
def test_losses_are_found(text, wanted):
    assert [(p.step, p.loss) for p in losses_in(split_lines(text))] == wanted


def test_losses_that_are_not_finite_and_steps_that_fall():
    [loss] = losses_in(["step 1 loss nan"])
    assert math.isnan(loss.loss)
    with pytest.raises(UsageError, match="3 follows 5"):
        [*losses_in(["step 5 loss 3.0", "step 3 loss 2.0"])]


def test_the_last_digit_of_a_number():
    assert unit_of("3.3660") == pytest.approx(1e-4)
    assert unit_of("1.23e-1") == pytest.approx(1e-3)
    assert unit_of("3") == 1 and unit_of("-12.5E2") == pytest.approx(10)


def test_the_command_runs_a_program_and_ends_it(here, capfd):
    losses = mg.train("input.txt", **CONSTANTS).losses
    here.joinpath("port.py").write_text(
        "import time\n"
        f"for step, loss in enumerate({losses.tolist()}, 1):\n"
        "    print(f'step {step} loss {loss:.4f}')\n"
        "time.sleep(600)\n"
    )
    constants = ("--n-embd", "8", "--n-head", "2", "--block-size", "6", "--num-steps", "12")
    code, out, err = command(capfd, sys.executable, "port.py", "--steps", "12", *constants)
    assert (code, out.splitlines()[-1]) == (0, "verdict: the same losses as the reference")
    assert "trains on input.txt" in err
    wrong = [f"step {i} loss {loss + 0.1 * (i > 3)}\n" for i, loss in enumerate(losses, 1)]
    here.joinpath("saved.txt").write_text("".join(wrong))
    code, out, _ = command(capfd, "saved.txt", "--saved", "--json", *constants)
    result = json.loads(out)
    assert (code, result["parts_at"], result["holds"], result["compared"]) == (1, 4, False, 12)
    code, out, _ = command(capfd, f"{sys.executable} port.py", "--steps", "3", *constants)
    assert code == 0 and "3 printed losses compared" in out


def test_bad_input_is_one_line(here, capfd):
    here.joinpath("silent.txt").write_text("hello\n")
    for arguments, reason in (
        (("missing-program",), "cannot run missing-program: No such file"),
        (("missing", "--saved"), "cannot read missing"),
        (("silent.txt", "--saved"), "no line has 'loss'"),
        (("'unclosed",), "cannot be split"),
        (("",), "the command is empty"),
        (("x", "--steps", "0"), "at least 1"),
        (("x", "--data", "missing"), "cannot read missing"),
        (("x", "--n-head", "3"), "multiple of n_head"),
    ):
        code, out, err = command(capfd, *arguments)
        assert (code, out) == (2, "") and reason in err.splitlines()[-1]
    code, _, err = command(capfd, f"{sys.executable} -c 'raise SystemExit(\"no tensor library\")'")
    assert code == 2 and "exit code 1: no tensor library" in err and "no losses" in err


def test_a_program_that_takes_too_long_is_ended(here):
    words = [sys.executable, "-c", "import time; print('loss 1.5'); time.sleep(600)"]
    with running(words, 600) as program:
        losses = losses_in(program.lines())
        assert next(losses).loss == 1.5
        program._timer.function()  # as if the time were over
        assert [*losses] == [] and program.was_late


def test_what_the_program_started_ends_with_it(here):
    inner = "import time; file = open('fifo', 'w'); print('loss 1.5', flush=True); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    os.mkfifo("fifo")
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    with running([sys.executable, "-c", outer], 60) as program:
        next(losses_in(program.lines()))
    assert select.select([reader], [], [], 60)[0] == [reader]
    assert os.read(reader, 1) == b""  # nobody has it open for writing any more
    os.close(reader)
