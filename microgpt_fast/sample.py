"""Text from a model."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .config import TrainConfig, UsageError, check_integer, check_number
from .model import GPT
from .random_stream import RandomStream, seeded

STREAM_TOKENS = 500  # of a sample from a model of one long text, if nothing else is asked for


def generate(
    model: GPT,
    num_samples: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    random: RandomStream | None = None,
    *,
    prompt: str | None = None,
    max_new_tokens: int | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: str | None = None,
) -> list[str]:
    """Draw documents from a model.

    Parameters
    ----------
    model : GPT
        With a tokenizer.
    num_samples, temperature, seed : int, float, int, optional
        As in `TrainConfig`; None takes what the model was trained with, or else the defaults there.
    random : random stream, optional
        Continue this stream instead of a new one from `seed`: a training run's own continues as the
        original does.
    prompt : str, optional
        What each sample begins with.
    max_new_tokens : int, optional
        Tokens after the prompt, if the document does not end before. None: as many as a block has; or 500, if
        the model was trained on one long text. Past the block the model sees a sliding window: whenever it is
        full, the last half of it stays.
    top_k : int, optional
        Draw from the k most likely tokens only.
    top_p : float, optional
        Draw from the fewest tokens only that are this likely together.
    stop : str, optional
        A sample ends before this text.

    Returns
    -------
    samples : list of str

    Raises
    ------
    UsageError
        (a ValueError) for a value that is not allowed, or a model whose logits are not finite.
    """
    wishes = {
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "top_k": top_k,
        "top_p": top_p,
        "stop": stop,
    }
    return ["".join(pieces) for pieces in samples(model, num_samples, temperature, seed, random, **wishes)]


def samples(
    model: GPT,
    num_samples: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    random: RandomStream | None = None,
    **options: Any,
) -> Iterator[Iterable[str]]:
    """`generate`, one document at a time: each an iterable of pieces of text, as they are drawn."""
    trained = model.train_config or TrainConfig()
    given = {"num_samples": num_samples, "temperature": temperature, "seed": seed}
    config = TrainConfig(
        **{name: getattr(trained, name) if value is None else value for name, value in given.items()}
    )
    if model.tokenizer is None:
        raise UsageError("a model without a tokenizer cannot write text")
    if random is None:
        random = seeded(config.seed, model.backend)
    bos = model.tokenizer.bos
    decoder = model.engine.decoder(model.parameters)
    if config.num_samples and not np.isfinite(decoder.step(bos, 0)).all():
        raise UsageError("the model's logits are not finite: nothing can be drawn from it")
    is_plain = trained.data_mode != "stream" and not any(value is not None for value in options.values())
    if not is_plain:
        writer = Writer(model, decoder, random, config.temperature, trained.data_mode == "stream", **options)
    for _ in range(config.num_samples):
        if is_plain:  # a whole document in one call
            yield (model.tokenizer.decode(decoder.generate(random, bos, config.temperature)),)
        else:
            yield writer.pieces()


class Writer:
    """Writes texts token by token; for the parameters see `generate`."""

    def __init__(
        self, model, decoder, random, temperature, is_stream,
        prompt="", max_new_tokens=None, top_k=None, top_p=None, stop=None,
    ):  # fmt: skip
        tokenizer = model.tokenizer
        self.prompt, self.stop = prompt or "", stop or ""
        ids = tokenizer.encode(self.prompt).tolist()
        is_begun = is_stream and ids
        if is_stream and not ids and "\n" in getattr(tokenizer, "chars", "\n"):
            ids = tokenizer.encode("\n").tolist()  # in a stream hardly anything follows bos
            is_begun = True
        self.ids = ids if is_begun else [tokenizer.bos, *ids]
        self.count = STREAM_TOKENS if is_stream else model.config.block_size
        if max_new_tokens is not None:
            self.count = check_integer("max_new_tokens", max_new_tokens, low=0)
        self.top_k = None if top_k is None else check_integer("top_k", top_k, low=1)
        if top_p is not None:
            check_number("top_p", top_p, "above 0 and at most 1", lambda x: 0 < x <= 1)
        self.top_p = top_p
        self.tokenizer, self.decoder, self.random = tokenizer, decoder, random
        self.temperature, self.block_size = temperature, model.config.block_size

    def pieces(self):
        """The pieces of one sample, the prompt first."""
        if self.prompt:
            yield self.prompt
        held = ""  # what may be the beginning of the stop text
        for piece in self._new_text():
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

    def _new_text(self):
        decode, bos = self.tokenizer.decoder(), self.tokenizer.bos
        for token in self._new_tokens():
            if token == bos:
                break
            yield decode(token)
        yield decode(bos)

    def _new_tokens(self):
        window = self.ids[-self.block_size :]
        logits = self._read(window)
        for _ in range(self.count):
            token = self.random.choices(self._weights(logits))
            yield token
            if len(window) < self.block_size:
                window.append(token)
                logits = self.decoder.step(token, len(window) - 1)
            else:
                window = [*window[len(window) - self.block_size // 2 :], token][-self.block_size :]
                logits = self._read(window)

    def _read(self, window):
        for position, token in enumerate(window):
            logits = self.decoder.step(token, position)
        return logits

    def _weights(self, logits):
        scores = logits.astype(np.float64) / self.temperature
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        if self.top_k is None and self.top_p is None:
            return weights
        order = np.argsort(-weights, kind="stable")
        count = len(order) if self.top_k is None else min(self.top_k, len(order))
        if self.top_p is not None:
            together = np.cumsum(weights[order[:count]]) / weights[order[:count]].sum()
            count = min(count, int(np.searchsorted(together, self.top_p)) + 1)
        weights[order[count:]] = 0
        return weights
