"""Many samples at a time: they go through the model together, and each has a random stream of its own."""

import numpy as np

from ..random_stream import seeded


class _Sample:
    """One unfinished text: its new tokens so far, and the window of it that the model sees.

    The model reads the window from position 0 on. Once it has read all of it, a token is drawn at every
    position, up to `end`, where the caller must look at the sample.
    """

    def __init__(self, writer, number, random):
        self.writer, self.number, self.random = writer, number, random
        self.drawn = []
        self.look_at(writer.ids[-writer.block_size :])

    def look_at(self, window):
        """Let the model see this window from now on."""
        writer, self.window, self.drawn_before = self.writer, window, len(self.drawn)
        self.end = min(writer.block_size, len(window) - 1 + writer.count - self.drawn_before)
        if writer.stop:
            self.end = 0  # the caller must look at every position

    def is_over(self):
        """Whether the last token drawn ends the text."""
        writer, drawn = self.writer, self.drawn
        return drawn[-1] == writer.bos or len(drawn) == writer.count or writer.is_stopped(drawn)

    def slide(self):
        """Keep the last part of a full window, with the last token drawn."""
        seen = self.window + self.drawn[self.drawn_before : -1]
        self.look_at(self.writer.extended(seen, self.drawn[-1]))


class _Rows:
    """The arguments of the next step.

    For each unfinished sample: its slot, token and position; the random stream to draw from, None while the
    model still reads its window; and `ends`, the position where the caller must look at it.
    """

    def __init__(self, samples, block_size):
        self.samples, n = samples, len(samples)
        self.slots = np.arange(n, dtype=np.int32)
        self.tokens, self.positions, self.ends = (np.zeros(n, np.int32) for _ in range(3))
        self.windows = np.zeros((n, block_size), np.int32)
        self.randoms = [None] * n
        for i in range(n):
            self.read(i)

    def read(self, i):
        """Read the window of sample i from the beginning."""
        window = self.samples[i].window
        self.windows[i, : len(window)] = window
        self.tokens[i], self.positions[i], self.ends[i] = window[0], 0, len(window) - 1
        self.randoms[i] = None
        if len(window) == 1:
            self.draw(i)

    def draw(self, i):
        """Draw tokens for sample i from now on."""
        self.randoms[i], self.ends[i] = self.samples[i].random, self.samples[i].end

    def advance(self, drawn):
        """Move on by one position, to the tokens that were drawn or, where none was, to the next of the window."""
        self.positions += 1
        self.tokens[:] = drawn
        reading = np.flatnonzero(drawn < 0)
        if reading.size:
            self.tokens[reading] = self.windows[reading, self.positions[reading]]

    def remove(self, gone):
        """Remove these samples."""
        kept = [i for i in range(len(self.samples)) if i not in gone]
        self.samples, self.randoms = [self.samples[i] for i in kept], [self.randoms[i] for i in kept]
        for name in ("slots", "tokens", "positions", "ends", "windows"):
            setattr(self, name, getattr(self, name)[kept])


def _drawn(streams, writer, rows):
    """The tokens that a step draws, int32 [n]; -1 where a window is still read."""
    if writer.takes_all:
        return streams.draw(rows.slots, rows.tokens, rows.positions, rows.randoms, writer.temperature)
    weights = writer.weights(streams.step(rows.slots, rows.tokens, rows.positions))
    drawn = [-1 if r is None else r.choices(row) for r, row in zip(rows.randoms, weights, strict=True)]
    return np.array(drawn, np.int32)


def draw_together(model, writer, num_samples, batch_size, seed):
    """Yield texts in the order of their numbers, drawn `batch_size` at a time.

    Where a text ends, the next sample begins in its place, so the batch stays full until no samples are left.
    Sample i is drawn from random.Random(abs(seed) + (i + 1) * 2**64), so it depends neither on the batch size
    nor on the other samples. Batches compute with fast numerics.

    Parameters
    ----------
    model : GPT
    writer : Writer
        The prompt, the length, and which tokens may be drawn.
    num_samples, batch_size, seed : int
    """
    if not (writer.count and num_samples):
        yield from (writer.text([]) for _ in range(num_samples))
        return
    engine, size = model.engine, min(batch_size, num_samples)
    if model.numerics == "exact":
        engine = model.backend.Engine(model.config, model.dtype, "fast", model.threads)
    streams = engine.streams(model.parameters, size)

    def sample(number):
        return _Sample(writer, number, seeded(abs(seed) + ((number + 1) << 64), model.backend))

    following, next_text, texts = size, 0, {}
    rows = _Rows([sample(number) for number in range(size)], writer.block_size)
    while rows.samples:
        drawn, gone = _drawn(streams, writer, rows), set()
        rows.advance(drawn)
        for one, token in zip(rows.samples, drawn.tolist(), strict=True):
            if token >= 0:
                one.drawn.append(token)
        for i in np.flatnonzero((drawn == writer.bos) | (rows.positions >= rows.ends)).tolist():
            one = rows.samples[i]
            if rows.randoms[i] is None:
                rows.draw(i)
            elif not one.is_over():
                if rows.positions[i] == writer.block_size:
                    one.slide()
                    rows.read(i)
            else:
                texts[one.number] = writer.text(one.drawn)
                if following < num_samples:
                    rows.samples[i] = sample(following)
                    rows.read(i)
                    following += 1
                else:
                    gone.add(i)
        if gone:
            rows.remove(gone)
        while next_text in texts:
            yield texts.pop(next_text)
            next_text += 1
