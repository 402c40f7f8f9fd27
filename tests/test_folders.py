"""Folders of mixed files, and characters that a model does not know."""

import os
import re

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.config import TrainConfig, UsageError
from microgpt_fast.data.load import load_corpus
from microgpt_fast.sampling.scoring import score


@pytest.fixture
def folder(tmp_path):
    for name, content in {
        "a.md": b"# one\n", "b.txt": b"two\n", "sub/c.md": b"three\n", "sub/draft.md": b"four\n",
        "picture.png": b"\x89PNG\r\n\x1a\n\0\0", "old.txt": b"f\xfcnf",
        "wide.txt": "six".encode("utf-16"),
    }.items():  # fmt: skip
        path = tmp_path / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "notes"


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    """A function of arguments: exit code, stdout and stderr of the program."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.fixture(scope="module")
def model():
    return mg.train(["anna", "bob", "a b?", "tab b"], num_steps=20, backend="numpy").model


def test_what_is_no_text_is_left_out_and_counted(folder):
    corpus = load_corpus(folder)
    assert len(corpus) == 4
    said = f"left out of the data: {folder / 'old.txt'} and 2 other files, which are not UTF-8 text"
    assert corpus.note.startswith(said)
    assert len(load_corpus(folder, mode="stream", tokenizer="byte")) == 7
    with pytest.raises(UsageError, match="not UTF-8 text"):  # named, it is refused
        load_corpus(folder / "picture.png")


def test_a_character_cut_by_the_look_at_a_file_is_text(tmp_path, monkeypatch):
    monkeypatch.setattr("microgpt_fast.data.files.LOOKED_AT", 4)
    (tmp_path / "text").write_bytes("abc\u00e9".encode())
    assert len(load_corpus(tmp_path)) == 1
    (tmp_path / "text").write_bytes("ab\u00e9".encode()[:-1])
    with pytest.raises(UsageError, match="without files that are UTF-8 text"):
        load_corpus(tmp_path)


@pytest.mark.parametrize(
    "include, exclude, count",
    [
        (["*.md"], [], 3),
        (["*.md"], ["draft*"], 2),
        ([], ["sub/*"], 2),
        (["sub/*"], [], 2),
        (["a.md", "*.txt"], [], 2),
    ],
)
def test_patterns_choose_files(folder, include, exclude, count):
    assert len(load_corpus(folder, include=include, exclude=exclude)) == count
    run = mg.Trainer(folder, include=include, exclude=exclude, backend="numpy")
    assert len(run.corpus) == count and run.config.include == tuple(include)


def test_patterns_that_choose_nothing_are_refused(folder):
    with pytest.raises(UsageError, match="without files that are wanted"):
        load_corpus(folder, include=["*.rst"])
    with pytest.raises(UsageError, match="include must be a list of patterns"):
        TrainConfig(include="*.md")


def test_a_run_remembers_its_patterns(folder, run):
    options = ["--n-embd", 8, "--n-head", 2, "--num-samples", 0, "--out", "one", "--include", "*.md", "*.rst"]
    assert run("train", "--data", folder, *options, "--exclude", "draft*", "--num-steps", 3)[0] == 0
    assert "num docs: 2\n" in run("train", "--resume", "one", "--num-steps", 5)[1]


def test_an_unknown_character_is_named_with_its_place(model, tmp_path):
    with pytest.raises(UsageError, match=r"'x' \(U\+0078\), line 1, column 3, is not in the vocabulary"):
        mg.generate(model, 1, prompt="anx")
    path = tmp_path / "text"
    path.write_text("anna\n\n   bob xx\n")
    with pytest.raises(UsageError, match=rf"{re.escape(str(path))}: the character 'x' .* line 3, column 8,"):
        score(model, path)
    with pytest.raises(UsageError, match="document 1,"):
        score(model, ["anna", "x"])
    path.write_text("anna\nbob")
    with pytest.raises(UsageError, match=r"'.n' .* line 1, column 5,"):
        score(model, path, "stream")


def test_unknown_characters_are_skipped_or_replaced(model, tmp_path):
    path = tmp_path / "text"
    path.write_text("axnna\nxx\nbxob\n")
    skipped = score(model, path, unknown="skip")
    assert np.array_equal(skipped.surprises, score(model, ["anna", "bob"]).surprises)
    assert skipped.corpus.note == "4 characters that the model does not know: skip"
    replaced = score(model, path, unknown="replace")
    assert np.array_equal(replaced.surprises, score(model, ["a?nna", "??", "b?ob"]).surprises)
    assert mg.generate(model, 2, prompt="axn", unknown="skip") == mg.generate(model, 2, prompt="an")
    assert mg.generate(model, 2, prompt="axn", unknown="replace") == mg.generate(model, 2, prompt="a?n")
    with pytest.raises(UsageError, match="unknown must be one of error, skip, replace"):
        score(model, path, unknown="maybe")
    path.write_text("xyz")
    with pytest.raises(UsageError, match="no documents"):
        score(model, path, unknown="skip")


def test_documents_over_pieces_lose_unknown_characters_alike(model, tmp_path, monkeypatch):
    path = tmp_path / "text"
    path.write_text("axxxxna\nxxx\nbxo\n")
    expected = score(model, ["ana", "bo"]).surprises
    for piece in (1, 2, 3, 100):
        monkeypatch.setattr("microgpt_fast.data.text.PIECE", piece)
        assert np.array_equal(score(model, path, unknown="skip").surprises, expected)


def test_the_command_line_takes_them(model, run, tmp_path):
    mg.save(model, tmp_path / "model")
    (tmp_path / "text").write_text("anxna\n")
    code, _, err = run("score", "model", "text")
    assert code == 2 and "text: the character 'x'" in err and "line 1, column 3" in err and "--unknown" in err
    code, out, err = run("score", "model", "text", "--unknown", "skip")
    assert code == 0 and "tokens: 5" in out and "1 characters that the model does not know: skip" in err
    code, out, _ = run("sample", "model", "--prompt", "anx", "--unknown", "replace", "--num-samples", 1)
    assert code == 0 and out.startswith("sample  1: an?") and os.path.exists("model")
