"""Wishes for samples, and texts to score: a documented error, or samples that keep to the wishes."""

from types import SimpleNamespace

import numpy as np

import microgpt_fast as mg
from microgpt_fast.config import UsageError

from ..hostile import check_message

CHARS = "abc d\né한\x1b"
TEXTS = [
    *CHARS, "ab", "abc abc", "a" * 40, "\ud800", "\0", "z", "\u202e", "\ufeff", "\r\n", "😀", "é\u0301", "a\nb\n",
    "", " ",
]  # fmt: skip
NUMBERS = [None, -1, 0, 1, 2, 3, 1.5, True, "2", [], float("nan"), float("inf"), -0.0, 1e-300, 1e300, 2**31, 2**63,
           2**70, np.float32(0.5), np.int64(2)]  # fmt: skip


SIZE = {"n_embd": 4, "n_head": 2, "block_size": 8, "num_steps": 1, "numerics": "fast"}


def _model(kind, mode):
    return mg.train([CHARS], tokenizer=kind, data_mode=mode, **SIZE).model


MODELS = {(kind, mode): _model(kind, mode) for kind in ("char", "byte") for mode in ("lines", "stream")}


def _text(random):
    return "".join(random.choices(TEXTS if random.random() < 0.3 else CHARS, k=random.randrange(5)))


def make(random):
    """A model, and wishes."""
    wishes = {"seed": random.randrange(5), "num_samples": random.choice([0, 1, 2]), "max_new_tokens": 4}
    for name in random.sample(
        ["temperature", "top_k", "top_p", "batch_size", "max_new_tokens", "num_samples", "seed"],
        random.choice([0, 1, 1, 2, 3]),
    ):
        wishes[name] = random.choice([0, 1, 2, 3, 0.5]) if random.random() < 0.5 else random.choice(NUMBERS)
    for name in ("prompt", "stop"):
        if random.random() < 0.5:
            wishes[name] = _text(random) if random.random() < 0.95 else random.choice([None, 3, b"a", ["a"]])
    if _large(wishes["num_samples"]) or _large(wishes["max_new_tokens"]) or wishes["num_samples"] is None:
        wishes.update(num_samples=1, max_new_tokens=3)
    if _large(wishes.get("batch_size")):
        wishes["batch_size"] = 5
    return SimpleNamespace(
        model=random.choice([*MODELS]),
        wishes=wishes,
        texts=[_text(random) for _ in range(random.choice([0, 0, 1, 2]))],
    )


def _large(value):
    """A number of samples or tokens that is allowed, and would take for ever."""
    return isinstance(value, int) and value > 100


def run(case):
    """Draw twice and score once."""
    model, wishes = MODELS[case.model], case.wishes
    try:
        samples = mg.generate(model, **wishes)
    except UsageError as error:
        check_message(error)
    else:
        assert samples == mg.generate(model, **wishes)
        _check(model, samples, wishes)
    try:
        surprises = mg.score(model, case.texts).surprises
    except UsageError as error:
        check_message(error)
    else:
        assert np.isfinite(surprises).all() and len(surprises)


def _check(model, samples, wishes):
    assert len(samples) == wishes["num_samples"]
    prompt, stop = wishes.get("prompt") or "", wishes.get("stop") or ""
    for sample in samples:
        assert sample.startswith(prompt)
        new = sample[len(prompt) :]
        assert not stop or stop not in new
        if wishes["max_new_tokens"] is not None and not (stop or prompt) and model.tokenizer.kind == "char":
            assert len(new) <= wishes["max_new_tokens"]
