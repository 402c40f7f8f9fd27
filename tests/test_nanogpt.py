"""nanoGPT's command lines and configurations: run, or answered in one line; nothing of them is executed."""

from itertools import product
from pathlib import Path

import pytest

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.cli.commands import train
from microgpt_fast.config import UsageError, resolve
from microgpt_fast.training import nanogpt
from microgpt_fast.training.settings import read_options

CONFIG = """
# trains a small model
out_dir = 'out-small'
eval_interval = 250 # often
eval_iters = 20
wandb_log = False
wandb_run_name = 'run' + str(time.time())
import time
dataset = 'text.txt'
gradient_accumulation_steps = 5 * 8
batch_size = 64
block_size = 256
n_layer, dropout = 6, 0
learning_rate = 1e-3
decay_lr = True
compile = False
""".replace("n_layer, dropout = 6, 0", "n_layer = 6\ndropout = 0.0")
SIZES = "--n_layer=4 --n_head=4 --n_embd=128 --block_size=64 --batch_size=12"
BASES = ["", "config/small.py", SIZES, f"config/small.py {SIZES}", "--dataset=text.txt --out_dir=out"]
EXTRAS = [
    "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --max_iters=2000 --lr_decay_iters=2000 "
    "--dropout=0.0",
    "--wandb_log=False --bias=False --init_from=scratch",
    "--wandb_log=True --wandb_project=owt --wandb_run_name=gpt2",
    "--device=mps", "--device cuda --compile", "--eval_interval=5 --eval_iters=1 --always_save_checkpoint=False",
    "--learning_rate=1e-4 --min_lr=1e-5 --warmup_iters=0 --decay_lr=False", "--decay_lr=True --beta2=0.99",
    "--weight_decay=1e-1 --grad_clip=0.0 --gradient_accumulation_steps=40", "--max_iters 10 --dropout 0",
]  # fmt: skip
REFUSED = [
    ("--dropout=0.2", ["dropout=0.2"]), ("--bias=True", ["bias=True"]), ("--init_from=gpt2-xl", ["init_from=gpt2-xl"]),
    ("--eval_only=True", ["score"]), ("--eval_iters=many", ["whole number"]), ("--dtype=float16", ["float16"]),
    ("--dropout=0.1 --bias=True --init_from=gpt2", ["dropout", "bias", "gpt2"]), ("--backend=nccl", ["nccl"]),
    ("--dataset=shakespeare_char", ["tinyshakespeare"]), ("--dataset=openwebtext", ["the text itself"]),
    ("--init_from=resume", ["out_dir"]), ("config/none.py", ["cannot read"]), ("--n_layers=3", ["--n-layer"]),
]  # fmt: skip


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    """A function of arguments: exit code, stdout and stderr of the program, run beside config/small.py and text.txt."""
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/small.py").write_text(CONFIG)
    Path("text.txt").write_text("".join(f"line {i} of a text\n" for i in range(100)))

    def run(line):
        code = cli.main(line.split())
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.mark.parametrize("base, extra", product(BASES, EXTRAS))
def test_command_lines_are_understood(base, extra, run, monkeypatch):
    made = []

    def make_trainer(given, constants, processes):
        made.append(resolve(given.get("preset", "microgpt"), **constants))
        raise UsageError("understood")

    monkeypatch.setattr(train, "make_trainer", make_trainer)
    extra = "--val_fraction=0.1 " + extra if "eval_interval" in extra else extra
    code, out, err = run(f"train {base} {extra}")
    assert (code, out) == (2, "") and err.endswith("microgpt-fast: understood\n") and err.count("\n") <= 2
    if "--device" in extra:
        assert "ignored, as it changes nothing here: " in err and "device=" in err
    make_model, config = made[0]
    if SIZES in base:
        assert (make_model(9).n_embd, config.batch_size) == (128, 12)
    if "--max_iters=2000" in extra:
        assert config.num_steps == 2000
        block_size = make_model(9).block_size
        assert config.eval_tokens == 20 * config.batch_size * block_size and config.val_fraction == 0.1


@pytest.mark.parametrize("line, parts", REFUSED)
def test_what_cannot_be_had_is_refused_all_at_once(line, parts, run):
    code, out, err = run(f"train {line}")
    assert (code, out) == (2, "") and err.count("\n") == 1 and all(part in err for part in parts)


def test_a_run_is_begun_continued_and_sampled_as_in_nanogpt(run):
    small = "--n_layer=1 --n_embd=8 --n_head=2 --block_size=8 --batch_size=2 --gradient_accumulation_steps=1"
    line = f"train config/small.py {small} --device=cpu --num_samples=1 --quiet --learning_rate=1e-2"
    assert run(f"{line} --max_iters=4")[0] == 0
    assert mg.load("out-small/last.safetensors").config.n_embd == 8
    code, _, err = run("train --out_dir=out-small --init_from=resume --max_iters=9 --device=cpu")
    assert code == 0 and "ignored, as it changes nothing here: device=cpu\n" in err
    assert mg.resume_training("out-small/last.safetensors", Path("text.txt")).step == 9
    Path("prompt.txt").write_text("line")
    code, out, _ = run(
        "sample --out_dir=out-small --init_from=resume --start=FILE:prompt.txt --num_samples=2 --max_new_tokens=5 "
        "--device=cpu --compile=False"
    )
    assert code == 0 and out.startswith("sample  1: \nline") and out.count("sample ") == 2


def test_a_configuration_is_data(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    ours, theirs = read_options(path)
    assert (
        ours["gradient_accumulation_steps"] == 40
        and ours["data"] == "text.txt"
        and ours["out"] == "out-small"
    )
    assert theirs["eval_iters"] == 20 and theirs["dropout"] == 0.0 and "time" in theirs["wandb_run_name"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("n_layer = open('x', 'w')", "line 1: n_layer must be a number"),
        ("\nopen('ran', 'w')", "line 2: only assignments"),
        ("for i in range(9): n_layer = i", "line 1: only assignments"),
        ("n_layer = 2 ** 10 ** 10", "n_layer must be a number"),
        ("n_layer = 1 / 0", "n_layer must be a number"),
        ("n_layer = = 3", "not Python"),
        ("n_lyer = 3", "did you mean n_layer"),
        ("a.b = 3", "only assignments"),
    ],
)
def test_nothing_is_executed(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.py").write_text(content)
    with pytest.raises(UsageError, match=message):
        read_options("x.py")
    assert not Path("ran").exists() and not Path("x").exists()


def test_options_are_taken_from_a_line():
    line = "--bias=False x --compile --n-layer 3 --device cpu --wandb-log=True"
    assert nanogpt.split(line.split()) == (
        ["x", "--n-layer", "3"],
        {"bias": "False", "compile": "True", "device": "cpu", "wandb_log": "True"},
    )


@pytest.mark.parametrize(
    "word, meant",
    [
        ("lr", "learning-rate"),
        ("steps", "num-steps"),
        ("d_model", "n-embd"),
        ("temp", "temperature"),
        ("wd", "weight-decay"),
    ],
)
def test_suggestions_know_what_is_meant(word, meant, run):
    assert f"did you mean --{meant}?" in run(f"train --{word}=3")[2]


def test_python_takes_the_same_names():
    config = mg.Trainer(["anna", "bob"], max_iters=7, min_lr=1e-3, warmup_iters=2, backend="numpy").config
    assert (config.num_steps, config.min_learning_rate, config.warmup_steps) == (7, 1e-3, 2)
    with pytest.raises(UsageError, match="given twice, also as max_iters"):
        mg.Trainer(["anna", "bob"], max_iters=7, num_steps=7)
    with pytest.raises(UsageError, match="did you mean learning_rate"):
        mg.Trainer(["anna", "bob"], lr=7)


def test_help_shows_defaults_positionals_and_presets(run):
    assert "learning rate (default: 0.01)" in " ".join(run("train --help")[1].split())
    for command, usage in (
        ("score", " FILE ..."),
        ("sample", " [MODEL]"),
        ("plot", " RUN ..."),
        ("train", " [CONFIG]"),
    ):
        assert f"usage: microgpt-fast {command} [options]{usage}\n" in run(f"{command} --help")[1]
    listed = run("presets")[1]
    assert all(name in listed for name in mg.PRESETS)
    assert "n_embd = 32  (set)\n" in run("presets laptop-10s")[1]
    assert "did you mean laptop-1min" in run("presets laptop-2min")[2]
