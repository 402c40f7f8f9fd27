"""Text from a model."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..config import TrainConfig, UsageError, check_integer, check_number, shown
from ..data.unknown import check as check_unknown
from ..data.unknown import known_text
from ..model import GPT
from ..random_stream import RandomStream, sampling_weights, seeded

STREAM_TOKENS = 500  # of a sample if the model was trained on one long text and no length was asked for

NOT_FINITE = "the model's logits are not finite, so that no sample can be drawn: did its training diverge?"


def generate(
    model: GPT,
    num_samples: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    random: RandomStream | None = None,
    batch_size: int | None = None,
    *,
    prompt: str | None = None,
    max_new_tokens: int | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: str | None = None,
    unknown: str | None = None,
) -> list[str]:
    """Draw documents from a model.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    num_samples, temperature, seed : int, float, int, optional
        As in `TrainConfig`; None means as in the model's training, or the defaults of `TrainConfig`. At
        temperature 0 every token is the most likely one.
    random : random stream, optional
        Draw from this stream instead of a new one from `seed`: that of a training run continues as the
        original does.
    batch_size : int, optional
        Draw this many samples at a time, which is faster. Sample i then has a random stream of its own, that
        of random.Random(abs(seed) + (i + 1) * 2**64), and is the same for every batch size above 1. None or 1:
        one sample after another from one random stream, as the original does. Batches compute with fast
        numerics.
    prompt : str, optional
        The text that each sample begins with.
    max_new_tokens : int, optional
        The most tokens after the prompt; the document may end before. None means block_size, or 500 if the
        model was trained on one long text. Past block_size tokens the model sees a sliding window: whenever
        the window is full, its last half is kept.
    top_k : int, optional
        Draw only from the k most likely tokens; 0 for all.
    top_p : float, optional
        Draw only from the most likely tokens: the fewest whose probabilities add up to this; 1 for all.
    stop : str, optional
        End a sample before this text.
    unknown : {"error", "skip", "replace"}, optional
        What becomes of characters of the prompt that the model does not know.

    Returns
    -------
    samples : list of str

    Raises
    ------
    UsageError
        (a ValueError) for a value that is not allowed, or if the model's logits are not finite.
    """
    wishes = {
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "top_k": top_k,
        "top_p": top_p,
        "stop": stop,
        "unknown": unknown,
    }
    texts = samples(model, num_samples, temperature, seed, random, batch_size, **wishes)
    return ["".join(pieces) for pieces in texts]


def samples(
    model: GPT,
    num_samples: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    random: RandomStream | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> Iterator[Iterable[str]]:
    """Like `generate`, but yields each document as an iterable of pieces of text, as they are drawn."""
    trained = model.train_config or TrainConfig()
    given = {"num_samples": num_samples, "temperature": temperature, "seed": seed}
    config = TrainConfig(
        **{name: getattr(trained, name) if value is None else value for name, value in given.items()}
    )
    if model.tokenizer is None:
        raise UsageError("a model without a tokenizer cannot write text")
    batch_size = 1 if batch_size is None else check_integer("batch_size", batch_size, low=1)
    if batch_size > 1 and random is not None:
        raise UsageError("samples in a batch draw from random streams of `seed`, not `random`: leave it out")
    if random is None:
        random = seeded(config.seed, model.backend)
    bos = model.tokenizer.bos
    decoder = model.engine.decoder(model.parameters)
    if config.num_samples and not np.isfinite(model.parameters).all():
        raise UsageError(NOT_FINITE)
    if config.num_samples:
        check_finite(decoder.step(bos, 0))
    is_stream = trained.data_mode == "stream"
    is_plain = batch_size == 1 and config.temperature and not is_stream
    is_plain = is_plain and all(value is None for value in options.values())
    if not is_plain:
        writer = Writer(model, decoder, random, config.temperature, is_stream, **options)
    if batch_size > 1:
        from .together import draw_together

        for text in draw_together(model, writer, config.num_samples, batch_size, config.seed):
            yield (text,)
        return
    for _ in range(config.num_samples):
        if is_plain:  # a whole document in one call
            yield (model.tokenizer.decode(decoder.generate(random, bos, config.temperature)),)
        else:
            yield writer.pieces()


def check_finite(logits):
    """Refuse to draw from logits that are not finite."""
    if not np.isfinite(logits).all():
        raise UsageError(NOT_FINITE)


class Writer:
    """Writes texts token by token; see `generate` for the parameters."""

    def __init__(
        self, model, decoder, random, temperature, is_stream,
        prompt="", max_new_tokens=None, top_k=None, top_p=None, stop=None, unknown=None,
    ):  # fmt: skip
        tokenizer = model.tokenizer
        for name, text in (("prompt", prompt), ("stop", stop)):
            if not isinstance(text, (str, type(None))):
                raise UsageError(f"{name} must be a string, not {shown(text)}")
        check_unknown(unknown or "error")
        self.prompt, self.stop = known_text(tokenizer, prompt or "", unknown or "error"), stop or ""
        ids = tokenizer.encode(self.prompt).tolist()
        is_begun = is_stream and ids
        if is_stream and not ids and "\n" in getattr(tokenizer, "chars", "\n"):
            ids = tokenizer.encode("\n").tolist()  # in one long text hardly anything follows bos
            is_begun = True
        self.ids = ids if is_begun else [tokenizer.bos, *ids]
        self.count = STREAM_TOKENS if is_stream else model.config.block_size
        if max_new_tokens is not None:
            self.count = check_integer("max_new_tokens", max_new_tokens, low=0)
        self.top_k = (None if top_k is None else check_integer("top_k", top_k, low=0)) or None
        if top_p is not None:
            check_number("top_p", top_p, "above 0 and at most 1 (1 for no limit)", lambda x: 0 < x <= 1)
        self.top_p = top_p
        self.takes_all = self.top_k is None and top_p is None and temperature > 0
        self.tokenizer, self.bos, self.decoder, self.random = tokenizer, tokenizer.bos, decoder, random
        self.temperature, self.block_size = temperature, model.config.block_size

    def pieces(self):
        """The pieces of one sample, the prompt first, as they are drawn."""
        return self._pieces(self._new_tokens())

    def text(self, tokens):
        """The whole text of a sample with these new tokens, which may include the bos that ends it."""
        new = self.tokenizer.decode(tokens[:-1] if tokens and tokens[-1] == self.bos else tokens)
        return self.prompt + (new.split(self.stop, 1)[0] if self.stop else new)

    def is_stopped(self, tokens):
        """Whether the stop text is at the end of these new tokens."""
        return bool(self.stop) and self.stop in self.tokenizer.decode(tokens[-4 * len(self.stop) :])

    def _pieces(self, tokens):
        if self.prompt:
            yield self.prompt
        held = ""  # what may be the beginning of the stop text
        for piece in self._new_text(tokens):
            held += piece
            if self.stop:
                place = held.find(self.stop)
                if place >= 0:
                    yield held[:place]
                    return
            keep = next((n for n in range(len(self.stop) - 1, 0, -1) if held.endswith(self.stop[:n])), 0)
            if len(held) > keep:
                yield held[: len(held) - keep]
                held = held[len(held) - keep :]
        if held:
            yield held

    def _new_text(self, tokens):
        decode = self.tokenizer.decoder()
        for token in tokens:
            if token == self.bos:
                break
            yield decode(token)
        yield decode(self.bos)

    def _new_tokens(self):
        window = self.ids[-self.block_size :]
        logits = self._read(window)
        for _ in range(self.count):
            token = self.random.choices(self.weights(logits))
            yield token
            is_full = len(window) == self.block_size
            window = self.extended(window, token)
            logits = self._read(window) if is_full else self.decoder.step(token, len(window) - 1)

    def _read(self, window):
        for position, token in enumerate(window):
            logits = self.decoder.step(token, position)
        return logits

    def extended(self, window, token):
        """The window with one more token; if it is full, only its last half is kept."""
        if len(window) == self.block_size:
            window = window[len(window) - self.block_size // 2 :]
        return [*window, token][-self.block_size :]

    def weights(self, logits):
        """The weights to draw the next token with, float64 [..., V], from logits [..., V]."""
        check_finite(logits)
        weights = sampling_weights(logits, self.temperature)
        if self.takes_all:
            return weights
        order = np.argsort(-weights, axis=-1, kind="stable")
        ranked = np.take_along_axis(weights, order, -1)
        if self.top_k is not None:
            ranked[..., self.top_k :] = 0
        if self.top_p is not None:
            together = np.cumsum(ranked, -1) / ranked.sum(-1, keepdims=True)
            ranked[..., 1:][together[..., :-1] >= self.top_p] = 0
        np.put_along_axis(weights, order, ranked, -1)
        return weights
