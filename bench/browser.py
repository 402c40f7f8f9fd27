"""How fast the page of a model trains and writes in Chromium, beside the compiled backend's baseline on this machine.

    pip install 'microgpt-fast[web]' playwright        and Chromium, which `--chromium` names
    python bench/browser.py

Prints the fastest of several rounds: of the page by the clock, natively by processor time. So on a busy machine the
ratio is at least what is printed.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from time import process_time

os.environ.setdefault("MICROGPT_FAST_ISA", "baseline")

import numpy as np
from playwright.sync_api import sync_playwright

import microgpt_fast as mg
from microgpt_fast.export.page import page

TRAIN = """() => {
  const { core, state, Trainer } = microgpt;
  const trainer = new Trainer(core, state.names, { num_steps: 20000 });
  trainer.steps(2000);
  const start = performance.now();
  trainer.steps(18000);
  const seconds = (performance.now() - start) / 1000;
  trainer.free();
  return 18000 / seconds;
}"""
WRITE = """(count) => {
  const { model } = microgpt.state.current;
  const { block_size, vocab_size } = model.config;
  const start = performance.now();
  for (let i = 0; i < count; i++) model.decode((7 * i) % vocab_size, i % block_size);
  return count / ((performance.now() - start) / 1000);
}"""
LARGER = dict(n_layer=4, n_head=4, n_embd=128, block_size=64, num_steps=0, dtype="float32")


def native_steps():
    """Training steps of the default job per second."""
    run = mg.Trainer(dtype="float32", num_steps=20000, threads=1)
    run.take_steps(2000)
    run.step = 2000
    start = process_time()
    run.take_steps(18000)
    return 18000 / (process_time() - start)


def native_tokens(model, count):
    """Tokens per second of one sample."""
    decoder, T, V = model.engine.decoder(model.parameters), model.config.block_size, model.config.vocab_size
    start = process_time()
    for i in range(count):
        decoder.step(7 * i % V, i % T)
    return count / (process_time() - start)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--chromium", default=shutil.which("chromium"), help="the program (default: from PATH)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    larger = mg.train(["".join(map(chr, range(33, 98)))], **LARGER).model
    small = mg.train(num_steps=0, dtype="float32").model
    found = {"default job, training steps": [], "4/4/128/64, tokens written": []}
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as work:
        browser = driver.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        print(f"Chromium {browser.version}, backend cython {os.environ['MICROGPT_FAST_ISA']}")
        tabs = []
        for number, model in enumerate((small, larger)):
            file = Path(work, f"{number}.html")
            file.write_bytes(page(model))
            tabs.append(browser.new_page())
            tabs[-1].goto(file.as_uri())
            tabs[-1].wait_for_selector("#self-test.good")
        for _ in range(options.rounds):
            found["default job, training steps"].append((tabs[0].evaluate(TRAIN), native_steps()))
            speeds = tabs[1].evaluate(WRITE, 3000), native_tokens(larger, 3000)
            found["4/4/128/64, tokens written"].append(speeds)
        browser.close()
    for name, speeds in found.items():
        browser, native = np.max(speeds, axis=0)
        print(
            f"{name} per second: {browser:,.0f} in the page, {native:,.0f} native, ratio {browser / native:.2f}"
        )


if __name__ == "__main__":
    main()
