"""Threads change the time, never the bits; and nothing of the process but its results."""

import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from microgpt_fast import backends, workload
from microgpt_fast.config import GPTConfig
from microgpt_fast.training import thread_trial
from microgpt_fast.training.trainer import Trainer

STEPS = 3


@pytest.fixture(scope="module")
def compiled():
    try:
        return backends.load("cython")
    except backends.BackendError as error:
        pytest.skip(str(error))


def random_job(seed):
    """A configuration and a batch that no tile fits."""
    rng = np.random.default_rng(seed)
    H, L, T, V, B = (int(rng.integers(1, high)) for high in (5, 4, 60, 70, 30))
    config = GPTConfig(V + 1, L, H * int(rng.integers(1, 12)), H, T, ("relu", "relu2")[seed % 2])
    lengths = rng.integers(1, T + 1, STEPS * B).astype(np.int32)
    starts = rng.integers(0, 2000 - T - 1, STEPS * B)
    return (
        config,
        B,
        rng.normal(0, 0.1, config.num_params),
        rng.integers(0, V + 1, 2000).astype(np.int32),
        starts,
        lengths,
    )


def trained(engine, job):
    """Losses, parameters and moments after a few steps, as bytes."""
    config, B, params, *batch = job
    p = params.astype(engine.dtype)
    m, v, losses = np.zeros_like(p), np.zeros_like(p), np.empty(STEPS)
    engine.train_steps(losses, p, m, v, *batch, B, np.full(STEPS, 0.01), (0.85, 0.99, 1e-8, 0.0), 1)
    assert np.isfinite(losses).all()
    return b"".join(x.tobytes() for x in (losses, p, m, v))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(12))
def test_bits_do_not_depend_on_the_number_of_threads(compiled, dtype, seed):
    job = random_job(seed)
    one, *others = (trained(compiled.Engine(job[0], dtype, threads=n), job) for n in (1, 2, 3, 5))
    assert all(other == one for other in others)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("sizes", "B"),
    [(dict(n_embd=16, n_layer=2), 113), (dict(n_embd=32, block_size=9), 113), (dict(n_embd=32, n_layer=4), 7),
     (dict(n_embd=32, n_layer=4), 2)],
)  # fmt: skip
def test_bits_of_narrow_models_that_threads_share(compiled, dtype, sizes, B):
    config = GPTConfig(27, **sizes)
    rng = np.random.default_rng(B)
    lengths = rng.integers(1, config.block_size + 1, STEPS * B).astype(np.int32)
    tokens, starts = rng.integers(0, 27, 1000).astype(np.int32), rng.integers(0, 900, STEPS * B)
    job = config, B, rng.normal(0, 0.1, config.num_params), tokens, starts, lengths
    one, *others = (trained(compiled.Engine(config, dtype, threads=n), job) for n in (1, 2, 3, 5))
    assert all(other == one for other in others)


def test_engines_work_side_by_side(compiled):
    """Calls release the GIL: engines in different Python threads must not disturb each other."""
    jobs = [random_job(seed) for seed in range(4)]
    wanted = [trained(compiled.Engine(job[0], "float32"), job) for job in jobs]
    engines = [compiled.Engine(job[0], "float32", threads=2) for job in jobs]
    results = [[] for _ in jobs]

    def work(index):
        for _ in range(5):
            results[index].append(trained(engines[index], jobs[index]))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(set(found) == {bits} for found, bits in zip(results, wanted))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_an_engine_survives_fork(compiled):
    job = random_job(1)
    engine = compiled.Engine(job[0], "float32", threads=2)
    bits = trained(engine, job)
    child = os.fork()
    if child == 0:
        os._exit(0 if trained(engine, job) == bits else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert trained(engine, job) == bits


def test_denormals_of_the_process_stay(compiled):
    job = random_job(2)
    trained(compiled.Engine(job[0], "float32", threads=2), job)
    tiny = np.array([1e-40], np.float32)
    assert (tiny * np.float32(1)).item() == tiny.item() != 0


@pytest.mark.parametrize(
    "sizes, tokens, expected",
    [
        ({}, 7, 1),  # the default job
        (dict(n_embd=64, block_size=64), 64, 1),
        (dict(n_layer=4, n_embd=128, block_size=64), 12 * 64, 7),
        (dict(n_layer=6, n_embd=384, n_head=6, block_size=256), 4 * 256, 8),
    ],
)
def test_the_default_number_of_threads_follows_the_work(monkeypatch, sizes, tokens, expected):
    monkeypatch.setattr(workload, "cores", lambda: 8)
    assert workload.default_threads(GPTConfig(27, **sizes), tokens) == expected


def trained_with_trial(monkeypatch, speeds, **options):
    """A run with two cores, where a step with n threads takes speeds[n] seconds; and the numbers of threads it took."""
    monkeypatch.setattr(workload, "cores", lambda: 2)
    clock, taken = [0.0], []
    run = Trainer(
        ["anna", "bob", "hannah"] * 50, dtype="float32", batch_size=64, n_embd=32, num_steps=40, **options
    )
    take_steps = run.take_steps

    def slowed(count):
        taken.append(run.model.engine.threads)
        clock[0] += count * speeds[taken[-1]]
        return take_steps(count)

    monkeypatch.setattr(run, "take_steps", slowed)
    monkeypatch.setattr("microgpt_fast.training.trainer.perf_counter", lambda: clock[0])
    for _ in run.events():
        pass
    return run, taken


@pytest.mark.parametrize(("speeds", "faster"), [({1: 0.02, 2: 0.011}, 2), ({1: 0.02, 2: 0.03}, 1)])
def test_training_tries_both_numbers_of_threads_and_keeps_the_faster(compiled, monkeypatch, speeds, faster):
    run, taken = trained_with_trial(monkeypatch, speeds)
    assert taken[:6].count(1) == taken[:6].count(2) == 3
    assert len(taken) > 8 and set(taken[6:]) == {faster} and run.model.threads == faster
    told, one = trained_with_trial(monkeypatch, speeds, threads=1)
    assert set(one) == {1}
    assert run.model.parameters.tobytes() == told.model.parameters.tobytes()
    assert run.losses.tobytes() == told.losses.tobytes()


def test_a_trial_is_repeated_when_steps_become_slow_and_after_a_while():
    model = SimpleNamespace(threads=1)
    trial = thread_trial.Trial(model, 2)

    def threads_of_next(chunks, one, two):
        taken = []
        for _ in range(chunks):
            trial.record(one if model.threads == 1 else two, tokens=10)
            taken.append(model.threads)
        return taken

    assert set(threads_of_next(50, one=0.03, two=0.02)[6:]) == {2}
    assert set(threads_of_next(50, one=0.03, two=0.06)[9:]) == {1}  # another program takes a core ...
    assert set(threads_of_next(50, one=0.03, two=0.02)) == {1}  # ... and is gone: found out by and by
    assert threads_of_next(int(thread_trial.TRIAL_LASTS / 0.03) + 20, one=0.03, two=0.02)[-1] == 2


def test_small_steps_and_exact_numerics_try_no_threads(compiled, monkeypatch):
    monkeypatch.setattr(workload, "cores", lambda: 2)
    for options in (dict(dtype="float32"), dict(dtype="float64", n_embd=128)):
        run = Trainer(["anna", "bob"], num_steps=1, **options)
        assert run.trial is None


def test_cores_are_those_the_process_may_use():
    assert 1 <= workload.cores() <= os.cpu_count()
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(allowed)})
            assert workload.cores() == 1
        finally:
            os.sched_setaffinity(0, allowed)


def test_training_takes_the_threads_that_its_batch_keeps_busy(compiled, monkeypatch):
    monkeypatch.setattr(workload, "cores", lambda: 2)
    small = Trainer(num_steps=1, dtype="float32").model.engine
    wide = dict(num_steps=1, dtype="float32", n_embd=256, batch_size=128)
    large, told = Trainer(**wide).model.engine, Trainer(**wide, threads=1).model.engine
    assert (small.threads, large.threads, told.threads) == (1, 2, 1)
