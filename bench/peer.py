"""What the programs here have in common: they train a job of microgpt-fast's bench in another framework.

`microgpt-fast bench --peers bench` starts them and tells them when to train: see PeerProcess there.
"""

import importlib
import json
import os
import sys
from time import perf_counter

import numpy as np

from microgpt_fast.benchmark.jobs import Job
from microgpt_fast.benchmark.timing import FIRST_LOSSES, peak_memory_mb
from microgpt_fast.config import GPTConfig


def serve(module, make):
    """Answer the bench until it has no more questions.

    Parameters
    ----------
    module : str
        The framework.
    make : function of (job, dtype, threads)
        Returns an object with `name`; `steps_per_call`; and `train()`, which does that many steps, from the
        first on, and returns their losses once they are done.
    """
    request = json.loads(sys.argv[1])
    job = request["job"]
    job = Job(**{**job, "config": GPTConfig(**job["config"])})
    if hasattr(os, "sched_setaffinity"):  # before the framework counts the processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: request["threads"]])
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        return answer(missing=error.name)
    program = make(job, request["dtype"], request["threads"])
    losses = []
    while len(losses) < FIRST_LOSSES:
        losses += [float(loss) for loss in program.train()]
    answer(name=program.name, losses=losses[:FIRST_LOSSES])
    for line in sys.stdin:
        seconds, spent = [], 0.0
        while spent < float(line) or not seconds:
            begin = perf_counter()
            program.train()
            elapsed = perf_counter() - begin
            spent += elapsed
            seconds.append(elapsed / program.steps_per_call)
        answer(seconds=seconds, peak_rss_mb=peak_memory_mb())


def answer(**fields):
    print(json.dumps(fields), flush=True)


def tensors(job, dtype):
    """The initial weights of a job by name; see `joined`."""
    flat = job.weights(dtype)
    return joined({p.name: flat[p.place].reshape(p.shape) for p in job.config.parameters()})


def joined(tensors):
    """A model's tensors by name: attn_wq, attn_wk and attn_wv of a layer as one, attn_qkv [3 C, C]."""
    named = {}
    for name, tensor in tensors.items():
        if name.endswith("attn_wq"):
            parts = [tensors[name.replace("wq", part)] for part in ("wq", "wk", "wv")]
            named[name.replace("wq", "qkv")] = np.concatenate(parts)
        elif not name.endswith(("attn_wk", "attn_wv")):
            named[name] = tensor
    return named


def padded_batches(job, dtype):
    """All batches of a job: see `padded`."""
    tokens, starts, lengths = job.documents()
    return padded(tokens, starts, lengths, job.batch_size, job.config.block_size, dtype)


def padded(tokens, starts, lengths, batch_size, block_size, dtype):
    """Batches of documents, padded to block_size.

    Parameters
    ----------
    tokens, starts, lengths
        Document i is tokens[starts[i] : starts[i] + lengths[i] + 1].

    Returns
    -------
    inputs, targets : int32 arrays [n, B, T]
        Padded with 0.
    weights : dtype array [n, B, T]
        Of each position's loss: 1 / (B * length) within the document, 0 in the padding.
    longest : int array [n]
        Length of the longest document of each batch.
    """
    B, T = batch_size, block_size
    inside = np.arange(T) < lengths[:, None]
    places = np.where(inside, starts[:, None] + np.arange(T), 0)
    inputs = np.where(inside, tokens[places], 0)
    targets = np.where(inside, tokens[places + 1], 0)
    weights = inside / (B * lengths[:, None])
    inputs, targets, weights = (x.reshape(-1, B, T) for x in (inputs, targets, weights))
    return inputs, targets, weights.astype(dtype), lengths.reshape(-1, B).max(1)
