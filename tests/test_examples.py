"""The examples of whole models run: the notebook cell by cell, and the page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def test_the_notebook(tmp_path, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    namespace = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None  # committed as it is written
            exec("".join(cell["source"]), namespace)
    out = capsys.readouterr().out
    assert "5163 names, 4192 parameters" in out and "step 5000:" in out
    program = subprocess.run([sys.executable, "names.py"], check=True, capture_output=True, text=True)
    assert program.stdout.strip()


def test_the_page(built_core, tmp_path, monkeypatch):
    monkeypatch.setenv("MICROGPT_FAST_CACHE", str(ROOT / "build" / "web"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    subprocess.run([sys.executable, EXAMPLES / "page" / "make.py"], cwd=tmp_path, check=True)
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"name": "fruits"' in content and len(content) < 450_000
