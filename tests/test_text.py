import io
import os

import numpy as np
import pytest

from microgpt_fast.config import UsageError
from microgpt_fast.data import load as data
from microgpt_fast.data import text, token_cache
from microgpt_fast.data.load import load_corpus
from microgpt_fast.data.text import DataError, looks_like_a_stream

TEXTS = [
    b"a\nb\n",
    b"a\r\nb\rc\n\r\r\nd\r",
    b"  x y \n\n \t\n" + b" " * 40 + b"z" + b"\t " * 30 + b"q" + b" " * 50 + b"\n" + b" " * 60,
    "\ufeffbom\n\u2028x\u2028y\u2029\nv\x85w\n\x00\n".encode(),
    "😀\n한글 é\nascii again".encode(),
    b"one line of some length without an end",
    b"\n\n\nx",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(folder))
    return folder


def documents(corpus):
    return [
        corpus.tokenizer.decode(corpus.tokens[start + 1 : end - 1])
        for start, end in zip(corpus.offsets[:-1], corpus.offsets[1:])
    ]


def check_layout(corpus):
    assert corpus.offsets[0] == 0 and corpus.offsets[-1] == len(corpus.tokens)
    assert (corpus.tokens[corpus.offsets[:-1]] == corpus.tokenizer.bos).all()
    assert (corpus.tokens[corpus.offsets[1:] - 1] == corpus.tokenizer.bos).all()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
@pytest.mark.parametrize("content", TEXTS)
def test_documents_do_not_depend_on_how_the_text_is_read(content, piece, cached, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", piece)
    monkeypatch.setattr(data, "CACHED_FROM", 0 if cached else 10**9)
    path = tmp_path / "text"
    path.write_bytes(content)
    everything = io.StringIO(content.decode(), newline=None).read()
    lines = [line.strip() for line in everything.split("\n") if line.strip()]
    for mode, expected in (("lines", lines), ("stream", [everything])):
        corpus = load_corpus(path, mode=mode)
        check_layout(corpus)
        assert documents(corpus) == expected and corpus.mode == mode
        assert corpus.tokenizer.chars == "".join(sorted(set("".join(expected))))
    raw = [line.strip() for line in content.split(b"\n") if line.strip()]
    for mode, expected in (("lines", raw), ("stream", [content])):
        corpus = load_corpus(path, mode=mode, tokenizer="byte", bos="first")
        check_layout(corpus)
        parts = np.split(corpus.tokens, corpus.offsets[1:-1])
        assert [bytes((part[1:-1] - 1).tolist()) for part in parts] == expected


@pytest.mark.parametrize("count, dtype", [(100, "uint8"), (1000, "uint16"), (70000, "int32")])
def test_the_cache_takes_the_smallest_type_that_holds_the_ids(count, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    chars = "".join(map(chr, range(0x10000, 0x10000 + count)))
    (tmp_path / "text").write_text(f"plain\n{chars}\n", encoding="utf-8")
    corpus = load_corpus(tmp_path / "text")
    assert corpus.tokens.dtype == dtype and documents(corpus) == ["plain", chars]


def test_the_cache_is_found_by_content(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("one\ntwo\n")
    first = load_corpus(tmp_path / "a")
    assert isinstance(first.tokens, np.memmap)
    monkeypatch.setattr(token_cache, "_write", None)  # it is not called again
    assert documents(load_corpus(tmp_path / "b")) == ["one", "two"]
    monkeypatch.undo()
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(cache))
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    (tmp_path / "b").write_text("one\ntwi\n")
    assert documents(load_corpus(tmp_path / "b")) == ["one", "twi"]
    load_corpus(tmp_path / "b", mode="stream")
    assert len(os.listdir(cache)) == 3


def test_a_damaged_cache_is_made_again(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    (tmp_path / "a").write_text("one\ntwo\n")
    load_corpus(tmp_path / "a")
    (entry,) = cache.iterdir()
    for name, content in (("tokens.bin", b"\0"), ("offsets.bin", b""), ("about.json", b"{")):
        (entry / name).write_bytes(content)
        assert documents(load_corpus(tmp_path / "a")) == ["one", "two"]
    assert sorted(os.listdir(entry)) == ["about.json", "offsets.bin", "tokens.bin"]


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    (tmp_path / "a").write_text("one\n")
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(tmp_path / "a" / "b"))
    with pytest.raises(UsageError, match="cannot write the cache of tokens.*MICROGPT_FAST_CACHE"):
        load_corpus(tmp_path / "a")


def test_errors_leave_nothing_in_the_cache(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    for content, message in ((b"ab\n\xff", "0xff at offset 3"), (b" \n", "no documents")):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_corpus(tmp_path / "a")
    assert os.listdir(cache) == []


def test_the_place_of_an_error_is_counted_over_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 3)
    (tmp_path / "a").write_bytes("é\r\né\r\n\r\n".encode() + b"abc\xc3(")
    with pytest.raises(DataError, match="0xc3 at offset 13"):
        load_corpus(tmp_path / "a")


def test_several_files_and_folders(tmp_path):
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name, content in (("b", "b1\nb2"), ("a", "a"), ("below/c", "c"), (".hidden/d", "d"), (".e", "e")):
        (folder / name).write_text(content)
    assert documents(load_corpus(str(folder))) == ["a", "b1", "b2", "c"]
    assert documents(load_corpus([folder / "b", folder / "below"])) == ["b1", "b2", "c"]
    assert documents(load_corpus(folder, mode="stream")) == ["a", "b1\nb2", "c"]


def test_stdin_and_pipes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo")))
    assert documents(load_corpus("-")) == ["one", "two"]
    os.mkfifo(tmp_path / "pipe")
    if os.fork() == 0:
        (tmp_path / "pipe").write_bytes(b"three")
        os._exit(0)
    assert documents(load_corpus(tmp_path / "pipe")) == ["three"]
    os.wait()


@pytest.mark.parametrize(
    "content, is_stream",
    [
        ("anna\nbob\n", False),
        ("", False),
        ("\n\n\n", False),
        ("A paragraph\nof two lines.\n\nAnother one.\n" * 9, True),
        ("a line much longer than the sixteen tokens of a block\n" * 9, True),
        ("short\n" * 99 + "\n", False),
    ],
)
def test_long_texts_are_told_from_lists_of_documents(content, is_stream):
    reason = looks_like_a_stream(np.frombuffer(content.encode(), np.uint8), 16)
    assert (reason is not None) == is_stream


def test_the_mode_is_chosen_with_a_note(tmp_path):
    (tmp_path / "prose").write_text("Some words\n\nand more\n")
    (tmp_path / "names").write_text("anna\nbob\n")
    prose = load_corpus(tmp_path / "prose", mode="auto")
    names = load_corpus(tmp_path / "names", mode="auto")
    assert (prose.mode, names.mode) == ("stream", "lines")
    assert "stream" in prose.note and "blank" in prose.note and "lines" in names.note
    assert "--data-mode stream" in load_corpus(tmp_path / "prose").note
    assert load_corpus(tmp_path / "names").note is None


def test_gathered_sequences_are_those_of_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    (tmp_path / "a").write_text("abcdef\ngh\ni\n")
    corpus = load_corpus(tmp_path / "a")
    starts, lengths = corpus.batches(np.array([2, 0, 1]), first=1, count=3, block_size=4)
    tokens, places = corpus.gather(starts, lengths)
    assert tokens.dtype == np.int32
    for start, place, length in zip(starts, places, lengths):
        assert np.array_equal(tokens[place : place + length + 1], corpus.tokens[start : start + length + 1])
