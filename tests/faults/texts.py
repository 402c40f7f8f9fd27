"""Texts to learn, outside of the folders whose calls fail."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

TEXTS = {
    "old": "anna\nbob\nhannah\n" * 3,
    "new": "".join(f"{a}{b}\n" for a in ("an", "bel", "cor") for b in ("na", "la", "vira")),
}


@functools.cache
def _folder():
    folder = tempfile.mkdtemp(prefix="microgpt_fast-texts-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, text in TEXTS.items():
        Path(folder, name).write_text(text)
    return Path(folder)


def text_of(name):
    """The path of a text."""
    return _folder() / name


def documents(corpus):
    """The documents of a corpus."""
    places = zip(corpus.offsets[:-1], corpus.offsets[1:])
    return [corpus.tokenizer.decode(corpus.tokens[start + 1 : end - 1]) for start, end in places]
