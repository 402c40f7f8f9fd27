"""Run folders, settings, sampling and scoring, through the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.sampling.scoring import score, windows
from microgpt_fast.training import checkpoint, pace
from microgpt_fast.training.runs import read_metrics
from microgpt_fast.training.settings import read_toml, to_toml

pytestmark = pytest.mark.slow

SOURCE = Path(mg.__file__).parent.parent
TEXT = "".join(f"line {i * i % 37} of a text, {i % 5} times.\n\n" for i in range(60))
SMALL = "--n-embd 8 --n-head 2 --block-size 12 --dtype float32 --batch-size 3 --num-samples 2".split()


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    """A function of arguments: exit code, stdout and stderr of the program, run beside text.txt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pace, "CHUNK_GROWTH", 1)
    Path("text.txt").write_text(TEXT)

    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def train(run, *arguments):
    result = run("train", "--data", "text.txt", "--data-mode", "stream", *SMALL, *arguments)
    assert result[0] == 0, result
    return result


def test_a_run_keeps_everything_in_its_folder(run):
    _, out, err = train(
        run, "--num-steps", 20, "--val-fraction", 0.1, "--eval-interval", 8, "--out", "runs/one"
    )
    assert sorted(os.listdir("runs/one")) == [
        "best.safetensors", "config.toml", "last.safetensors", "metrics.jsonl", "samples.txt"
    ]  # fmt: skip
    metrics = read_metrics("runs/one")
    assert [line["step"] for line in metrics if "loss" in line] == [*range(1, 21)]
    assert [line["step"] for line in metrics if "val_loss" in line] == [8, 16, 20]
    assert "num tokens: " in out and "--- samples ---\nsample  1: \n" in out
    assert "val " in err and "step 20 / 20" in err
    config = read_toml("runs/one/config.toml")
    assert (
        config["num_steps"] == 20
        and config["n_embd"] == 8
        and config["data"] == [os.path.abspath("text.txt")]
    )
    samples = Path("runs/one/samples.txt").read_text()
    assert samples.startswith("--- sample 1\n") and "--- sample 2\n" in samples
    code, _, err = run("train", "--data", "text.txt", *SMALL, "--out", "runs/one")
    assert code == 2 and "there is a run already" in err
    code, out, _ = run("sample", "--model", "runs/one", "--num-samples", 1, "--max-new-tokens", 5)
    assert code == 0 and len(out) == len("sample  1: \n12345\n")


def test_the_configuration_of_a_run_makes_the_same_run(run):
    train(run, "--num-steps", 9, "--out", "one")
    assert run("train", "--config", "one/config.toml", "--out", "two")[0] == 0
    for name in ("config.toml", "samples.txt"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()
    one, two = (mg.load(f"{name}/last.safetensors") for name in ("one", "two"))
    assert np.array_equal(one.parameters, two.parameters)


def test_a_killed_run_resumes_and_ends_as_if_it_never_was(run):
    options = ["--num-steps", 60, "--val-fraction", "0.1", "--eval-interval", 5, "--out"]
    _, whole, _ = train(run, *options, "whole")
    for moment in (0.02, 0.1):
        folder = f"killed{moment}"
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "microgpt_fast",
                "train",
                "--data",
                "text.txt",
                "--data-mode",
                "stream",
                *SMALL,
            ]
            + [*map(str, options), folder],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not os.path.exists(f"{folder}/last.safetensors") and process.poll() is None:
            time.sleep(moment)  # the moment of the kill: any will do
        process.send_signal(signal.SIGKILL)
        process.wait()
        code, out, _ = run("train", "--resume", folder, "--threads", 2)
        assert code == 0 and out.endswith(whole[whole.index("--- samples") :])
        for name in ("last.safetensors", "best.safetensors"):
            kept, expected = (mg.load(f"{where}/{name}") for where in (folder, "whole"))
            assert np.array_equal(kept.parameters, expected.parameters)
        without_time = [
            [{key: value for key, value in line.items() if key != "seconds"} for line in read_metrics(where)]
            for where in (folder, "whole")
        ]
        assert without_time[0] == without_time[1]


def test_metrics_after_the_last_checkpoint_are_dropped(run):
    train(run, "--num-steps", 6, "--val-fraction", 0.1, "--eval-interval", 3, "--out", "one")
    expected = [(line["step"], "loss" in line) for line in read_metrics("one")]
    with open("one/metrics.jsonl", "a") as file:
        file.write('{"step": 9, "val_loss": 1.0}\n{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    Path("one/.microgpt_fast-1-ab.tmp").touch()
    assert run("train", "--resume", "one", "--num-steps", 9)[0] == 0
    expected += [(7, True), (8, True), (9, True), (9, False)]
    assert [(line["step"], "loss" in line) for line in read_metrics("one")] == expected
    assert not [name for name in os.listdir("one") if name.endswith(".tmp")]


def test_a_full_disk_keeps_the_last_checkpoint(run, monkeypatch):
    train(run, "--num-steps", 5, "--out", "one")
    before = Path("one/last.safetensors").read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(checkpoint.os, "fsync", fail)
        code, _, err = run("train", "--resume", "one", "--num-steps", 9)
    assert code == 1 and "cannot write one: No space left on device" in err
    assert Path("one/last.safetensors").read_bytes() == before
    assert run("train", "--resume", "one", "--num-steps", 9)[0] == 0


def test_what_a_resumed_run_cannot_change_is_named(run):
    train(run, "--num-steps", 5, "--out", "one")
    for name, value, kept in (("n-embd", 16, 8), ("seed", 1, 42), ("val-fraction", 0.1, 0.0)):
        code, _, err = run("train", "--resume", "one", f"--{name}", value)
        assert code == 2 and f"keeps its {name.replace('-', '_')}: {kept}, not {value}" in err
    code, _, err = run("train", "--resume", "one", "--n-embd", 8)
    assert code == 0 and "all 5 steps of one are done: continue with a larger --num-steps" in err


def test_nanogpts_names_are_understood(run):
    arguments = (
        "--max_iters=7 --min_lr=1e-4 --warmup_iters 2 --grad_clip=1.0 --weight_decay 0.1 --out_dir=one"
    )
    train(run, *arguments.split())
    config = read_toml("one/config.toml")
    assert (config["num_steps"], config["min_learning_rate"], config["warmup_steps"]) == (7, 1e-4, 2)
    assert run("sample", "--out_dir=one", "--start=line", "--num-samples", 1)[1].startswith(
        "sample  1: \nline"
    )


@pytest.mark.parametrize(
    "content, message",
    [
        ("num_stepz = 3", "unknown option 'num_stepz'; did you mean num_steps?"),
        ("dropout = 0.1", "dropout=0.1 (there is no dropout)"),
        ("num_steps = 'x'", "num_steps must be a whole number"),
        ("num_steps = 3\nmax_iters = 3", "given twice"),
        ("num_steps = ", "not TOML"),
        ("data = 3", "data must be"),
        ("preset = 'microgtp'", "did you mean microgpt"),
        ("quiet = 1", "quiet must be true or false"),
    ],
)
def test_mistakes_in_a_configuration_are_named(content, message, run):
    Path("run.toml").write_text(content)
    code, out, err = run("train", "--config", "run.toml")
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("train --dropout 0.1", "there is no dropout"),
        ("train --resume missing", "no run to resume"),
        ("train --resume missing --preset microgpt", "leave out --preset"),
        ("train --config missing", "cannot read missing"),
        ("train --data text.txt missing", "cannot read missing: No such file"),
        ("train --patience 3", "val_fraction above 0"),
        ("train --time-budget soon", "60s, 10m, 1h"),
        ("train --out text.txt/x", "cannot write text.txt/x"),
        ("score", "FILE"),
        ("score text.txt --model missing", "cannot read missing"),
    ],
)
def test_mistakes_on_the_command_line_are_named(arguments, message, run):
    code, out, err = run(*arguments.split())
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_toml_keeps_what_it_is_given(tmp_path):
    options = {
        "data": ['a "b"\\\n\x7fé😀', "-"],
        "quiet": True,
        "seed": -5,
        "learning_rate": 1e-07,
        "save": None,
    }
    (tmp_path / "x.toml").write_text(to_toml(options), encoding="utf-8")
    del options["save"]
    assert read_toml(tmp_path / "x.toml") == options


@pytest.fixture(scope="module")
def model():
    return mg.train(
        ["anna", "bob", "hannah", "otto"], num_steps=150, batch_size=2, block_size=8, dtype="float32"
    ).model


def test_a_score_sums_the_losses(model):
    result = score_of(model, "anna\n\nhannah\n")
    corpus, summary = result.corpus, result.summary()
    losses = model.engine.forward(
        model.parameters, corpus.tokens, corpus.offsets[:-1].copy(), np.array([5, 7], np.int32)
    )
    np.testing.assert_allclose(result.surprises[:5].mean(), losses[0], rtol=1e-5)
    np.testing.assert_allclose(result.surprises[5:].mean(), losses[1], rtol=1e-5)
    assert (summary["documents"], summary["tokens"], summary["characters"]) == (2, 12, 10)
    nats = summary["nats_per_token"]
    np.testing.assert_allclose(summary["perplexity"], np.exp(nats))
    np.testing.assert_allclose(summary["bits_per_character"], nats * 12 / 10 / np.log(2))


def score_of(model, text, **options):
    path = Path(os.environ["PYTEST_TEXT"])
    path.write_text(text)
    return score(model, [path], **options)


@pytest.fixture(autouse=True)
def a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_TEXT", str(tmp_path / "scored.txt"))


@pytest.mark.parametrize("block_size", [1, 2, 3, 8])
def test_windows_predict_everything_once(block_size):
    offsets = np.array([0, 3, 25, 27, 40])
    starts, lengths, skipped = windows(offsets, block_size)
    predicted = np.concatenate([np.arange(s + k, s + n) for s, n, k in zip(starts, lengths, skipped)])
    expected = np.setdiff1d(np.arange(40), offsets[1:] - 1)
    assert np.array_equal(predicted, expected) and (lengths <= block_size).all()


def test_unknown_characters_and_long_documents_are_scored_or_named(model):
    with pytest.raises(ValueError, match="'x'.*not in the vocabulary"):
        score_of(model, "anna\nxeno\n")
    assert len(score_of(model, "hannah" * 20 + "\n").surprises) == 121


def test_score_prints_tokens_and_documents(model, run):
    mg.save(model, "model")
    Path("two").write_text("anna\nbob\n")
    code, out, _ = run("score", "two", "--model", "model", "--per-token", "--per-document")
    assert code == 0 and "perplexity: " in out and '  "anna"\n' in out and out.endswith("  end\n")
    report = json.loads(run("score", "two", "--model", "model", "--json", "--per-token", "--per-document")[1])
    assert [len(tokens) for tokens in report["per_token"]] == [5, 4]
    total = sum(document["nats"] for document in report["per_document"])
    np.testing.assert_allclose(total / report["tokens"], report["nats_per_token"])


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", ["prompt", "stop"])
def test_prompts_and_stops_are_text(model, name, batch_size):
    for bad in (b"a", 3, ["a"]):
        with pytest.raises(mg.UsageError, match=f"{name} must be a string, not "):
            mg.generate(model, 2, batch_size=batch_size, **{name: bad})


def test_prompts_stops_and_truncation(model):
    texts = mg.generate(model, 20, 3.0, seed=1, prompt="ha")
    assert all(text.startswith("ha") for text in texts) and len(set(texts)) > 1
    assert len(set(mg.generate(model, 20, 1.0, seed=1, top_k=1))) == 1
    assert mg.generate(model, 5, 1.0, top_p=1e-9) == mg.generate(model, 5, 1.0, top_k=1)
    assert mg.generate(model, 5, 1.0, top_p=1.0) == mg.generate(model, 5, 1.0, top_k=100)
    plain = mg.generate(model, 30, 1.0, seed=2, top_k=100)
    stopped = mg.generate(model, 1, 1.0, seed=2, stop="nn")
    assert plain[0].partition("nn")[0] == stopped[0] and any("nn" in text for text in plain)
    assert mg.generate(model, 1, prompt="anna", max_new_tokens=0) == ["anna"]
    for wrong in (
        {"top_k": -1},
        {"top_k": 0.0},
        {"top_p": 0},
        {"top_p": 1.5},
        {"max_new_tokens": -1},
        {"prompt": "x"},
    ):
        with pytest.raises(ValueError):
            mg.generate(model, 1, **wrong)


def test_the_default_samples_are_what_token_by_token_draws_are(model):
    assert mg.generate(model, 20, 0.8, seed=3) == mg.generate(model, 20, 0.8, seed=3, top_p=1.0)


def test_texts_go_on_past_the_block():
    corpus = mg.load_corpus(["abcdefgh" * 50], mode="stream")
    model = mg.train(corpus, num_steps=300, batch_size=4, block_size=6, dtype="float32").model
    text = mg.generate(model, 1, 0.1, prompt="abc", max_new_tokens=100)[0]
    assert text == ("abcdefgh" * 50)[:103]
    assert len(re.findall("abcdefgh", mg.generate(model, 1, 0.1, prompt="a", max_new_tokens=399)[0])) == 50


def test_pieces_of_text_appear_as_they_are_drawn(model):
    pieces = next(iter(mg.samples(model, 1, 0.5, prompt="ha", top_k=3)))
    assert not isinstance(pieces, (list, tuple)) and next(iter(pieces)) == "ha"
