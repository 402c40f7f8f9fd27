"""One object in several Python threads: results are those of serial calls, or a RuntimeError says what to do."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import backends
from microgpt_fast.config import GPTConfig
from microgpt_fast.model import GPT

pytestmark = pytest.mark.slow

TEXTS = ["anna", "bob", "hannah", "otto", "ann", "bab", "noah", "hanno"]


def model_of(backend, dtype, threads):
    """A model large enough that calls overlap."""
    config = GPTConfig(8, n_layer=2, n_embd=64, block_size=16)
    options = {"dtype": dtype, "backend": backend, "numerics": "fast", "threads": threads}
    model = GPT(config, mg.Tokenizer("abhnot "), **options)
    model.parameters[:] = np.random.default_rng(1).normal(0, 0.3, config.num_params)
    return model


@pytest.fixture(params=[("float32", 1), ("float32", 2), ("float64", 2)], ids=str)
def model(request, backend):
    """Models with and without a pool."""
    return model_of(backends.name_of(backend), *request.param)


def in_threads(ask, count=160, threads=8):
    """What `ask` answers for 0 .. count - 1 when eight threads ask at once."""
    barrier = threading.Barrier(threads)

    def begin():
        barrier.wait()

    with ThreadPoolExecutor(threads, initializer=begin) as pool:
        return list(pool.map(ask, range(count)))


WHAT = ["logits", "score", "generate", "together", "loss"]


def asking(model, what):
    """A function of a number: what the model answers, as something to compare."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, 8, 400).astype(np.int32)
    starts, lengths = np.arange(0, 320, 20), rng.integers(1, 17, 16).astype(np.int32)

    def ask(i):
        i %= 8
        if what == "logits":
            return model.logits(model.tokenizer.encode(TEXTS[i])).tobytes()
        if what == "score":
            return mg.score(model, TEXTS[: 1 + i]).surprises.tobytes()
        if what == "generate":
            return mg.generate(model, 3, seed=i)
        if what == "together":
            return mg.generate(model, 5, seed=i, batch_size=3)
        part = slice(i, 2 * i + 1)
        gradient = np.zeros_like(model.parameters)
        losses = model.engine.backward(gradient, model.parameters, tokens, starts[part], lengths[part])
        return losses.tobytes() + gradient.tobytes()

    return ask


@pytest.mark.parametrize("what", WHAT)
def test_calls_from_threads_answer_as_serial_ones(model, what):
    ask = asking(model, what)
    wanted = [ask(i) for i in range(8)]
    for i, answer in enumerate(in_threads(ask)):
        assert answer == wanted[i % 8]


@pytest.mark.thorough
@pytest.mark.parametrize("threads", [1, 2])
def test_twenty_thousand_calls_of_all_kinds_at_once(threads):
    model = model_of("auto", "float32", threads)
    asks = [asking(model, what) for what in WHAT]
    wanted = [[ask(i) for i in range(8)] for ask in asks]
    for i, answer in enumerate(in_threads(lambda i: asks[i % 5](i // 5), count=20_000)):
        assert answer == wanted[i % 5][i // 5 % 8]


def until_refused(use):
    """Two threads use one object until one is refused; the error, or None where that never happens."""
    errors = []

    def loop():
        for _ in range(2000):
            try:
                use()
            except RuntimeError as error:
                errors.append(str(error))
            if errors:
                return

    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors[0] if errors else None


def test_a_decoder_and_a_random_stream_belong_to_one_thread_at_a_time():
    compiled = pytest.importorskip("microgpt_fast.backends.cython_backend")
    config = GPTConfig(8, n_layer=4, n_embd=128, block_size=64)
    engine, params = compiled.Engine(config, "float32"), np.zeros(config.num_params, "float32")
    decoder, random = engine.decoder(params), compiled.Random(1)
    assert "Decoder is at work in another thread" in until_refused(
        lambda: decoder.generate(compiled.Random(1), 7, 1.0)
    )
    assert "Random is at work in another thread" in until_refused(
        lambda: engine.decoder(params).generate(random, 7, 1.0)
    )
    assert decoder.generate(random, 7, 1.0).size <= 64  # both are free again


@pytest.mark.parametrize("use", ["events", "one iterator", "validate", "save"])
def test_a_trainer_belongs_to_one_thread_at_a_time(use, tmp_path, monkeypatch):
    run = mg.Trainer(TEXTS * 5, num_steps=6, val_fraction=0.3)
    events, inside, done, take_steps = run.events(), threading.Event(), threading.Event(), run.take_steps

    def waiting(count):
        inside.set()
        assert done.wait(60)
        return take_steps(count)

    monkeypatch.setattr(run, "take_steps", waiting)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: [*events])
        assert inside.wait(60)
        uses = {
            "events": lambda: next(run.events()),
            "one iterator": lambda: next(events),
            "validate": run.validate,
            "save": lambda: mg.save_training(run, tmp_path / "model"),
        }
        try:
            with pytest.raises(RuntimeError, match="this Trainer is at work in another thread"):
                uses[use]()
        finally:
            done.set()
        other.result()
    again = mg.train(TEXTS * 5, num_steps=6, val_fraction=0.3)
    assert run.losses.tobytes() == again.losses.tobytes()
    assert run.validate() == again.validate()


def test_threads_that_take_turns_train_as_one(monkeypatch):
    run, again = (mg.Trainer(TEXTS * 5, num_steps=400) for _ in range(2))
    events = run.events()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        while one.submit(next, events, None).result() and two.submit(next, events, None).result():
            pass
    [*again.events()]
    assert run.losses.tobytes() == again.losses.tobytes() and run.step == 400
