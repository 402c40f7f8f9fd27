"""A page of your own: trains on a few words, and writes page.html for any browser."""

from pathlib import Path

import microgpt_fast as mg
from microgpt_fast.export.page import page

WORDS = "apple apricot avocado banana cherry fig grape lemon lime mango melon orange papaya peach pear plum".split()

if __name__ == "__main__":
    run = mg.train(WORDS, num_steps=500, dtype="float32")
    print(mg.generate(run.model, num_samples=5))
    Path("page.html").write_bytes(page(run.model, weights="float16", name="fruits"))
