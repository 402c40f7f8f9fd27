import hashlib
import http.server
import json
import sys
import threading
from pathlib import Path

import pytest

from microgpt_fast import cli
from microgpt_fast.data import fetch

CONTENT = b"anna\nbob\n"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server whose folder has names.txt, in the place of the real ones; the cache is empty."""
    pytest.importorskip("pooch")
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "names.txt").write_bytes(CONTENT)

    class Handler(http.server.SimpleHTTPRequestHandler):
        requests = []

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, directory=tmp_path / "www", **options)

        def log_message(self, *arguments):
            self.requests.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/names.txt"
    monkeypatch.setitem(fetch.TEXTS, "names", ("names.txt", url, hashlib.sha256(CONTENT).hexdigest()))
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    yield Handler.requests
    server.shutdown()
    server.server_close()


def run(capfd, *arguments):
    code = cli.main([*arguments])
    return code, *capfd.readouterr()


def test_a_text_is_fetched_once(server, capfd):
    for _ in range(2):
        code, out, _ = run(capfd, "data", "names")
        assert code == 0 and Path(out.strip()).read_bytes() == CONTENT
    assert len(server) == 1
    code, out, _ = run(capfd, "data", "names", "--out", "here.txt")
    assert code == 0 and Path("here.txt").read_bytes() == CONTENT
    assert run(capfd, "data", "names", "--out", "here.txt")[0] == 2


def test_another_content_and_no_server_are_told(server, capfd, monkeypatch, tmp_path):
    (tmp_path / "www" / "names.txt").write_bytes(b"changed")
    code, out, err = run(capfd, "data", "names")
    assert (code, out) == (1, "") and "SHA-256 differs" in err and err.count("\n") == 1
    monkeypatch.setitem(fetch.TEXTS, "names", ("names.txt", "http://127.0.0.1:9/names.txt", "0" * 64))
    code, out, err = run(capfd, "data", "names")
    assert (code, out) == (1, "") and "no connection" in err and err.count("\n") == 1


def test_other_texts_and_a_missing_pooch_are_told(capfd, monkeypatch):
    code, _, err = run(capfd, "data", "nmaes")
    assert code == 2 and "did you mean names?" in err
    monkeypatch.setitem(sys.modules, "pooch", None)
    code, _, err = run(capfd, "data", "names")
    assert code == 2 and "microgpt-fast[data]" in err


def test_the_sums_are_those_of_the_texts(shared):
    for file, _, digest in fetch.TEXTS.values():
        assert hashlib.sha256((shared / "data" / file).read_bytes()).hexdigest() == digest


def test_curves_are_drawn(tmp_path, capfd, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path(name).mkdir()
        lines = [{"step": i, "loss": 3 / i, "seconds": i * 0.5} for i in range(1, 9)]
        lines.append({"step": 8, "val_loss": 0.5, "seconds": 4.5})
        Path(name, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for arguments in ((), ("--against", "seconds", "--out", "x.svg")):
        code, out, _ = run(capfd, "plot", "one", "two", *arguments)
        assert code == 0 and Path(out.strip()).stat().st_size > 5000
    assert "two, validation" in Path("x.svg").read_text()
    assert run(capfd, "plot", "three")[0] == 2
    assert run(capfd, "plot", "one", "--out", "x.unknown")[0] == 2
    assert run(capfd, "plot", "one", "--out", "missing/x.png")[0] == 1


def test_a_missing_matplotlib_is_told(capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run(capfd, "plot", "one")
    assert code == 2 and "microgpt-fast[plot]" in err
