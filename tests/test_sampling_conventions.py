"""What users of other programs type: temperature 0, top-k 0, FILE: prompts, texts that begin with a dash."""

from pathlib import Path

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.random_stream import sampling_weights

pytestmark = pytest.mark.slow

NAMES = ["anna", "bob", "hannah", "otto", "a--b"]


@pytest.fixture(scope="module", params=["exact", "fast"])
def model(request):
    return mg.train(NAMES, num_steps=100, block_size=8, numerics=request.param).model


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path, model):
    """A function of arguments of `sample`: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    mg.save(model, "model")

    def run(*arguments):
        code = cli.main(["sample", "--model", "model", "--num-samples", "1", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def greedy(model, prompt):
    """The likeliest token after the likeliest token, from the whole sequence each time."""
    ids = [model.tokenizer.bos, *model.tokenizer.encode(prompt)]
    while len(ids) < model.config.block_size:
        ids.append(int(model.logits(ids)[-1].argmax()))
        if ids[-1] == model.tokenizer.bos:
            break
    return model.tokenizer.decode(ids)


def test_temperature_0_takes_the_likeliest(model):
    for prompt in ("", "h", "ott"):
        wanted = greedy(model, prompt)
        for seed, batch_size in ((1, None), (2, None), (3, 4)):
            texts = mg.generate(model, 5, 0, seed=seed, prompt=prompt, batch_size=batch_size)
            assert {text[: len(wanted)] for text in texts} == {wanted} and len(set(texts)) == 1


def test_of_equal_logits_the_first_is_taken():
    logits = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 1.0]], "float32")
    assert sampling_weights(logits, 0.0).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert sampling_weights(logits[0], 0.0).tolist() == [0, 1, 0]


def test_top_k_0_is_off(model):
    for batch_size in (None, 3):
        off = mg.generate(model, 9, 1.0, top_k=0, batch_size=batch_size)
        assert off == mg.generate(model, 9, 1.0, batch_size=batch_size)


def test_a_model_trained_with_temperature_0_samples_so(run, model):
    trained = mg.train(NAMES, num_steps=100, block_size=8, temperature=0, num_samples=3)
    assert len(set(mg.generate(trained.model))) == 1
    assert run("--temperature", 0)[1] == f"sample  1: {mg.generate(model, 1, 0)[0]}\n"


def test_a_prompt_is_read_from_a_file(run):
    Path("prompt").write_text("\ufeffhan\n", encoding="utf-8")
    for name in ("--prompt", "--start"):
        assert run(name, "FILE:prompt", "--temperature", 0) == run("--prompt", "han", "--temperature", 0)
    Path("other").write_bytes(b"a\xff")
    for text, message in (
        ("FILE:missing", "cannot read missing: No such file"),
        ("FILE:other", "other: not UTF-8"),
    ):
        code, out, err = run("--start", text)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def test_a_stream_keeps_the_newline_of_a_prompts_file(run):
    corpus = mg.load_corpus(["ab\n" * 50], mode="stream")
    mg.save(mg.train(corpus, num_steps=5, block_size=4, data_mode="stream").model, "model")
    Path("prompt").write_text("b\n")
    assert run("--start", "FILE:prompt", "--max-new-tokens", 0)[1] == "sample  1: \nb\n\n"


@pytest.mark.parametrize("text", ["---", "--", "-", "--a_b", "-x", "--stop"])
def test_a_text_may_begin_with_a_dash(text, run):
    code, out, err = run("--prompt", "a--b", "--max-new-tokens", 0, "--stop", text)
    if text == "--stop":  # an option
        assert code == 2 and "expected one argument" in err
    else:
        assert (code, out) == (0, "sample  1: a--b\n"), err
    if set(text) == {"-"}:  # all of it characters that the model knows
        assert run("--prompt", text, "--max-new-tokens", 0)[:2] == (0, f"sample  1: {text}\n")
    assert run("--prompt", "--b", "--max-new-tokens", 0)[:2] == (0, "sample  1: --b\n")
