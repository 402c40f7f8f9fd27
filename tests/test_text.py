import io
import os

import numpy as np
import pytest

from microgpt_fast import cli
from microgpt_fast.data import files, text
from microgpt_fast.data import load as data
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
    for mode, expected in (("lines", lines), ("stream", [everything.removeprefix("\ufeff")])):
        corpus = load_corpus(path, mode=mode)
        check_layout(corpus)
        assert documents(corpus) == expected and corpus.mode == mode
        assert corpus.tokenizer.chars == "".join(sorted(set("".join(expected))))
    content = content.removeprefix("\ufeff".encode())
    split = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    raw = [line.strip() for line in split if line.strip()]
    for mode, expected in (("lines", raw), ("stream", [content])):
        corpus = load_corpus(path, mode=mode, tokenizer="byte", bos="first")
        check_layout(corpus)
        parts = np.split(corpus.tokens, corpus.offsets[1:-1])
        assert [bytes((part[1:-1] - 1).tolist()) for part in parts] == expected


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


def test_the_mode_counts_tokens_not_bytes(tmp_path):
    verse = "\u4e00\u4e8c\u4e09\u56db\u4e94\uff0c\u516d\u4e03\u516b\u4e5d\u5341\u3002\n"  # 12 characters, 36 bytes
    (tmp_path / "verses").write_text(verse * 50, encoding="utf-8")
    assert load_corpus(tmp_path / "verses", mode="auto", block_size=16).mode == "lines"
    assert load_corpus(tmp_path / "verses", mode="auto", block_size=16, tokenizer="byte").mode == "stream"


def test_the_mode_is_that_of_most_of_a_folder_not_of_its_first_file(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a_readme").write_text("anna\n")
    for number in range(5):
        (folder / f"chapter{number}").write_text("a line of a chapter that is longer than a block\n" * 9)
    assert load_corpus(folder, mode="auto").mode == "stream"


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_in_any_text_file(tokenizer, end, tmp_path):
    (tmp_path / "names").write_bytes("".join(f"{name}{end}" for name in ("anna", "bob", "carol")).encode())
    for mode in ("lines", "auto"):
        corpus = load_corpus(tmp_path / "names", mode=mode, tokenizer=tokenizer)
        assert documents(corpus) == ["anna", "bob", "carol"] and corpus.mode == "lines"
    assert load_corpus(tmp_path / "names", tokenizer=tokenizer).note is None


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
@pytest.mark.parametrize("mode", ["lines", "stream"])
def test_a_byte_order_mark_is_said_and_kept_where_the_original_keeps_it(tokenizer, mode, tmp_path):
    (tmp_path / "a").write_text("\ufeffanna\nbob", encoding="utf-8")
    corpus = load_corpus(tmp_path / "a", mode=mode, tokenizer=tokenizer)
    is_kept = (mode, tokenizer) == ("lines", "char")
    expected = {"lines": ["anna", "bob"], "stream": ["anna\nbob"]}[mode]
    assert documents(corpus) == (["\ufeffanna", "bob"] if is_kept else expected)
    assert "a begins with a byte order mark" in corpus.note and ("kept" in corpus.note) == is_kept


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_utf16_is_named(encoding, tmp_path):
    (tmp_path / "a").write_text("anna\nbob\ncarol\n" * 9, encoding=encoding)
    if encoding == "utf-32-be":
        (tmp_path / "a").write_bytes(b"\0\0\xfe\xff" + (tmp_path / "a").read_bytes())
    with pytest.raises(DataError, match="a: not UTF-8 text: it begins like UTF-16.*iconv"):
        load_corpus(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"x\0y\0\0\n" * 9)
    assert len(load_corpus(tmp_path / "a")) == 9  # NULs alone do not make it


def test_blanks_within_a_line_take_linear_time(monkeypatch):
    """Each piece of a long run of white space is looked at once, not again with each piece that follows."""
    seen = []
    monkeypatch.setattr(
        np, "concatenate", lambda parts, f=np.concatenate: seen.append(len(parts)) or f(parts)
    )
    pieces = [np.frombuffer(piece, np.uint8) for piece in (b"ab ", *[b" " * 9] * 200, b" c\n")]
    parts = [*text.lines(pieces, text.byte_spaces())]
    assert b"".join(codes.tobytes() for codes, _, _ in parts) == b"ab" + b" " * 1802 + b"c"
    assert seen == [202]


def texts_with_a_run(tmp_path):
    folder = tmp_path / "texts"
    (folder / "run").mkdir(parents=True)
    (folder / "book").write_text("words\n")
    for name in (*files.RUN_FILES, "plot.png"):
        (folder / "run" / name).write_bytes(b"\xff")
    return folder


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_a_run_within_the_data_is_left_out_and_said(tokenizer, tmp_path):
    folder = texts_with_a_run(tmp_path)
    corpus = load_corpus(folder, tokenizer=tokenizer)
    assert documents(corpus) == ["words"]
    assert corpus.note == f"left out of the data: {folder / 'run'} (a run)"


def test_a_run_in_the_very_folder_of_the_data_and_models_are_left_out(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "book").write_text("words\n")
    (folder / "model.safetensors").write_bytes(b"\xff")
    assert "model.safetensors (a model)" in load_corpus(folder).note
    for name in files.RUN_FILES:
        (folder / name).write_bytes(b"\xff")
    corpus = load_corpus(folder)
    assert documents(corpus) == ["words"] and "of a run" in corpus.note and "and 3 more" in corpus.note


def test_the_files_of_a_run_are_known():
    from microgpt_fast.training import runs

    assert files.RUN == (runs.CONFIG, runs.METRICS)
    assert set(files.RUN_FILES) == {runs.CONFIG, runs.METRICS, runs.LAST, runs.BEST, runs.SAMPLES}


def test_links_to_folders_and_pipes_in_a_folder_are_left_out_and_said(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "book").write_text("words\n")
    (folder / "link").symlink_to(tmp_path)  # which leads back here
    os.mkfifo(folder / "pipe")  # reading it would wait for ever
    corpus = load_corpus(folder)
    assert documents(corpus) == ["words"]
    assert "link (a link to a folder)" in corpus.note and "pipe (no regular file)" in corpus.note


def test_the_file_that_is_missing_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "gone.txt").symlink_to("/nonexistent/x.txt")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("anna\n")
    for arguments, missing in (
        (["a.txt", "missing.txt", "b.txt"], "missing.txt"),
        (["folder"], "folder/gone.txt"),
    ):
        assert cli.main(["train", "--data", *arguments]) == 2
        assert capfd.readouterr().err == f"microgpt-fast: cannot read {missing}: No such file or directory\n"
    with pytest.raises(DataError, match="NUL"):
        load_corpus("a\0b")


@pytest.mark.parametrize("stdin", [None, "closed"])
def test_a_closed_stdin_is_one_line(stdin, monkeypatch, capfd):
    if stdin:
        stdin = io.StringIO()
        stdin.close()
    monkeypatch.setattr("sys.stdin", stdin)
    assert cli.main(["train", "--data", "-", "--num-steps", "2"]) == 2
    assert capfd.readouterr() == ("", "microgpt-fast: stdin is closed: there is nothing to read\n")


def test_a_stdin_of_text_is_read(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntw\u00f6"))
    assert documents(load_corpus("-")) == ["one", "tw\u00f6"]


def test_gathered_sequences_are_those_of_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    (tmp_path / "a").write_text("abcdef\ngh\ni\n")
    corpus = load_corpus(tmp_path / "a")
    starts, lengths = corpus.batches(np.array([2, 0, 1]), first=1, count=3, block_size=4)
    tokens, places = corpus.gather(starts, lengths)
    assert tokens.dtype == np.int32
    for start, place, length in zip(starts, places, lengths):
        assert np.array_equal(tokens[place : place + length + 1], corpus.tokens[start : start + length + 1])
