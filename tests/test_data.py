import numpy as np
import pytest

from microgpt_fast.data import text as reading
from microgpt_fast.data.load import load_corpus
from microgpt_fast.data.text import DataError

SPACES = "".join(chr(code) for code in range(0x110000) if chr(code).isspace())
NASTY = [
    "a\nb\n",
    "a\r\nb\rc\n\r\r\nd",
    "\n\n  \n\t x y \n\n",
    f"{SPACES}\n{SPACES}a{SPACES}b{SPACES}\n{SPACES}",
    "\ufeffbom\nx\u2028y\u2029z\u2028\n\u2028\nv\x85w\n\x0bq\x0b\n\x1cr\x1d",
    "\x00\n\x00 \x00",
    "😀\n한글 é\nn\u0301",
    "last line without its end",
]


def documents_of(corpus):
    return [
        corpus.tokenizer.decode(corpus.tokens[start:end])
        for start, end in zip(corpus.offsets[:-1], corpus.offsets[1:])
    ]


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "text.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("piece", [1, 5, 1 << 20])
@pytest.mark.parametrize("text", NASTY)
def test_documents_are_the_stripped_lines_that_a_text_file_iterates(text, piece, write, monkeypatch):
    monkeypatch.setattr(reading, "PIECE", piece)
    path = write(text)
    with open(path, encoding="utf-8") as lines:
        expected = [line.strip() for line in lines if line.strip()]
    assert documents_of(load_corpus(path)) == expected


def test_layout():
    corpus = load_corpus(["ba", "c"])
    assert len(corpus) == 2
    assert corpus.tokens.tolist() == [3, 1, 0, 3, 3, 2, 3] and corpus.tokens.dtype == np.int32
    assert corpus.offsets.tolist() == [0, 4, 7] and corpus.offsets.dtype == np.int64
    assert load_corpus(["ba", "c"], bos="first").tokens.tolist() == [0, 2, 1, 0, 0, 3, 0]


def test_batches_wrap_around_the_order_and_cut_long_documents():
    corpus = load_corpus(["abcdef", "a", "bc"])
    starts, lengths = corpus.batches(np.array([2, 0, 1]), first=2, count=5, block_size=4)
    assert starts.tolist() == [8, 11, 0, 8, 11] and starts.dtype == np.int64
    assert lengths.tolist() == [2, 3, 4, 2, 3] and lengths.dtype == np.int32


def test_given_documents_are_kept_as_they_are():
    assert documents_of(load_corpus(iter([" a\n", "", "b"]))) == [" a\n", "b"]


def test_the_built_in_names():
    corpus = load_corpus()
    assert len(corpus) == 5163 and corpus.tokenizer.chars == "abcdefghijklmnopqrstuvwxyz"
    assert documents_of(corpus)[:2] == ["aaron", "abbey"]


def test_the_longest_piece_does_not_change_a_corpus(shared, monkeypatch):
    path = shared / "data" / "tinyshakespeare.txt"
    whole = load_corpus(path)
    monkeypatch.setattr(reading, "PIECE", 1000)
    pieces = load_corpus(str(path))
    assert np.array_equal(whole.tokens, pieces.tokens) and np.array_equal(whole.offsets, pieces.offsets)
    assert documents_of(whole) == [line.strip() for line in open(path, encoding="utf-8") if line.strip()]


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\t\r\n\xe2\x80\xa8"])
def test_blank_files_are_refused(content, write):
    with pytest.raises(DataError, match="text.txt.*no documents"):
        load_corpus(write(content))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"abc\n\xff", "0xff at offset 4"),
        (b"\xed\xa0\x80", "0xed at offset 0"),
        (b"ab\xc3", "0xc3 at offset 2"),
    ],
)
def test_invalid_utf8_is_located(content, message, write):
    with pytest.raises(DataError, match=f"text.txt: not UTF-8 text: byte {message}"):
        load_corpus(write(content))


@pytest.mark.parametrize(
    "documents, message",
    [
        ([], "no documents"),
        (["", ""], "no documents"),
        (["a", b"b"], "document 1 must be a str, not bytes"),
        (["a", "\ud800"], "U\\+D800"),
    ],
)
def test_unusable_documents_are_refused(documents, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(documents)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_corpus(tmp_path / "missing")
    with pytest.raises(DataError, match="no documents: a folder without files"):
        load_corpus(tmp_path)


def test_a_corpus_of_one_character():
    corpus = load_corpus(["a"])
    assert corpus.tokens.tolist() == [1, 0, 1] and corpus.tokenizer.vocab_size == 2


def test_names_of_files_that_are_given_as_documents_are_warned_of(write):
    path = write("anna\nbob\n")
    with pytest.warns(UserWarning, match="pathlib.Path"):
        assert documents_of(load_corpus([str(path)])) == [str(path)]
    assert documents_of(load_corpus([path])) == ["anna", "bob"]
