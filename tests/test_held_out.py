"""bench/held_out.py: PyTorch trains what the Trainer describes."""

from pathlib import Path

import pytest

import microgpt_fast as mg

BENCH = Path(__file__).parent.parent / "bench"
TEXT = "".join(f"line {i * i % 37} of a text, {i % 5} times.\n\n" for i in range(60))
RECIPE = {
    "preset": "nanogpt-cpu",
    "n_layer": 2,
    "n_embd": 16,
    "block_size": 12,
    "num_steps": 30,
    "eval_interval": 0,
}


@pytest.mark.parametrize("mode, activation", [("stream", "relu"), ("lines", "relu2")])
def test_both_programs_reach_the_same_held_out_loss(mode, activation, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCH)
    import held_out

    corpus = mg.load_corpus([TEXT] if mode == "stream" else TEXT.splitlines(), mode=mode)
    options = {**RECIPE, "activation": activation}
    ours = held_out.ours(corpus, options)
    theirs = held_out.TorchTraining(mg.Trainer(corpus, **options), threads=1).result(None)
    assert ours.steps == theirs.steps == 30
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-4)
    assert ours.loss < 0.9 * mg.Trainer(corpus, **options).validate()
