"""A model is saved where another lies."""

import functools

import microgpt_fast as mg

SIZE = {"n_embd": 2, "n_head": 1, "block_size": 4, "num_steps": 1, "numerics": "fast"}


@functools.cache
def model(seed):
    return mg.train(["anna", "bob"], seed=seed, **SIZE).model


def prepare(folder):
    mg.save(model(1), folder / "model")


def act(folder):
    try:
        mg.save(model(2), folder / "model")
    except OSError as error:
        return str(error)
    return None


def check(folder, refusal):
    found = mg.load(folder / "model").parameters.tobytes()
    assert found == model(2).parameters.tobytes() or refusal and found == model(1).parameters.tobytes()
    mg.save(model(1), folder / "model")
    assert mg.load(folder / "model").parameters.tobytes() == model(1).parameters.tobytes()
