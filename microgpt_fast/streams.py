"""Many samples at once: streams that go through the model together, each with its own random generator."""

from .random_stream import seeded


class _Sample:
    """One text under way in a stream: `window` is what the model sees of it, `at` how much of that it has read."""

    def __init__(self, writer, random, number, slot):
        self.writer, self.random, self.number, self.slot = writer, random, number, slot
        self.window, self.at = writer.ids[-writer.block_size :], 0
        self.drawn = []

    def draw(self, weights):
        """Draw the next token; tells whether it is the last."""
        writer, token = self.writer, self.random.choices(weights)
        self.drawn.append(token)
        if len(self.window) == writer.block_size:
            self.at = 0  # the window slides, and is read again
        self.window = writer.extended(self.window, token)
        return token == writer.bos or len(self.drawn) == writer.count or writer.is_stopped(self.drawn)


def draw_together(model, writer, num_samples, batch_size, seed):
    """Texts, one after another in the order of their numbers, `batch_size` at a time under way.

    A stream whose text has ended begins the next sample: the batch stays full up to the last of them. Sample i
    is drawn from random.Random(abs(seed) + (i + 1) * 2**64) and depends on nothing else: neither on the
    batch size nor on the other samples. Batches compute with fast numerics.

    Parameters
    ----------
    model : GPT
    writer : Writer
        What is drawn, and from which of the likely tokens.
    num_samples, batch_size, seed : int
    """
    if not (writer.count and num_samples):
        yield from (writer.text([]) for _ in range(num_samples))
        return
    engine = model.engine
    if model.numerics == "exact":
        engine = model.backend.Engine(model.config, model.parameters.dtype, "fast", model.threads)
    streams = engine.streams(model.parameters, min(batch_size, num_samples))
    numbers, under_way, texts, following = iter(range(num_samples)), [], {}, 0

    def begin(slot):
        number = next(numbers, None)
        if number is not None:
            random = seeded(abs(seed) + ((number + 1) << 64), model.backend)
            under_way.append(_Sample(writer, random, number, slot))

    for slot in range(min(batch_size, num_samples)):
        begin(slot)
    while under_way:
        logits = streams.step(
            [sample.slot for sample in under_way],
            [sample.window[sample.at] for sample in under_way],
            [sample.at for sample in under_way],
        )
        for sample in under_way:
            sample.at += 1
        ready = [i for i, sample in enumerate(under_way) if sample.at == len(sample.window)]
        weights = writer.weights(logits if len(ready) == len(under_way) else logits[ready])
        ended = [under_way[i] for i, row in zip(ready, weights) if under_way[i].draw(row)]
        for sample in ended:
            under_way.remove(sample)
            texts[sample.number] = writer.text(sample.drawn)
            begin(sample.slot)
        while following in texts:
            yield texts.pop(following)
            following += 1
