"""Models, tokenizers, random streams and trainings are copied, pickled, and sent to other processes."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

import microgpt_fast as mg
from microgpt_fast import backends
from microgpt_fast.data.tokenizer import ByteTokenizer
from microgpt_fast.random_stream import seeded

pytestmark = pytest.mark.slow

COPIES = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
NAMES = ["anna", "bob", "hannah"]


@pytest.fixture(params=COPIES)
def copied(request):
    return COPIES[request.param]


def test_a_model_is_copied(copied, backend):
    run = mg.train(
        NAMES, num_steps=3, backend=backends.name_of(backend), block_size=8, dtype="float32", threads=2
    )
    model = run.model
    other = copied(model)
    assert (other.config, other.train_config, other.numerics, other.threads, other.backend, other.path) == (
        model.config, model.train_config, model.numerics, model.threads, model.backend, model.path
    )  # fmt: skip
    assert other.parameters.tobytes() == model.parameters.tobytes() and other.parameters.dtype == "float32"
    assert mg.generate(other, 3) == mg.generate(model, 3)
    other.tensors["wte"][:] = 0
    assert model.tensors["wte"].any()


@pytest.mark.parametrize("tokenizer", [mg.Tokenizer("añ😀", "first"), ByteTokenizer("last")])
def test_a_tokenizer_is_copied(tokenizer, copied):
    other = copied(tokenizer)
    assert other.constants() == tokenizer.constants() and other.decode(other.encode("añ😀")) == "añ😀"


def test_a_random_stream_is_copied(copied, backend):
    stream, out = seeded(5, backend), np.empty(3)
    stream.normal(out, 1.0)  # one deviate is kept
    other = copied(stream)
    assert type(other) is type(stream) and other.getstate() == stream.getstate()
    assert other.permutation(9).tolist() == stream.permutation(9).tolist()


@pytest.mark.parametrize("mode", ["lines", "stream"])
@pytest.mark.parametrize("name", ["pickle", "deepcopy"])
def test_a_copied_training_goes_on_as_the_training_does(mode, name):
    options = {"num_steps": 40, "val_fraction": 0.3, "eval_interval": 10, "gradient_accumulation_steps": 2}
    run = mg.Trainer(mg.load_corpus(NAMES * 5, mode=mode), data_mode=mode, **options)
    events = run.events()
    next(events)
    other = COPIES[name](run)
    assert 0 < other.step == run.step < 40
    [*events], [*other.events()]
    assert other.step == run.step == 40 and other.losses.tobytes() == run.losses.tobytes()
    assert other.model.parameters.tobytes() == run.model.parameters.tobytes()
    assert [event.loss for event in other.evaluations] == [event.loss for event in run.evaluations]
    assert mg.generate(other.model, random=other.random) == mg.generate(run.model, random=run.random)


def test_a_model_goes_to_a_process_that_is_spawned():
    model = mg.train(NAMES, num_steps=3).model
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(mg.generate, (model, 3)) == mg.generate(model, 3)
