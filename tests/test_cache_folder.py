"""Where the token cache is, for users with and without a home."""

import os
import stat

import pytest

from microgpt_fast import cli
from microgpt_fast.data import load as data
from microgpt_fast.data.load import load_corpus

pytestmark = pytest.mark.slow


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A text, which is kept in the cache whatever its size."""
    monkeypatch.setattr(data, "CACHED_FROM", 0)
    monkeypatch.delenv("MICROGPT_FAST_CACHE", raising=False)
    path = tmp_path / "words"
    path.write_text("one\ntwo\n")
    return path


def test_the_usual_folder_is_made_private(words, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    folder = tmp_path / "caches" / "microgpt_fast"
    folder.mkdir(parents=True)
    folder.chmod(0o775)
    load_corpus(words)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


@pytest.mark.parametrize("caches", ["", "relative/path"])
def test_a_user_without_a_home_has_the_cache_among_temporary_files(
    words, tmp_path, monkeypatch, caches, capfd
):
    monkeypatch.setenv("XDG_CACHE_HOME", caches)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where there is no home
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    assert len(load_corpus(words)) == 2
    assert sorted(os.listdir(tmp_path)) == ["temporary", "words"]
    (folder,) = (tmp_path / "temporary").iterdir()
    assert folder.name.startswith("microgpt_fast-") and stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_a_usual_folder_that_cannot_be_used_is_said(words, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(words))  # a file
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    load_corpus(words)
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and f"not in {words / 'microgpt_fast'}: Not a directory" in err


def test_a_home_that_is_not_there_is_one_line(words, monkeypatch, capfd):
    monkeypatch.setenv("MICROGPT_FAST_CACHE", "~nosuchuser/cache")
    assert cli.main(["train", "--data", str(words)]) == 2
    assert "MICROGPT_FAST_CACHE is ~nosuchuser/cache, but there is no such home" in capfd.readouterr().err
