"""The table of parameters: offsets, counts, names that share an array, vectors beside matrices."""

import numpy as np
import pytest

from microgpt_fast import parameters
from microgpt_fast.config import GPTConfig
from microgpt_fast.parameters import LOOKUP, Parameter, placed

CONFIG = GPTConfig(5, n_layer=3, n_embd=8, n_head=2, block_size=7)


def test_parameters_follow_one_another():
    table = list(CONFIG.parameters())
    assert [p.offset for p in table] == [0, *np.cumsum([p.size for p in table])[:-1]]
    assert table[-1].place.stop == CONFIG.num_params == parameters.count(CONFIG)
    assert [p.name for p in table[:4]] == ["wte", "wpe", "lm_head", "layer0.attn_wq"]


def test_counts_are_sums_over_the_table():
    table = list(CONFIG.parameters())
    assert parameters.count(CONFIG) == sum(p.size for p in table)
    assert parameters.products(CONFIG) == sum(p.size for p in table if p.role != LOOKUP)


def test_counts_take_no_time_for_any_number_of_layers():
    assert parameters.count(GPTConfig(5, n_layer=2**31 - 1)) == (2 * 5 + 16) * 16 + (2**31 - 1) * 12 * 256


def test_what_starts_at_zero_adds_to_the_residual_stream():
    names = {p.name.split(".")[-1] for p in CONFIG.parameters() if p.starts_at_zero}
    assert names == {"attn_wo", "mlp_fc2"}


def test_tied_names_share_an_array_and_vectors_stand_beside_matrices():
    table = (
        Parameter("wte", (5, 8), LOOKUP),
        Parameter("gain", (8,), decays=False),
        Parameter("lm_head", (5, 8), tied_to="wte"),
        Parameter("w", (8, 8)),
    )
    assert [p.place for p in placed(table)] == [slice(0, 40), slice(40, 48), slice(0, 40), slice(48, 112)]


def test_a_name_is_tied_to_an_earlier_one():
    with pytest.raises(KeyError):
        list(placed((Parameter("lm_head", (5, 8), tied_to="wte"), Parameter("wte", (5, 8)))))
