import numpy as np
import pytest

from microgpt_fast.config import TrainConfig, UsageError
from microgpt_fast.training.schedule import learning_rates


def rates(**options):
    config = TrainConfig(**options)
    return learning_rates(config, np.arange(config.num_steps))


def test_the_default_is_the_originals_to_the_bit():
    assert rates(num_steps=1000).tolist() == [0.01 * (1 - step / 1000) for step in range(1000)]


def test_cosine_with_warm_up():
    got = rates(num_steps=110, warmup_steps=10, schedule="cosine", learning_rate=1.0, min_learning_rate=0.1)
    np.testing.assert_allclose(got[:10], np.arange(1, 11) / 11)
    assert got[10] == 1 and abs(got[60] - 0.55) < 1e-12 and 0.1 < got[-1] < 0.101
    assert (np.diff(got[10:]) < 0).all()


def test_linear_to_a_minimum_and_constant():
    np.testing.assert_allclose(
        rates(num_steps=4, schedule="linear", learning_rate=1.0, min_learning_rate=0.5),
        [1, 0.875, 0.75, 0.625],
    )
    assert rates(num_steps=3, schedule="constant", learning_rate=0.5).tolist() == [0.5] * 3


def test_a_warm_up_longer_than_the_training_is_cut():
    got = rates(num_steps=5, warmup_steps=100, learning_rate=1.0)
    np.testing.assert_allclose(got, np.arange(1, 6) / 6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"patience": 2}, "patience needs data to validate with"),
        ({"time_budget": "ten"}, "60s, 10m, 1h"),
        ({"time_budget": 0}, "time_budget"),
    ],
)
def test_values_are_checked(options, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


def test_a_time_budget_has_units():
    assert [TrainConfig(time_budget=given).time_budget for given in (60, "60", "60s", "1m", "0.5h")] == [
        60, 60, 60, 60, 1800
    ]  # fmt: skip
