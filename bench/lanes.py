"""Would a model in each lane of the vectors train faster than one model after the other? A bound from below.

python bench/lanes.py names.txt

Compiles lanes.c for AVX-512 and times it in turn with single steps of the default model in float32, one thread,
processor time, minima. Prints microseconds per step of one model.
"""

import ctypes
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import thread_time

import numpy as np

import microgpt_fast as mg
from microgpt_fast.native.build import COMMON, FAST, flags_of

ROOT = Path(__file__).parent.parent
ROUNDS = 60
STEPS, STEPS_IN_LANES = 1000, 100  # per call
TOKENS = (7, 10)  # of which lanes.c has tiles


def library(folder):
    """The compiled lanes.c."""
    path = Path(folder, "lanes.so")
    flags = [flag for flag in COMMON if "visibility" not in flag] + FAST + flags_of("avx512")
    includes = [f"-I{ROOT / name}" for name in ("csrc", "microgpt_fast/include")]
    source = ROOT / "bench" / "lanes.c"
    subprocess.run(
        ["cc", *flags, "-DREAL_BITS=32", *includes, "-shared", "-fPIC", source, "-o", path, "-lm"], check=True
    )
    lanes = ctypes.CDLL(str(path))
    lanes.new_models.restype = ctypes.c_void_p
    return lanes


def main(data):
    corpus = mg.load_corpus(data)
    single = mg.Trainer(corpus, dtype="float32", threads=1, num_steps=ROUNDS * STEPS)
    best = dict.fromkeys(("single", *TOKENS), np.inf)

    def time(name, steps, work):
        begin = thread_time()
        work()
        best[name] = min(best[name], 1e6 * (thread_time() - begin) / steps)

    with tempfile.TemporaryDirectory() as folder:
        lanes = library(folder)
        models, count = ctypes.c_void_p(lanes.new_models()), lanes.lanes()
        for _ in range(ROUNDS):
            time("single", STEPS, lambda: single.take_steps(STEPS))
            single.step += STEPS
            for tokens in TOKENS:
                work = partial(lanes.train_steps, models, STEPS_IN_LANES, tokens)
                time(tokens, STEPS_IN_LANES * count, work)
    lengths = np.minimum(np.diff(corpus.offsets) - 1, 16)
    longest = np.random.default_rng(0).choice(lengths, (20_000, count)).max(axis=1).mean()
    print(f"tokens per document: {lengths.mean():.1f}; the longest of {count}: {longest:.1f} on average")
    print(f"a single model's whole step: {best['single']:.2f} us")
    for tokens in TOKENS:
        print(f"{count} lanes, {tokens} tokens, products and Adam alone: {best[tokens]:.2f} us per model")


if __name__ == "__main__":
    main(sys.argv[1])
