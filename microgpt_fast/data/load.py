"""Files, or strings, to a corpus: how text is found, and what its lines mean."""

import codecs
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from ..config import DATA_MODES, TOKENIZERS, UsageError
from . import text
from .corpus import Corpus, given, pack, segments
from .files import find_files
from .text import code_points

BUILTIN = os.path.join(
    os.path.dirname(os.path.dirname(__file__)), "datasets", "us_census_1990_first_names.txt"
)
Source: TypeAlias = str | os.PathLike[str] | Iterable[str] | Iterable[os.PathLike[str]] | None
MOST_SAMPLED = 64  # files that are looked at to choose between lines and stream
UNREAD = 0.01  # of the text, from which on it is said that lines are cut off
CACHED_FROM = 8 << 20  # bytes of text; less is tokenised again in no time


def load_corpus(
    source: Source = None,
    bos: str = "last",
    *,
    mode: str = "lines",
    tokenizer: str = "char",
    block_size: int = 16,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Corpus:
    """Read and tokenise documents.

    Text of more than 8 MB is tokenised once, into a cache: see `token_cache`.

    Parameters
    ----------
    source : path, list of paths, or iterable of str, optional
        UTF-8 text files, or folders of such; "-" is stdin; paths in a list must be pathlib.Path objects.
        Strings in an iterable are the documents themselves, used as they are, empty ones dropped. None is
        the built-in list of first names.
    bos : {"last", "first"}
        See `Tokenizer`.
    mode : {"lines", "stream", "auto"}
        In files, each line is a document, stripped, if anything is left of it; or each file is one. "auto"
        takes the latter if that is what the text looks like, and `Corpus.note` tells why.
    tokenizer : {"char", "byte"}
    block_size : int
        What training will read of a line: "auto" looks at how much that leaves out.
    include, exclude : sequence of str, optional
        Patterns such as "*.md": which files of folders are read. As characters, those that are no UTF-8 text never are.

    Returns
    -------
    corpus : Corpus

    Raises
    ------
    DataError
        for text that is not UTF-8 (as characters), or without any document.
    OSError
        if a file cannot be read.
    """
    for name, value, allowed in (("mode", mode, DATA_MODES), ("tokenizer", tokenizer, TOKENIZERS)):
        if value not in allowed:
            raise UsageError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    parts, name = parts_of(source)
    if name is None:
        if parts and all(isinstance(part, str) and os.path.isfile(part) for part in parts):
            warnings.warn("these documents are names of files: pathlib.Path objects are read", stacklevel=2)
        mode = "lines" if mode == "auto" else mode
        return pack(given(parts, tokenizer), tokenizer, bos, mode, "the data")

    notes: list[str] = []
    files = find_files(parts, notes, include, exclude, skips_binary=tokenizer == "char")
    mode = _choose_mode(files, mode, tokenizer, block_size, notes)
    if sum(size for _, size, _ in files) < CACHED_FROM:
        corpus = pack(segments(files, mode, tokenizer), tokenizer, bos, mode, name)
    else:
        from .token_cache import cached

        corpus = cached(files, mode, tokenizer, bos, name)
    corpus.note = "; ".join(notes) or None
    return corpus


def parts_of(source):
    """What a source (see `load_corpus`) consists of: (a list, its name if these are paths, else None)."""
    if source is None:
        source = BUILTIN
    if isinstance(source, (str, os.PathLike)):
        return [source], os.fspath(source)
    parts = list(source)
    are_paths = bool(parts) and all(isinstance(part, os.PathLike) for part in parts)
    return parts, " ".join(map(os.fspath, parts)) if are_paths else None


def _choose_mode(files, mode, tokenizer, block_size, notes):
    """The mode; `notes` gets what to say about it and about byte order marks."""
    samples = _samples(files)
    marked = [name for name, data in samples if data.startswith(codecs.BOM_UTF8)]
    beginnings = [_codes(data, tokenizer) for _, data in samples]
    reason = text.looks_like_a_stream(np.concatenate(beginnings), block_size) if files else None
    if mode == "auto" and reason:
        mode = "stream"
        notes.append(f"data mode stream, one long text cut into blocks: {reason}")
    elif mode == "auto":
        mode = "lines"
        notes.append("data mode lines, one document per line")
    elif mode == "lines" and reason:
        notes.append(f"data mode lines, but the text looks like one long text (--data-mode stream): {reason}")
    unread = text.unread_share(np.concatenate(beginnings), block_size) if files else 0.0
    if mode == "lines" and UNREAD <= unread and not reason:
        notes.append(
            f"{unread:.0%} of the text lies beyond the first {block_size} tokens of its line and is not learned: a "
            "larger --block-size reads more, --data-mode stream all of it"
        )
    if marked:
        is_kept = tokenizer == "char" and mode == "lines"
        what = "kept as a character of the first line, as in microgpt.py" if is_kept else "left out"
        notes.append(f"{marked[0]} begins with a byte order mark, which is {what}")
    return mode


def _samples(files):
    """(name, first bytes) of some files, which lie evenly among all."""
    some = files[:: -(-len(files) // MOST_SAMPLED) or 1]
    result = []
    for name, _, open_file in some:
        with open_file() as file:
            result.append((name, file.read(text.PIECE // len(some))))
    return result


def _codes(data, tokenizer):
    r"""What will be tokens of the first bytes of a file, the line ends "\n" among them and one in the end."""
    data = data.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\n"
    if tokenizer == "byte":
        return np.frombuffer(data, np.uint8)
    return code_points(data.decode("utf-8", "replace"))
