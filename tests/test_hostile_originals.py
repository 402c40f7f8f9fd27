"""`verify --original` of files that no Python program should be: refused in one line, in little time and memory."""

import pytest

from microgpt_fast import cli

pytestmark = pytest.mark.slow

HOSTILE = {
    "many operators": "x = " + "not " * 800 + "1\n",
    "more operators": "x = " + "-" * 30_000 + "1\n",
    "a long sum": "x = " + "1+" * 15_000 + "1\n",
    "a long chain": "x = a" + ".a" * 15_000 + "\n",
    "many branches": "if a:\n pass\n" + "elif a:\n pass\n" * 2_000,
    "many alternatives": "match a:\n case " + "1|" * 15_000 + "1: pass\n",
    "brackets": "x = " + "[" * 5_000,
    "closed brackets": "x = " + "(" * 90 + ")" * 90 + "\n",
    "f-strings": 'x = f"{' + "{1:" * 90 + "1" + "}" * 90 + '"\n',
    "blocks": "".join(" " * i + "if a:\n" for i in range(200)),
    "digits": "n_layer = " + "9" * 5_000 + "\n",
    "hexadecimal digits": "n_layer = 0x" + "f" * 30_000 + "\n",
    "a string without an end": '"""' + "\n" * 30_000,
    "nothing but lines": "\n" * 30_000,
    "NUL": "import os\0\n",
    "control characters": "import os\n\x1b[2J\u202e = 1\n",
    "an escape that is none": "x = '\\d'\n",
    "half a surrogate pair": "x = '\\ud800'\n",
    "empty": "",
    "huge": "import os\n" * 1_000_000,
    "not UTF-8": b"import os\n\xff",
    "UTF-16": "import os\n".encode("utf-16"),
    "UTF-16 without a byte order mark": "import os\n".encode("utf-16-le"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_syntax_is_one_line(capfd, tmp_path, name):
    path, content = tmp_path / "hostile.py", HOSTILE[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code = cli.main(["verify", "--original", str(path)])
    out, err = capfd.readouterr()
    assert (code, out) == (2, "") and err.count("\n") == 1 and err.startswith(f"microgpt-fast: {path}")
    assert len(err) < 400 + len(str(path)) and err.rstrip("\n").isprintable()
