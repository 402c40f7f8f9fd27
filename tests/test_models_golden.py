"""Attention residuals are those of two public programs: recorded runs of them on names.txt."""

import numpy as np
import pytest

from microgpt_fast import reference
from microgpt_fast.backends import name_of
from microgpt_fast.backends.engines import engine_of
from microgpt_fast.random_stream import seeded
from microgpt_fast.sampling.sample import generate
from microgpt_fast.training.trainer import Trainer

RUNS = ["attention_residuals_full", "attention_residuals_block"]


def assert_close(got, wanted, config):
    for parameter in config.parameters():
        part = parameter.place
        atol = 1e-9 * np.abs(wanted[part]).max()
        np.testing.assert_allclose(got[part], wanted[part], rtol=0, atol=atol, err_msg=parameter.name)


@pytest.mark.parametrize("name", RUNS)
def test_reference_is_the_program(original_run, flatten, name):
    run = original_run(name)
    parameters = reference.initial_parameters(run.config, run.random, run.train.init_std)
    model = reference.ReferenceGPT(run.config, parameters)
    np.testing.assert_allclose(flatten(parameters)[:8], run.figures["initial_head"], rtol=1e-15)
    steps = model.train_steps(run.documents, run.train)
    gradients = []
    for wanted, (loss, gradient) in zip(run.figures["losses"][:2], steps):
        assert loss == pytest.approx(wanted, rel=1e-13)
        gradients.append(flatten(gradient))
    for got, wanted in zip(gradients, run.figures["gradients"]):
        assert_close(got, wanted, run.config)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_programs(backend, original_run, shared, name):
    run = original_run(name)
    options = {"residual": run.config.residual, "num_steps": run.train.num_steps, "seed": run.train.seed}
    data = shared / "data" / str(run.figures["data"])
    trainer = Trainer(data, backend=name_of(backend), numerics="fast", **options)
    [*trainer.events()]
    np.testing.assert_allclose(trainer.losses, run.figures["losses"], rtol=0, atol=1e-9)
    assert_close(trainer.model.parameters, run.figures["final_parameters"], run.config)
    samples = generate(trainer.model, 20, 0.5, random=trainer.random)
    assert samples == run.figures["samples"].tolist()


@pytest.mark.parametrize("name", RUNS)
def test_gradients_on_the_way_are_the_programs(backend, original_run, name):
    run = original_run(name)
    stream = seeded(run.train.seed, backend)
    stream.permutation(len(run.documents))
    params = np.empty(run.config.num_params)
    for parameter in run.config.parameters():
        stream.normal(params[parameter.place], 0.0 if parameter.start == 0 else run.train.init_std)
    engine, (m, v) = engine_of(backend, run.config, "float64"), np.zeros((2, len(params)))
    used = run.documents[:10]
    lengths = np.array([min(run.config.block_size, len(document) - 1) for document in used], np.int32)
    starts, tokens = np.cumsum([0, *map(len, used)])[:-1], np.concatenate(used).astype(np.int32)
    wanted = dict(zip(run.figures["gradient_steps"].tolist(), run.figures["gradients"]))
    for step in range(10):
        batch = tokens, starts[step : step + 1], lengths[step : step + 1]
        if step in wanted:
            grads = np.zeros_like(params)
            engine.backward(grads, params, *batch)
            assert_close(grads, wanted[step], run.config)
        lr = np.array([0.01 * (1 - step / run.train.num_steps)])
        engine.train_steps(np.empty(1), params, m, v, *batch, 1, lr, (0.85, 0.99, 1e-8, 0.0), step + 1)
