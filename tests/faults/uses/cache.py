"""The token cache: a text is tokenised, while the entry of another is there."""

import os
from pathlib import Path

from microgpt_fast.config import UsageError
from microgpt_fast.data import load, token_cache

from ..texts import documents, text_of


def prepare(folder):
    os.environ["MICROGPT_FAST_CACHE"], load.CACHED_FROM = str(folder / "cache"), 0
    load.load_corpus(text_of("old"))


def act(folder):
    try:
        corpus = load.load_corpus(text_of("new"))
    except UsageError as error:
        return str(error)
    assert documents(corpus) == Path(text_of("new")).read_text().split()
    return None


def check(folder, refusal):
    assert refusal is None or "cannot write the cache of tokens" in refusal and "\n" not in refusal, refusal
    write, token_cache._write = token_cache._write, None  # the old entry is not made again
    try:
        load.load_corpus(text_of("old"))
    finally:
        token_cache._write = write
    corpus = load.load_corpus(text_of("new"))
    assert documents(corpus) == Path(text_of("new")).read_text().split()
    assert len(os.listdir(folder / "cache")) == 2
