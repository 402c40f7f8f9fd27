"""Names of files: those that are not UTF-8, and that messages name the right one."""

import os
import sys

import pytest

from microgpt_fast import cli
from microgpt_fast.training.settings import read_toml

pytestmark = pytest.mark.slow

ODD = os.fsdecode(b"caf\xe9")  # a name from an old archive, in Latin-1
QUICK = ("--num-steps", "5", "--num-samples", "0", "--quiet")


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """A function of arguments: exit code, stdout and stderr of the program, run here in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def names(tmp_path):
    """A text in files of several names."""
    try:
        (tmp_path / ODD).mkdir()
    except OSError:
        pytest.skip("this file system wants UTF-8")
    paths = [tmp_path / "a.txt", tmp_path / f"{ODD}.txt", tmp_path / ODD / "x.txt"]
    for path in paths:
        path.write_text("anna\nbob\n")
    return paths


def test_text_in_files_of_such_names_is_read(run, names):
    assert run("train", *QUICK, "--data", *names)[0] == 0
    code, out, _ = run("train", *QUICK, "--data", f"{ODD}.txt", "--save", f"{ODD}.safetensors")
    assert code == 0 and run("score", f"{ODD}.txt", "--model", f"{ODD}.safetensors")[0] == 0


@pytest.mark.parametrize("data", [f"{ODD}.txt", f"{ODD}/x.txt"])
def test_a_run_cannot_keep_such_a_name_and_says_so(run, names, tmp_path, data):
    code, _, err = run("train", *QUICK, "--data", data, "--out", "kept")
    assert code == 2 and err.count("\n") == 1 and r"caf\xe9" in err and "not UTF-8" in err
    assert not (tmp_path / "kept").exists()


def test_nor_relative_to_a_folder_of_such_a_name(run, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / ODD)
    code, _, err = run("train", *QUICK, "--data", "x.txt", "--out", "kept")
    assert code == 2 and err.count("\n") == 1 and "not UTF-8" in err and not os.path.exists("kept")


def test_a_run_in_a_folder_of_such_a_name(run, names):
    pytest.importorskip("matplotlib")
    assert run("train", *QUICK, "--data", "a.txt", "--out", f"{ODD}-run")[0] == 0
    assert run("train", "--resume", f"{ODD}-run", "--num-steps", "6", "--num-samples", "0")[0] == 0
    assert run("plot", f"{ODD}-run", "--out", "curve.png")[0] == 0


def test_messages_name_what_is_missing(run, names, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run("train", *QUICK, "--data", "a.txt", "--out", "kept")[0] == 0
    os.rename("a.txt", "c.txt")
    _, _, err = run("train", "--resume", "kept", "--num-steps", "8")
    assert err == f"microgpt-fast: cannot read {tmp_path / 'a.txt'}: No such file or directory\n"
    assert (
        run("train", "--resume", "kept", "--num-steps", "8", "--num-samples", "0", "--data", "c.txt")[0] == 0
    )
    assert read_toml("kept/config.toml")["data"] == [str(tmp_path / "c.txt")]
    assert run("train", "--resume", "kept", "--num-steps", "9", "--num-samples", "0")[0] == 0
    _, _, err = run("sample", "--model", "empty")
    assert err.startswith("microgpt-fast: empty: a folder without a model")
    os.remove("kept/metrics.jsonl")
    _, _, err = run("train", "--resume", "kept", "--num-steps", "10")
    assert "kept/metrics.jsonl: No such file" in err
    os.remove("kept/config.toml")
    _, _, err = run("train", "--resume", "kept", "--num-steps", "10")
    assert err == "microgpt-fast: cannot read kept/config.toml: No such file or directory\n"


def test_a_configuration_of_nanogpt_is_not_taken_for_data(run, tmp_path):
    (tmp_path / "config.py").write_text("max_iters = 3\n")
    code, _, err = run("train", "config.py")
    assert code == 0 and " 3 steps in " in err


def test_a_byte_order_mark_in_toml_is_nothing(run, tmp_path):
    (tmp_path / "a.toml").write_text("\ufeffnum_steps = 3\r\n", encoding="utf-8")
    assert read_toml(tmp_path / "a.toml") == {"num_steps": 3}


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be there")
def test_control_characters_in_names_are_escaped(run, tmp_path):
    name = "a\x1b[31m\u202eb\nc"
    (tmp_path / name).write_bytes(b"\xff")
    code, _, err = run("train", "--data", name)
    assert code == 2 and err.count("\n") == 1 and r"a\x1b[31m\u202eb" in err
    assert run("train", *QUICK, "--data", name, "--tokenizer", "byte")[0] == 0
