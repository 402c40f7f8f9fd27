"""What reaches a terminal: messages in one line, and no control characters that came out of a file."""

import ast
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import microgpt_fast as mg
from microgpt_fast import cli
from microgpt_fast.cli.output import Stdout
from microgpt_fast.messages import MachineError, file_of, machines_file, printable, tell

pytestmark = pytest.mark.slow

ESCAPED = {
    "\x1b[2J": r"\x1b[2J",
    "\x9b2J": r"\x9b2J",
    "a\nb\tc\r": r"a\nb\tc\r",
    "\x00\x07\x7f": r"\x00\x07\x7f",
    "\u202e\u2066\u200f\u061c\u206f": r"\u202e\u2066\u200f\u061c\u206f",
    "\u2028\u2029\x85": r"\u2028\u2029\x85",
    "caf\udce9 \ud800": r"caf\xe9 \ud800",
    "é 한 😀 \\ שלום": "é 한 😀 \\ שלום",
}


@pytest.mark.parametrize("text", ESCAPED)
def test_control_characters_are_shown_not_sent(text, capsys):
    assert printable(text) == ESCAPED[text]
    tell(text)
    assert capsys.readouterr().err == f"microgpt-fast: {ESCAPED[text]}\n"


def test_what_is_kept_is_left_alone():
    assert printable("a\n\t\r\x1b", keep="\n\t") == "a\n\t\\r\\x1b"


def test_names_in_messages_are_escaped(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    name = "\x1b]0;title\x07\u202e.txt"
    assert cli.main(["train", "--data", name]) == 2
    assert capfd.readouterr().err == (
        "microgpt-fast: cannot read \\x1b]0;title\\x07\\u202e.txt: No such file or directory\n"
    )


def test_names_of_folders_in_messages_of_numba_are_escaped(monkeypatch, capfd):
    compiled = pytest.importorskip("microgpt_fast.backends.numba_compile")
    monkeypatch.setattr(compiled, "DIRECTORY", "/tmp/\x1b[2J/numba")
    monkeypatch.setattr(compiled, "_announced", set())
    compiled._announce()
    err = capfd.readouterr().err
    assert err == "microgpt-fast: Numba compiles, which can take half a minute (kept in /tmp/\\x1b[2J)\n"


def prints(tree):
    """The lines of a syntax tree that write to stdout or stderr by themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "print",
            "sys.stderr.write",
            "sys.stdout.write",
        ):
            yield node.lineno


def test_nothing_but_messages_and_output_writes_to_a_terminal():
    package = Path(mg.__file__).parent
    paths = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    found = {name for name, path in paths.items() if [*prints(ast.parse(path.read_text(encoding="utf-8")))]}
    assert found == {"messages.py", "benchmark/side.py"}  # the latter to a pipe
    assert [*prints(ast.parse("a\nprint(1)\nsys.stderr.write(b)"))] == [2, 3]


def test_a_closed_stderr_is_no_failure(monkeypatch):
    for stream in (None, io.StringIO()):
        if stream:
            stream.close()
        monkeypatch.setattr("sys.stderr", stream)
        tell("nobody reads this")


def test_the_missing_file_is_named():
    error = FileNotFoundError(2, "No such file", "run/metrics.jsonl")
    assert file_of(error, "run") == "run/metrics.jsonl"
    assert file_of(FileNotFoundError(2, "No such file", "run/.ours.tmp"), "run") == "run"
    assert file_of(OSError(28, "No space left"), "run") == "run"
    with pytest.raises(MachineError, match="^cannot write run: run/metrics.jsonl: No such file$"):
        with machines_file("run"):
            raise error


@pytest.fixture
def model(tmp_path):
    """A model that has learned nothing but control characters."""
    path = tmp_path / "model.safetensors"
    run = mg.train(["\x1b\x9b\u202e" * 4], num_steps=0, n_embd=4, n_head=1)
    mg.save(run.model, path)
    return path


def on_a_terminal(*arguments):
    """What a terminal gets from the program."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "microgpt_fast", *map(str, arguments)], stdout=follower, stderr=follower
    )
    os.close(follower)
    out = b""
    try:
        while chunk := os.read(leader, 4096):
            out += chunk
    except OSError:  # how Linux tells that the other side is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    return out.decode()


@pytest.mark.parametrize("command", ["train", "sample", "score"])
def test_a_terminal_is_sent_no_control_characters_unless_asked_for(model, command, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\u202e\x9b\u202e\x1b\u202e\n", encoding="utf-8")
    arguments = {
        "train": [
            "train",
            "--data",
            text,
            "--num-steps",
            2,
            "--num-samples",
            4,
            "--n-embd",
            4,
            "--n-head",
            1,
        ],
        "sample": ["sample", "--model", model, "--num-samples", 4],
        "score": ["score", text, "--model", model, "--per-document", "--per-token"],
    }[command]
    shown, raw = on_a_terminal(*arguments), on_a_terminal(*arguments, "--raw")
    assert not set("\x1b\x9b\u202e") & set(shown) and r"\u202e" in shown
    assert "\u202e" in raw
    piped = subprocess.run(
        [sys.executable, "-m", "microgpt_fast", *map(str, arguments)], capture_output=True, check=True
    )
    assert "\u202e" in piped.stdout.decode()


class Notebook:
    """A notebook's stdout: it takes text, and its file descriptor is not where the cell's output goes."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def fileno(self):
        return 2


@pytest.mark.parametrize("kind", [io.StringIO, Notebook])
def test_the_command_line_writes_to_what_stands_in_for_stdout(kind, monkeypatch, capfd):
    stream = kind()
    monkeypatch.setattr("sys.stdout", stream)
    assert cli.main(["train", "--num-steps", "2", "--num-samples", "1"]) == 0
    text = stream.text if kind is Notebook else stream.getvalue()
    assert text.startswith("num docs: 5163\n") and "sample  1: " in text
    assert "sample  1" not in capfd.readouterr().err


def test_names_that_are_not_utf8_keep_their_bytes(capfdbinary):
    stdout = Stdout()
    stdout.write("caf\udce9\n")
    stdout.write("\ud800\n")  # half a character, which has no bytes
    stdout.flush()
    assert capfdbinary.readouterr().out == b"caf\xe9\n\\ud800\n"
