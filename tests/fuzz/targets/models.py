"""Model files and checkpoints whose checksums are right, and the rest anything: they are loaded, or refused."""

import functools
import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
from safetensors.numpy import save as to_bytes

import microgpt_fast as mg
from microgpt_fast.config import UsageError
from microgpt_fast.training import checkpoint
from microgpt_fast.training.checkpoint import TRAINING, CheckpointError, load_with_training
from microgpt_fast.training.resume import fingerprint, resume_training

from .. import scratch_folder
from ..hostile import BROKEN, check_message, json_of

DOCUMENTS = ["anna", "bob", "hannah"]
FLOATS = [0.0, -0.0, 1e30, -1e30, 5e-324, np.nan, np.inf, -np.inf]
SHAPES = [(0,), (1,), (3,), (2, 2), (), (0, 5), (1, 1, 1)]
DTYPES = ["float32", "float64", "float16", "int64", "uint8", "bool"]
FOLDER = scratch_folder()


@functools.cache
def _base(dtype, tokenizer, mode):
    """(the trainer, its metadata as JSON values, its tensors)."""
    corpus = mg.load_corpus(DOCUMENTS, mode=mode, tokenizer=tokenizer)
    options = {
        "n_embd": 2,
        "n_head": 1,
        "block_size": 4,
        "num_steps": 3,
        "val_fraction": 0.4,
        "eval_interval": 1,
    }
    run = mg.Trainer(corpus, dtype=dtype, tokenizer=tokenizer, data_mode=mode, backend="numpy", **options)
    [*run.events()]
    values = {
        "config": asdict(run.model.config),
        "tokenizer": run.model.tokenizer.constants(),
        "train_config": asdict(run.model.train_config),
        "training": {
            "step": run.step,
            "tokens": run.tokens,
            "seconds": run.seconds,
            "evaluations": [[*event] for event in run.evaluations],
            "random": json.loads(json.dumps(run.random.getstate())),
            "data": fingerprint(corpus),
        },
    }
    m, v = run.moments
    arrays = {TRAINING + "m": m, TRAINING + "v": v, TRAINING + "losses": run.losses}
    return run, values, {**run.model.tensors, **arrays}


def make(random):
    """The bytes of a file, and what it was made from."""
    kind = (
        random.choice(["float32", "float64"]),
        random.choice(["char", "byte"]),
        random.choice(["lines", "stream"]),
    )
    _, values, tensors = _base(*kind)
    changed = random.choice([*values, "tensors", "nothing"])
    texts = {name: json_of(random, value, 0) for name, value in values.items()}
    for name in {changed, random.choice([changed, *values])} & {*values}:
        texts[name] = json_of(random, values[name], random.choice([1, 1, 1, 2, 5]))
    if random.random() < 0.2:
        del texts["training"]
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING)}
    tensors = dict(tensors)
    if changed == "tensors":
        _spoil(random, tensors)
    return SimpleNamespace(kind=kind, changed=changed, content=file_of(random, texts, tensors))


def _spoil(random, tensors):
    name = random.choice([*tensors])
    what = random.randrange(5)
    if what == 0:
        del tensors[name]
    elif what == 1:
        tensors[random.choice(["x", TRAINING + "x", "layer9.attn_wq"])] = tensors[name]
    elif what == 2:
        tensors[name] = np.zeros(random.choice(SHAPES), tensors[name].dtype)
    elif what == 3:
        tensors[name] = tensors[name].astype(random.choice(DTYPES))
    else:
        tensors[name] = tensors[name].copy()
        tensors[name].flat[random.randrange(tensors[name].size)] = random.choice(FLOATS)


def file_of(random, texts, tensors):
    """A safetensors file with a valid checksum, unless its metadata lack what a checksum needs."""
    metadata = {"format": "microgpt_fast", "version": "1", **texts}
    arrays = {name[len(TRAINING) :]: array for name, array in tensors.items() if name.startswith(TRAINING)}
    model = [np.ravel(array) for name, array in tensors.items() if not name.startswith(TRAINING)]
    parameters = np.concatenate(model) if model else np.zeros(0)
    metadata["crc32"] = checkpoint._checksum(metadata, parameters, arrays)
    if random.random() < 0.05:
        name = random.choice([*metadata])
        metadata[name] = random.choice([*BROKEN, "2", "microgpt"])
        if random.random() < 0.5:
            del metadata[name]
    return to_bytes(tensors, metadata)


def run(case):
    """Load it as a model and as a training; use what was loaded."""
    path = FOLDER / "model"
    path.write_bytes(case.content)
    try:
        model, _, _ = load_with_training(path, backend="numpy", numerics="fast")
    except CheckpointError as error:
        check_message(error)
        return
    for use in (
        lambda: mg.generate(model, 1, seed=1, max_new_tokens=3),
        lambda: np.testing.assert_array_equal(np.isfinite(mg.score(model, DOCUMENTS).surprises), True),
        lambda: mg.save(model, FOLDER / "again"),
        lambda: _resume(case, path),
    ):
        try:
            with np.errstate(all="ignore"):
                use()
        except UsageError as error:
            check_message(error)


def _resume(case, path):
    corpus = _base(*case.kind)[0].corpus
    run = resume_training(path, corpus)
    assert run.step == len(run.losses) and run.random.choices(np.ones(3)) in range(3)
