"""Text of any bytes, encodings, line ends and white space: the documents are those that open() and strip() give."""

import io
from types import SimpleNamespace

import numpy as np

from microgpt_fast.data import text
from microgpt_fast.data.corpus import pack, segments
from microgpt_fast.data.text import DataError, looks_like_a_stream

PARTS = [
    b"\n", b"\r", b"\r\n", b" ", b"\t", b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\x00", b"a", b"bc", b"\x1b[2J", b"\xff",
    b"\xed\xa0\x80", b"\xc3", b"\xa9", *[char.encode() for char in "\ufeff\u2028\xa0\x85\u3000\u202eé한😀\ud7ff\uffff"],
]  # fmt: skip
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252"]


def make(random):
    """Contents of files, and how they are read."""
    files = []
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        content = b"".join(random.choices(PARTS, k=random.randrange(1, 60)))
        if random.random() < 0.3:  # much of the same
            content += random.choice(PARTS) * random.randrange(200)
        if random.random() < 0.2:
            content = bytes(random.randrange(256) for _ in range(random.randrange(100)))
        elif random.random() < 0.6:
            content = content.decode("utf-8", "ignore").encode(random.choice(ENCODINGS), "replace")
        files.append(content)
    return SimpleNamespace(
        files=files,
        piece=random.choice([1, 2, 3, 7, 64, 1 << 18]),
        mode=random.choice(["lines", "stream"]),
        tokenizer=random.choice(["char", "byte"]),
        bos=random.choice(["first", "last"]),
    )


def run(case):
    """Compare with what Python makes of the files."""
    before, text.PIECE = text.PIECE, case.piece
    try:
        files = [
            (f"file {i}", len(content), lambda content=content: io.BytesIO(content))
            for i, content in enumerate(case.files)
        ]
        corpus = pack(segments(files, case.mode, case.tokenizer), case.tokenizer, case.bos, case.mode, "data")
    except DataError as error:
        _check_refusal(case, str(error))
        return
    finally:
        text.PIECE = before
    found = [
        corpus.tokens[start + 1 : end - 1] for start, end in zip(corpus.offsets[:-1], corpus.offsets[1:])
    ]
    wanted = expected(case)
    assert len(found) == len(wanted)
    for ids, document in zip(found, wanted):
        if case.tokenizer == "byte":
            assert bytes((ids - (case.bos == "first")).tolist()) == document
        else:
            assert corpus.tokenizer.decode(ids) == document
    looks_like_a_stream(np.frombuffer(b"".join(case.files), np.uint8), 16)


def expected(case):
    """The documents, by Python's own means; UnicodeDecodeError for what is not UTF-8."""
    documents = []
    for content in case.files:
        if case.tokenizer == "char":
            whole = io.StringIO(content.decode(), newline=None).read()
            if case.mode == "stream":
                whole = whole.removeprefix("\ufeff")
            newline = "\n"
        else:
            whole, newline = content.removeprefix(b"\xef\xbb\xbf"), b"\n"
            if case.mode == "lines":
                whole = whole.replace(b"\r\n", newline).replace(b"\r", newline)
        documents += [line.strip() for line in whole.split(newline)] if case.mode == "lines" else [whole]
    return [document for document in documents if document]


def _check_refusal(case, message):
    """A text may be refused if it is not UTF-8, looks like UTF-16, or has no documents."""
    if "no documents" in message:
        assert not expected(case)
        return
    assert case.tokenizer == "char"
    if "UTF-16" in message:
        assert any(b"\0" in content or content[:2] in (b"\xff\xfe", b"\xfe\xff") for content in case.files)
        return
    try:
        expected(case)
    except UnicodeDecodeError:
        return
    raise AssertionError(message)
