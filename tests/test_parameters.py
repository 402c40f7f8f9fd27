"""The table of parameters: offsets, counts, names that share an array, vectors beside matrices."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import microgpt_fast
from microgpt_fast import parameters
from microgpt_fast.backends import numpy_backend
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


def with_undecayed_wo(monkeypatch):
    """From now on weight decay does not apply to attn_wo."""
    of_a_layer = parameters.of_a_layer

    def changed(config):
        return tuple(p._replace(decays=p.name != "attn_wo") for p in of_a_layer(config))

    monkeypatch.setattr(parameters, "of_a_layer", changed)


def moved(engine, weight_decay):
    """The parameters after an update without a gradient: what weight decay alone does to ones."""
    params = np.ones(CONFIG.num_params)
    m, v, grads = (np.zeros_like(params) for _ in range(3))
    engine.update(params, m, v, grads, 0.5, (0.9, 0.99, 1e-8, weight_decay), 1)
    return params


def test_weight_decay_applies_where_the_table_says_so(monkeypatch):
    with_undecayed_wo(monkeypatch)
    params = moved(numpy_backend.Engine(CONFIG, "float64"), 0.1)
    for parameter in CONFIG.parameters():
        wanted = 1 if parameter.name.endswith("attn_wo") else 0.95
        np.testing.assert_allclose(params[parameter.place], wanted, rtol=1e-15)


@pytest.mark.slow  # compiles
def test_the_c_core_decays_what_its_table_says(tmp_path, monkeypatch):
    pytest.importorskip("microgpt_fast.backends.cython_backend")
    from test_mutations import compiled

    with_undecayed_wo(monkeypatch)
    csrc = shutil.copytree(microgpt_fast.get_sources(), tmp_path / "csrc")
    table, text = csrc / "parameters.h", '"attn_wo", C, C, .properties = STARTS_AT_ZERO'
    assert table.read_text().count(text) == 1
    table.write_text(table.read_text().replace(text, text + " + NO_DECAY"))
    core = compiled(csrc, tmp_path / "table.so").Engine(CONFIG, "float64")

    def update(params, m, v, grads, lr, adam, step):
        return core.update(params, m, v, grads, lr, adam, step, 1.0, 0.0)

    wanted = moved(numpy_backend.Engine(CONFIG, "float64"), 0.1)
    np.testing.assert_allclose(moved(SimpleNamespace(update=update), 0.1), wanted, rtol=1e-15)
