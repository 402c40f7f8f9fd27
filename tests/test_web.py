"""The page's JavaScript, module by module, in Node.js; and beside Python where both compute the same."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_wasm import node

import microgpt_fast as mg
from microgpt_fast.export.page import ENTRY, bundle
from microgpt_fast.sampling.sample import Writer

WEB = Path(__file__).parent / "web"


def test_units():
    if not shutil.which("node"):
        pytest.skip("needs Node.js")
    run = subprocess.run(["node", "--test", WEB / "units.test.mjs"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_the_modules_together_are_one_program(tmp_path):
    """No two of them have a name in common."""
    if not shutil.which("node"):
        pytest.skip("needs Node.js")
    (tmp_path / "bundle.mjs").write_text(bundle(ENTRY), encoding="utf-8")
    run = subprocess.run(["node", "--check", tmp_path / "bundle.mjs"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_top_k_and_top_p_are_pythons():
    model = mg.train(["ab"], num_steps=0, dtype="float32").model
    logits = np.random.default_rng(1).normal(0, 2, (40, 30)).round(1)  # some are equal
    cases = [(t, k, p) for t in (0.3, 1.0) for k in (0, 1, 5, 99) for p in (0.05, 0.5, 0.97, 1.0)]
    found = node("weights_to_draw.mjs", json.dumps(logits.tolist()), json.dumps(cases))
    for (temperature, top_k, top_p), weights in zip(cases, found):
        writer = Writer(
            model, None, None, temperature, False, top_k=top_k, top_p=top_p if top_p < 1 else None
        )
        np.testing.assert_allclose(weights, writer.weights(logits), rtol=1e-12, atol=1e-300)


@pytest.mark.slow
def test_blocks_of_a_text_are_pythons(built_core, tmp_path):
    (tmp_path / "core.wasm").write_bytes(built_core)
    text = "".join(chr(97 + i * i % 26) for i in range(5000))
    for seed in (0, 42, -3, 2**70):
        found = node("blocks.mjs", tmp_path / "core.wasm", text, seed)
        run = mg.Trainer([text], data_mode="stream", block_size=11, seed=seed)
        starts, lengths = run.batches.sequences(0, 100)
        assert found == np.stack([starts, lengths], 1).tolist()
