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
        Returns an object with `name`; `steps_a_call`; and `train()`, which does that many steps, from the
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
            seconds.append(elapsed / program.steps_a_call)
        answer(seconds=seconds, peak_rss_mb=peak_memory_mb())


def answer(**fields):
    print(json.dumps(fields), flush=True)


def tensors(job, dtype):
    """The initial weights by name; attn_wq, attn_wk and attn_wv of a layer as one, attn_qkv [3 C, C]."""
    flat, start, named = job.weights(dtype), 0, {}
    C = job.config.n_embd
    for name, (rows, columns) in job.config.shapes().items():
        if name.endswith(("attn_wk", "attn_wv")):
            continue  # they follow attn_wq
        if name.endswith("attn_wq"):
            name, rows = name.replace("attn_wq", "attn_qkv"), 3 * C
        named[name] = flat[start : start + rows * columns].reshape(rows, columns)
        start += rows * columns
    return named


def padded_batches(job, dtype):
    """All batches of a job, documents padded to block_size.

    Returns
    -------
    inputs, targets : int32 arrays [n, B, T]
        Padded with 0.
    weights : dtype array [n, B, T]
        Of each position's loss: 1 / (B * length) within the document, 0 in the padding.
    longest : int array [n]
        Length of the longest document of each batch.
    """
    tokens, starts, lengths = job.documents()
    T = job.config.block_size
    inside = np.arange(T) < lengths[:, None]
    places = np.where(inside, starts[:, None] + np.arange(T), 0)
    inputs = np.where(inside, tokens[places], 0)
    targets = np.where(inside, tokens[places + 1], 0)
    weights = inside / (job.batch_size * lengths[:, None])
    inputs, targets, weights = (x.reshape(-1, job.batch_size, T) for x in (inputs, targets, weights))
    return inputs, targets, weights.astype(dtype), lengths.reshape(-1, job.batch_size).max(1)
