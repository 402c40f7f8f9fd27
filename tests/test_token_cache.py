"""The token cache: found again by content, and trusted in nothing."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from microgpt_fast import locks
from microgpt_fast.config import UsageError
from microgpt_fast.data import cache_folder, token_cache, token_entry
from microgpt_fast.data import load as data
from microgpt_fast.data.load import load_corpus
from microgpt_fast.data.text import DataError
from microgpt_fast.data.token_entry import ABOUT, OFFSETS, TOKENS, VERIFIED

pytestmark = pytest.mark.slow

TEXT = "one\ntwo\nthree\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, in which texts of all sizes are kept."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(folder))
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    return folder


def documents(corpus):
    return [
        corpus.tokenizer.decode(corpus.tokens[start + 1 : end - 1])
        for start, end in zip(corpus.offsets[:-1], corpus.offsets[1:])
    ]


@pytest.mark.parametrize("count, dtype", [(100, "uint8"), (1000, "uint16"), (70000, "int32")])
def test_the_cache_takes_the_smallest_type_that_holds_the_ids(count, dtype, tmp_path, monkeypatch):
    chars = "".join(map(chr, range(0x10000, 0x10000 + count)))
    (tmp_path / "text").write_text(f"plain\n{chars}\n", encoding="utf-8")
    corpus = load_corpus(tmp_path / "text")
    assert corpus.tokens.dtype == dtype and documents(corpus) == ["plain", chars]


def test_the_cache_is_found_by_content(tmp_path, cache, monkeypatch):
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("one\ntwo\n")
    first = load_corpus(tmp_path / "a")
    assert isinstance(first.tokens, np.memmap)
    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "_write", None)  # it is not called again
        assert documents(load_corpus(tmp_path / "b")) == ["one", "two"]
    (tmp_path / "b").write_text("one\ntwi\n")
    assert documents(load_corpus(tmp_path / "b")) == ["one", "twi"]
    load_corpus(tmp_path / "b", mode="stream")
    assert len(os.listdir(cache)) == 3


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("one\n")
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(tmp_path / "a" / "b"))
    with pytest.raises(UsageError, match="cannot write the cache of tokens.*MICROGPT_FAST_CACHE"):
        load_corpus(tmp_path / "a")


def test_errors_leave_nothing_in_the_cache(tmp_path, cache, monkeypatch):
    for content, message in ((b"ab\n\xff", "0xff at offset 3"), (b" \n", "no documents")):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_corpus(tmp_path / "a")
    assert os.listdir(cache) == []


@pytest.fixture
def words(tmp_path):
    """A text."""
    path = tmp_path / "words"
    path.write_text(TEXT)
    return path


@pytest.fixture
def entry(words, cache):
    """The entry of that text."""
    load_corpus(words)
    (entry,) = cache.iterdir()
    return entry


def is_made_again(words, entry, capfd, reason=""):
    """Whether the entry is not trusted, which is said in one line, and then is as it should be."""
    corpus = load_corpus(words)
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and err.startswith(
        f"microgpt-fast: the cache of tokens in {entry} cannot be trusted"
    )
    assert reason in err
    assert documents(corpus) == TEXT.split()
    assert documents(load_corpus(words)) == TEXT.split() and capfd.readouterr().err == ""
    assert {TOKENS, OFFSETS, ABOUT} <= {*os.listdir(entry)} <= {TOKENS, OFFSETS, ABOUT, VERIFIED}
    return True


def bytes_of(values, dtype=np.int64):
    return np.array(values, dtype).tobytes()


CONTENTS = {
    "no tokens": (TOKENS, b""),
    "zeros for tokens": (TOKENS, bytes(17)),
    "tokens in another order": (TOKENS, lambda content: content[::-1]),
    "one bit of a token": (TOKENS, lambda content: bytes([content[0], content[1] ^ 1]) + content[2:]),
    "no offsets": (OFFSETS, b""),
    "a huge offset": (OFFSETS, lambda content: bytes_of([0, 5, 10**15, 17])),
    "not JSON": (ABOUT, b"{"),
    "not even text": (ABOUT, b"\xff\xfe\0"),
    "an empty description": (ABOUT, b"{}"),
    "a number for a description": (ABOUT, b"7"),
    "deep JSON": (ABOUT, b"[" * 100_000),
    "many digits": (ABOUT, lambda content: content.replace(b'"tokens": 17', b'"tokens": ' + b"9" * 5000)),
    "pointers": (ABOUT, lambda content: content.replace(b"uint8", b"O")),
    "another type": (ABOUT, lambda content: content.replace(b"uint8", b"int8")),
    "another vocabulary": (ABOUT, lambda content: content.replace(b'"chars": "e', b'"chars": "f')),
    "an older version's description": (
        ABOUT,
        json.dumps(
            {
                "tokens": 17,
                "documents": 3,
                "dtype": "uint8",
                "mode": "lines",
                "tokenizer": {"chars": "ehnortw", "bos": "last"},
            }
        ).encode(),
    ),
}


@pytest.mark.parametrize("damage", CONTENTS)
def test_a_damaged_entry_is_made_again(words, entry, capfd, damage):
    name, content = CONTENTS[damage]
    path = entry / name
    damaged = content(path.read_bytes()) if callable(content) else content
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    assert is_made_again(words, entry, capfd)


FORGED = {
    "pointers": {"dtype": "O"},
    "a record": {"dtype": "V8"},
    "no type": {"dtype": "nosuch"},
    "too many tokens": {"tokens": 2**60},
    "no tokens": {"tokens": 0},
    "fewer than no tokens": {"tokens": -17},
    "truth for a number": {"documents": True},
    "too many documents": {"documents": 2**60},
    "a smaller vocabulary": {"tokenizer": {"chars": "ehn", "bos": "last"}},
    "bytes": {"tokenizer": {"bytes": True, "bos": "last"}},
    "a vocabulary in another order": {"tokenizer": {"chars": "wtronhe", "bos": "last"}},
    "a list for a vocabulary": {"tokenizer": {"chars": list("ehnortw"), "bos": "last"}},
    "half a character": {"tokenizer": {"chars": "ehnort\ud800", "bos": "last"}},
    "another place of bos": {"tokenizer": {"chars": "ehnortw", "bos": "first"}},
    "an unknown tokenizer": {"tokenizer": {"words": 3}},
    "another mode": {"mode": "stream"},
    "the key of another text": {"key": "0" * 32},
    "ids beyond the vocabulary": {TOKENS: bytes([7, 4, 200, 0, 7] * 3 + [7, 7])},
    "documents without a beginning": {TOKENS: bytes(17)},
    "a first offset that is not 0": {OFFSETS: bytes_of([1, 5, 10, 17])},
    "an offset beyond the tokens": {OFFSETS: bytes_of([0, 5, 10**15, 17])},
    "an offset before the tokens": {OFFSETS: bytes_of([0, -(10**15), 10, 17])},
    "offsets that fall": {OFFSETS: bytes_of([0, 10, 5, 17])},
    "a last offset that is not the end": {OFFSETS: bytes_of([0, 5, 10, 16])},
    "negative ids": {TOKENS: bytes_of([7, -5, 1, 1, 7] * 3 + [7, 7], np.int32), "dtype": "int32"},
}


def forge(entry, changes):
    """Change an entry, with valid checksums."""
    about = {**json.loads((entry / ABOUT).read_bytes()), **changes}
    for name in (TOKENS, OFFSETS):
        if name in about:
            (entry / name).write_bytes(about.pop(name))
    del about["checksum"]
    token_entry.describe(entry, **about)


@pytest.mark.parametrize("changes", FORGED)
def test_an_entry_is_not_trusted_for_its_checksums(words, entry, capfd, changes):
    forge(entry, FORGED[changes])
    assert is_made_again(words, entry, capfd)


def test_what_an_entry_holds_is_read_once_for_a_boot_and_a_state_of_its_files(
    words, entry, monkeypatch, tmp_path
):
    if not os.path.exists(token_entry.BOOT):
        pytest.skip("this system does not tell its boots apart")
    monkeypatch.setattr(token_entry, "LEAST_AGE", -1)
    read = []
    monkeypatch.setattr(token_entry, "check", lambda *a, check=token_entry.check: read.append(check(*a)))
    for changed, count in (
        (lambda: None, 1),
        (lambda: None, 1),
        (lambda: os.utime(entry / TOKENS), 2),
        (lambda: (entry / OFFSETS).write_bytes((entry / OFFSETS).read_bytes()), 3),
        (lambda: None, 3),
        (lambda: (entry / VERIFIED).write_bytes(b"{"), 4),
        (lambda: monkeypatch.setattr(token_entry, "BOOT", str(words)), 5),
        (lambda: monkeypatch.setattr(token_entry, "BOOT", str(tmp_path / "missing")), 6),
        (lambda: None, 7),
    ):
        changed()
        assert documents(load_corpus(words)) == TEXT.split()
        assert len(read) == count


def test_a_change_with_the_old_time_of_change_is_seen(words, entry, capfd, monkeypatch):
    monkeypatch.setattr(token_entry, "LEAST_AGE", -1)
    load_corpus(words)
    about = os.stat(entry / TOKENS)
    (entry / TOKENS).write_bytes(bytes(about.st_size))
    os.utime(entry / TOKENS, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert is_made_again(words, entry, capfd, "checksum")


def test_what_has_just_changed_is_read_the_next_time_too(words, entry):
    load_corpus(words)
    assert not (entry / VERIFIED).exists()


def test_the_cache_is_this_users_alone(words, cache, monkeypatch):
    before = os.umask(0)
    try:
        load_corpus(words)
    finally:
        os.umask(before)
    (entry,) = cache.iterdir()
    for path, mode in ((cache, 0o700), (entry, 0o700), (entry / TOKENS, 0o600), (entry / ABOUT, 0o600)):
        assert stat.S_IMODE(os.stat(path).st_mode) == mode


def test_what_others_may_have_written_is_not_trusted(words, entry, cache, capfd):
    for path in (entry, entry / TOKENS, entry / ABOUT):
        path.chmod(0o777)
        assert is_made_again(words, entry, capfd, "others may write to it")
    cache.chmod(0o777)
    with pytest.raises(UsageError, match="others may write to it"):
        load_corpus(words)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_trusted(words, entry, cache, capfd):
    for path in (entry, entry / TOKENS):
        os.chown(path, 12345, 12345)
        assert is_made_again(words, entry, capfd, "it belongs to another user")
    os.chown(cache, 12345, 12345)
    with pytest.raises(UsageError, match="it belongs to another user"):
        load_corpus(words)


def test_an_entry_that_is_a_symbolic_link_is_refused(words, entry, tmp_path, capfd):
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"{entry} is a symbolic link"):
        load_corpus(words)
    assert sorted(os.listdir(tmp_path / "elsewhere")) == [ABOUT, OFFSETS, TOKENS]


def test_what_is_no_file_is_replaced(words, entry, tmp_path, capfd):
    shutil.rmtree(entry)
    entry.write_text("a file")
    assert is_made_again(words, entry, capfd)
    for make in (lambda path: path.symlink_to(words), os.mkfifo, Path.mkdir, lambda path: None):
        (entry / TOKENS).unlink()
        make(entry / TOKENS)
        assert is_made_again(words, entry, capfd)


def test_all_is_on_the_disk_before_it_has_its_name(words, cache, monkeypatch):
    events = []

    def path_of(descriptor):
        return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("this system does not tell the names of open files")
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: events.append(path_of(descriptor)) or fsync(descriptor)
    )
    monkeypatch.setattr(os, "rename", lambda *paths: events.append("rename") or rename(*paths))
    load_corpus(words)
    (entry,) = os.listdir(cache)
    assert sorted(events[:4]) == sorted([TOKENS, OFFSETS, ABOUT, f"{entry}.tmp"])
    assert events[4:] == ["rename", "cache"]


def test_what_killed_processes_left_is_removed(words, cache, tmp_path):
    (tmp_path / "other").write_text("another text\n")
    program = """
import os, signal, sys
from microgpt_fast.data import load, token_cache
load.CACHED_FROM = 0
token_cache.describe = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
load.load_corpus(sys.argv[1])
"""
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "other"])
    assert killed.returncode == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert left.name.endswith(".tmp") and (left / TOKENS).exists()
    for name in ("0" * 32 + ".999999999.01234567.tmp", "texts.tmp"):  # an older version's, and none of ours
        (cache / name).mkdir()
    load_corpus(words)
    assert not left.exists() and (cache / "texts.tmp").exists() and len(os.listdir(cache)) == 2
    load_corpus(tmp_path / "other")


@pytest.mark.skipif(locks.fcntl is None, reason="needs locks")
def test_what_a_process_is_writing_is_not_removed(words, cache):
    load_corpus(words)
    with cache_folder.unfinished(cache, "1" * 32) as path:
        load_corpus(words)
        assert os.path.isdir(path)
    assert not os.path.exists(path)


@pytest.mark.parametrize("has_locks", [True, False])
def test_what_another_process_removes_meanwhile_is_no_error(words, cache, monkeypatch, has_locks):
    if not has_locks:
        monkeypatch.setattr(locks, "fcntl", None)
    load_corpus(words)
    names = os.listdir(cache)
    gone = ["1" * 32 + ".tmp", "2" * 32 + f".{os.getpid()}.01234567.tmp", "3" * 32 + ".999999999.01234567.tmp"]
    monkeypatch.setattr(os, "listdir", lambda path: gone + names)
    cache_folder.remove_leftovers(cache)


@pytest.mark.parametrize("has_locks", [True, False])
def test_many_processes_at_once_get_the_right_tokens(words, cache, has_locks):
    words.write_text("".join(f"word number {number}\n" for number in range(20000)))
    program = f"""
import hashlib, sys
from microgpt_fast import locks
from microgpt_fast.data import load
load.CACHED_FROM = 0
if not {has_locks}:
    locks.fcntl = None
corpus = load.load_corpus(sys.argv[1], mode=sys.argv[2])
print(hashlib.sha256(corpus.tokens).hexdigest(), hashlib.sha256(corpus.offsets).hexdigest())
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program, words, mode], stdout=subprocess.PIPE, text=True)
        for mode in ["lines", "lines", "stream", "lines"] * 2
    ]
    results = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes)
    assert len(set(results)) == 2 and all(results)
    assert len(os.listdir(cache)) == 2


def test_a_text_that_changes_while_it_is_read_is_refused(words, monkeypatch):
    def write(*arguments, write=token_cache._write):
        words.write_text("now it is another")
        return write(*arguments)

    monkeypatch.setattr(token_cache, "_write", write)
    with pytest.raises(DataError, match="words changed while it was read"):
        load_corpus(words)
