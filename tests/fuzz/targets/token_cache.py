"""Entries of the token cache, most with valid checksums: refused, or such as can be trained on."""

import json
import os

import numpy as np

from microgpt_fast.data import token_entry
from microgpt_fast.data.token_entry import ABOUT, DTYPES, OFFSETS, TOKENS, VERIFIED, Damaged
from microgpt_fast.data.tokenizer import ByteTokenizer, Tokenizer

from .. import scratch_folder

KEY = "0" * 32
FOLDER = scratch_folder() / KEY
NUMBERS = [
    -1,
    0,
    1,
    2,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**53,
    2**63 - 1,
    2**64,
    -(2**63),
    1.5,
    1e308,
    True,
    None,
]
ODD = [*NUMBERS, "", "x", [], {}, [0], {"chars": "ab"}, "\ud800", "O", "V8", "float64", "uint8", "lines", KEY]


def make(random):
    """(description, tokens, offsets, whether its checksums are right, damage to bytes of the files)."""
    mode, kind, bos = (
        random.choice(["lines", "stream"]),
        random.choice(["char", "byte"]),
        random.choice(["first", "last"]),
    )
    chars = "".join(random.sample("abcdefgh\u00e9\ud55c\n ", random.randrange(1, 9)))
    tokenizer = Tokenizer(chars, bos) if kind == "char" else ByteTokenizer(bos)
    dtype = random.choice(DTYPES) if kind == "char" else "uint16"
    documents = [
        [tokenizer.bos, *random.choices(range(tokenizer.vocab_size), k=random.randrange(1, 6)), tokenizer.bos]
        for _ in range(random.randrange(1, 5))
    ]
    tokens = [token for document in documents for token in document]
    offsets = [0, *np.cumsum([*map(len, documents)]).tolist()]
    about = {
        "key": KEY,
        "mode": mode,
        "tokens": len(tokens),
        "documents": len(documents),
        "dtype": dtype,
        "tokenizer": tokenizer.constants(),
    }
    for _ in range(random.choice([0, 1, 1, 2, 3])):
        _change(random, about, tokens, offsets)
    limits = {name: np.iinfo(name) for name in DTYPES}
    clipped = [max(limits[dtype].min, min(limits[dtype].max, token)) for token in tokens]
    damage = [
        (
            random.choice([TOKENS, OFFSETS, ABOUT]),
            random.randrange(1000),
            random.choice([None, *range(0, 256, 17)]),
        )
        for _ in range(random.choice([0, 0, 0, 1, 2]))
    ]
    return (
        about,
        np.array(clipped, dtype).tobytes(),
        np.array(offsets, np.int64).tobytes(),
        damage,
        (mode, kind, bos),
    )


def _change(random, about, tokens, offsets):
    """One lie."""
    choice = random.randrange(8)
    if choice == 0:
        about[random.choice([*about])] = random.choice(ODD)
    elif choice == 1:
        del about[random.choice([*about])]
        about.setdefault("tokenizer", {}), about.setdefault("dtype", "uint8")
    elif choice == 2:
        constants = about["tokenizer"] if isinstance(about.get("tokenizer"), dict) else {}
        about["tokenizer"] = {
            **constants,
            random.choice(["chars", "bos", "bytes", "words"]): random.choice(ODD),
        }
    elif choice == 3:
        tokens[random.randrange(len(tokens))] = random.choice(
            [0, 1, 7, 8, 9, 255, 256, 257, 65535, -1, 2**31 - 1]
        )
    elif choice == 4:
        offsets[random.randrange(len(offsets))] = random.choice([-1, 0, 1, 2, 5, 10**9, 2**62, -(2**62)])
    elif choice == 5:
        random.shuffle(random.choice([tokens, offsets]))
    elif choice == 6:
        part = random.choice([tokens, offsets])
        part.append(part[-1]) if random.random() < 0.5 or len(part) < 3 else part.pop()
        about["tokens"], about["documents"] = len(tokens), len(offsets) - 1
    else:
        about[random.choice(["tokens", "documents"])] = random.choice(NUMBERS)


def run(case):
    """Write the entry and open it."""
    about, tokens, offsets, damage, wanted = case
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    for name, content in ((TOKENS, tokens), (OFFSETS, offsets)):
        with token_entry.create(FOLDER / name) as file:
            file.write(content)
    fsync, os.fsync = os.fsync, lambda descriptor: None  # the disk has no part in this
    try:
        token_entry.describe(str(FOLDER), **about)
    finally:
        os.fsync = fsync
    (FOLDER / VERIFIED).unlink(missing_ok=True)
    for name, place, value in damage:
        content = bytearray((FOLDER / name).read_bytes())
        if content:
            place %= len(content)
            content[place : place + 1] = b"" if value is None else bytes([value])
            (FOLDER / name).write_bytes(content)
    try:
        corpus = token_entry.open_entry(str(FOLDER), *wanted)
    except Damaged:
        return
    _check(corpus, json.loads((FOLDER / ABOUT).read_bytes()), wanted)


def _check(corpus, about, wanted):
    """That an entry can be trained on, looked at one token after another."""
    mode, kind, bos = wanted
    tokenizer, ids, offsets = corpus.tokenizer, corpus.tokens.tolist(), corpus.offsets.tolist()
    assert (corpus.mode, tokenizer.kind, tokenizer.bos_place) == (mode, kind, bos)
    assert len(ids) == about["tokens"] and len(offsets) == about["documents"] + 1
    assert all(type(token) is int and 0 <= token < tokenizer.vocab_size for token in ids)
    assert offsets[0] == 0 and offsets[-1] == len(ids)
    for begin, end in zip(offsets[:-1], offsets[1:]):
        assert end - begin >= 3 and ids[begin] == ids[end - 1] == tokenizer.bos
