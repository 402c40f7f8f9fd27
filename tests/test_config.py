import dataclasses

import numpy as np
import pytest

from microgpt_fast.config import GPTConfig, TrainConfig, UsageError, resolve


def test_parameters_of_the_default_model():
    config = GPTConfig(27)
    assert config.num_params == 4192 and config.head_dim == 4
    assert list(config.shapes()) == [
        "wte",
        "wpe",
        "lm_head",
        "layer0.attn_wq",
        "layer0.attn_wk",
        "layer0.attn_wv",
        "layer0.attn_wo",
        "layer0.mlp_fc1",
        "layer0.mlp_fc2",
    ]


@pytest.mark.parametrize("sizes", [{}, {"n_layer": 3, "n_embd": 15, "n_head": 5, "block_size": 7}])
def test_num_params_is_the_sum_over_the_shapes(sizes):
    config = GPTConfig(11, **sizes)
    assert config.num_params == sum(rows * columns for rows, columns in config.shapes().values())


def test_presets():
    make_model, train = resolve()
    assert make_model(27) == GPTConfig(27) and train == TrainConfig()
    make_model, train = resolve("first-revision")
    assert make_model(5) == GPTConfig(5, block_size=8, activation="relu2")
    assert train == TrainConfig(
        num_steps=500, beta1=0.9, beta2=0.95, init_std=0.02, zero_init=True, temperature=0.6, bos="first"
    )


def test_every_constant_of_a_preset_can_be_replaced():
    model = {"n_layer": 2, "n_embd": 6, "n_head": 3, "block_size": 9, "activation": "relu"}
    train = {
        "num_steps": 3,
        "batch_size": 2,
        "learning_rate": 0.5,
        "beta1": 0.1,
        "beta2": 0.2,
        "eps_adam": 1e-3,
        "init_std": 0.3,
        "zero_init": False,
        "temperature": 2.0,
        "num_samples": 4,
        "seed": -5,
        "bos": "last",
        "dtype": "float32",
        "numerics": "fast",
        "backend": "numpy",
        "threads": 2,
    }
    make_model, resolved = resolve("first-revision", **model, **train)
    assert make_model(4) == GPTConfig(4, **model)
    assert dataclasses.asdict(resolved) == {**dataclasses.asdict(TrainConfig()), **train}


def test_numbers_of_numpy_become_plain():
    config = GPTConfig(np.int64(5), n_embd=np.int32(8))
    assert type(config.vocab_size) is type(config.n_embd) is int
    train = TrainConfig(learning_rate=np.float32(0.5), beta1=0, dtype=np.float32)
    assert type(train.learning_rate) is type(train.beta1) is float and train.dtype == "float32"


@pytest.mark.parametrize(
    "name, value",
    [
        ("n_layer", 0),
        ("n_embd", -4),
        ("n_embd", 10),
        ("n_head", 3),
        ("n_head", 0),
        ("block_size", 0),
        ("block_size", 2**31),
        ("block_size", 1.5),
        ("n_layer", "2"),
        ("n_layer", True),
        ("n_layer", None),
        ("activation", "gilu"),
        ("activation", None),
        ("num_steps", -1),
        ("num_steps", 2**60),
        ("num_samples", -1),
        ("batch_size", 0),
        ("seed", 0.5),
        ("learning_rate", -1),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "1"),
        ("learning_rate", 10**400),
        ("beta1", 1),
        ("beta1", -0.1),
        ("beta2", float("nan")),
        ("eps_adam", 0),
        ("init_std", -0.1),
        ("init_std", float("inf")),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("temperature", 1e-310),
        ("zero_init", 1),
        ("bos", "middle"),
        ("dtype", "float16"),
        ("dtype", None),
        ("backend", "torch"),
        ("numerics", "exakt"),
        ("threads", 0),
    ],
)
def test_refused_values_are_named(name, value):
    with pytest.raises(UsageError, match=name):
        resolve(**{name: value})


@pytest.mark.parametrize(
    "wrong, right", [("n_lyer", "n_layer"), ("num_step", "num_steps"), ("vocab_sise", "")]
)
def test_unknown_options_are_refused_with_the_nearest_one(wrong, right):
    with pytest.raises(UsageError, match=f"{wrong}.*{right}"):
        resolve(**{wrong: 1})
    with pytest.raises(UsageError, match="vocab_size"):
        resolve(vocab_size=27)
    with pytest.raises(UsageError, match="did you mean microgpt"):
        resolve("microgtp")
