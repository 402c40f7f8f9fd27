"""Sharded steps: the bits of one process, for any number of them."""

import numpy as np
import pytest
from communicators import together

from microgpt_fast import backends
from microgpt_fast.config import UsageError
from microgpt_fast.training.follower import Follower
from microgpt_fast.training.runs import Run
from microgpt_fast.training.shards import shards_of
from microgpt_fast.training.trainer import Trainer
from microgpt_fast.training.tree import Summer, add_up, largest_nodes, piece

WORDS = ["anna", "bo", "christopher", "d", "evangeline", "florian", "gus", "hannah", "ida", "jo"] * 5
NARROW = dict(batch_size=8, val_fraction=0.2, eval_interval=2)
ODD = dict(
    n_layer=2, n_embd=36, n_head=3, block_size=9, batch_size=11, gradient_accumulation_steps=3, grad_clip=0.3,
    weight_decay=0.1, schedule="cosine", warmup_steps=2,
)  # fmt: skip
WIDE = dict(n_layer=2, n_embd=64, block_size=16, batch_size=16, shards=16)


def result(**options):
    """Everything that a training ends with, as bytes."""
    trainer = Trainer(WORDS, **{"num_steps": 4, "threads": 1, **options})
    for _ in trainer.events():
        pass
    validated = [event.loss for event in trainer.evaluations]
    arrays = trainer.model.parameters, trainer.moments, trainer.losses, np.array(validated)
    return [array.tobytes() for array in arrays]


def test_the_largest_nodes_have_each_leaf_once():
    for end in range(1, 40):
        for first in range(end):
            nodes = list(largest_nodes(first, end))
            leaves = [leaf for start, count in nodes for leaf in range(start, start + count)]
            assert leaves == list(range(first, end))
            assert all(count & (count - 1) == 0 and start % count == 0 for start, count in nodes)
            assert len(nodes) <= 2 * end.bit_length()


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 8, 16])
def test_a_sum_has_the_same_bits_whoever_makes_which_part_of_it(processes):
    leaves = np.random.default_rng(0).standard_normal((16, 5)).astype(np.float32)

    def make_leaf(index, array):
        array += leaves[index]

    known = {}
    for process in range(processes):
        part = piece(process, processes, 16)
        for node in largest_nodes(part.start, part.stop):
            known[node] = Summer(make_leaf, 5, np.float32).sum(node)
    pairs = leaves
    while len(pairs) > 1:
        pairs = pairs[::2] + pairs[1::2]
    assert add_up((0, 16), known).tobytes() == pairs[0].tobytes()
    assert not np.array_equal(pairs[0], leaves.sum(0))  # so that another order would be seen


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [NARROW, ODD, WIDE], ids=["narrow", "odd", "wide"])
def test_many_processes_have_the_bits_of_one(options, dtype):
    options = {"shards": 8, **options, "dtype": dtype}
    alone = result(**options)
    for processes in (2, 3, 5, 8):
        for found in together(processes, lambda team: result(**options, communicator=team)):
            assert found == alone, processes


def test_threads_do_not_change_bits():
    assert result(**WIDE, threads=2) == result(**WIDE)


def test_shards_change_the_order_of_sums_alone(backend):
    """The same gradient as without shards, so nearly the same training."""
    name = backends.name_of(backend)
    options = {**ODD, "dtype": "float64", "backend": name, "numerics": "fast"}
    plain, sharded = (np.frombuffer(result(**options, shards=shards)[0]) for shards in (0, 8))
    np.testing.assert_allclose(sharded, plain, rtol=1e-8, atol=1e-10)
    assert not np.array_equal(sharded, plain)


def test_moments_of_one_process_continue_in_many():
    options = dict(**ODD, dtype="float32", shards=8)
    whole = result(**options, num_steps=6)

    def second_half(team, first):
        trainer = Trainer(WORDS, **options, num_steps=6, threads=1, communicator=team)
        trainer.model.parameters[:] = first.model.parameters
        trainer.moments = first.moments
        trainer.restore(first.step, first.tokens, first.seconds, first.losses, [])
        for _ in trainer.events():
            pass
        return [trainer.model.parameters.tobytes(), trainer.moments.tobytes(), trainer.losses.tobytes()]

    first = Trainer(WORDS, **options, num_steps=6, threads=1)
    steps = first.take_steps(3)
    first.restore(3, steps[1], 0.0, steps[0], [])
    for found in together(3, lambda team: second_half(team, first)):
        assert found == whole[:3]


def test_a_process_holds_its_own_moments_alone():
    sizes = together(
        4, lambda team: Trainer(WORDS, **WIDE, communicator=team, dtype="float32").sharded._m.nbytes
    )
    trainer = Trainer(WORDS, **WIDE, dtype="float32")
    assert sum(sizes) == trainer.model.parameters.nbytes and max(sizes) < sum(sizes) / 3


def test_who_follows_can_be_asked_for_all_that_keeps_a_run():
    wanted = {name for name in vars(Run) if not name.startswith("_")} - {"create", "path"}
    assert wanted <= vars(Follower).keys()


def test_all_stop_where_one_is_asked_to():
    def steps(team):
        trainer = Trainer(WORDS, **NARROW, num_steps=10**6, dtype="float32", communicator=team)
        trainer.stopping = team.rank == 1
        for _ in trainer.events():
            pass
        return trainer.step, trainer.stopping

    assert together(3, steps) == [(0, True)] * 3


def test_processes_with_other_data_are_named():
    def make(team):
        words = WORDS[:-1] + ["jon"] if team.rank == 2 else WORDS
        with pytest.raises(UsageError, match="process 2 has read other data than process 0"):
            next(Trainer(words, **NARROW, communicator=team).events())

    together(4, make)


@pytest.mark.parametrize(
    "options, processes, message",
    [
        (dict(shards=3), 1, "shards must be a power of two, or 0 for none, not 3"),
        (dict(shards=16), 1, "shards 16 needs as many documents per step, but batch_size 8 times"),
        (dict(shards=2), 3, "3 processes need at least 4 shards, not 2"),
        (dict(batch_size=2), 4, "4 processes need at least 4 shards, not 2"),
        (dict(time_budget="5s"), 2, "many processes take a number of steps, not a time_budget"),
    ],
)
def test_what_cannot_be_sharded_is_refused(options, processes, message):
    with pytest.raises(UsageError, match=message):
        together(processes, lambda team: Trainer(WORDS, **{**NARROW, **options}, communicator=team))


def test_the_usual_number_of_shards_fits_the_batch():
    for documents, shards in ((1, 1), (2, 2), (3, 2), (12, 8), (100, 8)):
        config = Trainer(WORDS, batch_size=documents).config
        assert shards_of(config, 1) == shards


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight_decay", [0, 0.1])
def test_adam_has_the_same_bits_wherever_a_part_begins(backend, dtype, weight_decay):
    random, n = np.random.default_rng(0), 83
    p, m, v, g = (random.standard_normal(n).astype(dtype) for _ in range(4))
    before = p, m, np.abs(v)
    constants = 0.01, 0.85, 0.99, 1e-8, weight_decay, 3

    def after(*ends):
        arrays = [array.copy() for array in before]
        for first, end in zip((0, *ends), (*ends, n)):
            backend.adamw_step(
                *(array[first:end] for array in arrays), g[first:end].copy(), end - first, *constants
            )
        return [array.tobytes() for array in arrays]

    whole = after()
    for cut in range(1, n):
        assert after(cut) == whole, cut
