"""What is compared with what: the results of one run of the bench, one dict each.

A result of ours holds those of the others for the same job under "peers". Their "ratio" is the time they take
over ours; where the work is not the same (dtype, batch, algorithm) there is none, and "note" says why.
"""

import os

import numpy as np

from ..backends import name_of
from ..config import UsageError
from ..parameters import products
from . import jobs, processes, programs, timing

LOSSES = 3  # that a program prints, for comparison
ROUNDS = 5  # ours and the peers take turns, so that all see the same machine
LOSS_TOLERANCE = {"bfloat16": 1e-2, "float32": 1e-4, "float64": 1e-6}  # relative, of the first losses
PRINTED_LOSS_TOLERANCE = 1e-3  # the original prints 4 digits, and lets the learning rate fall


class Bench:
    """How the results of this run are to be measured.

    Parameters
    ----------
    backend : module
        As backends.load() returns it.
    dtype, numerics, threads : str, str, int
    seconds : float
        For which each implementation of a job, or each kernel, is timed.
    """

    def __init__(self, backend, dtype, numerics, threads, seconds):
        self.backend, self.dtype, self.numerics, self.threads = backend, dtype, numerics, threads
        self.seconds = seconds

    def header(self, **fields):
        """What every result of ours begins with."""
        how = {key: value for key, value in self.settings().items() if key != "threads"}
        return {**fields, "who": "microgpt-fast", **how}

    def settings(self):
        """What a run has to share with another for their times to be compared."""
        return {
            "dtype": self.dtype,
            "numerics": self.numerics,
            "backend": name_of(self.backend),
            "isa": timing.isa_of(self.backend),
            "threads": self.threads,
        }

    def training(self, job, peers=(), commands=(), original=None):
        """A training job.

        Parameters
        ----------
        job : Job
        peers : sequence of Path
            Peers to take turns with: see `processes.PeerProcess`.
        commands : sequence of (name, dtype, batch size, command)
            Whole programs: see `programs.parse_peer`.
        original : path, optional
            A copy of microgpt.py.
        """
        timing.reset_peak_memory()
        ours = timing.Training(job, self.backend, self.dtype, self.numerics, self.threads)
        started, failures = [], []
        try:
            for path in peers:
                try:
                    started.append(processes.PeerProcess(path, job, self.dtype, self.threads))
                except UsageError as error:  # the others are measured all the same
                    failures.append(failed(job, os.path.basename(path), self.dtype, None, error))
            others = [peer for peer in started if not peer.missing]
            times, peak = self._take_turns(ours, others)
        finally:
            for peer in started:
                peer.close()

        def result(times, threads, batch_size):
            return {
                "threads": threads,
                "batch_size": batch_size,
                **timing.summary(times, job.tokens(ours.lengths)),
                **efficiency(job.operations(ours.lengths), times, peak, threads),
            }

        sizes = ("vocab_size", "n_layer", "n_embd", "n_head", "block_size")
        shape = {name: getattr(job.config, name) for name in sizes}
        result_of_ours = {
            **self.header(job=job.name),
            **result(times[0], getattr(ours.engine, "threads", 1), job.batch_size),
            "cpu_us_per_step": float(np.median(ours.cpu_times)) * 1e6 if self.threads == 1 else None,
            "peak_rss_mb": timing.peak_memory_mb(),
            "first_loss": float(ours.losses[0]),
            "loss": ours.last_loss,
            "steps": ours.step,
            **shape,
            "peers": [],
            "notes": [f"{peer.missing} is not installed" for peer in started if peer.missing],
        }
        rows = result_of_ours["peers"]
        for peer, peer_times in zip(others, times[1:]):
            differs = not np.allclose(peer.losses, ours.losses, rtol=LOSS_TOLERANCE[self.dtype], atol=0)
            rows.append(
                {
                    "job": job.name,
                    "who": peer.title,
                    "dtype": self.dtype,
                    **result(peer_times, self.threads, job.batch_size),
                    "peak_rss_mb": peer.peak_rss_mb,
                    "first_loss": peer.losses[0],
                    **comparison(result_of_ours, peer_times, "its losses differ" if differs else ""),
                }
            )
        rows += failures
        for name, dtype, batch_size, command in commands:
            unequal = unequal_work(result_of_ours, dtype, batch_size)
            try:
                unequal = unequal or unequal_losses(ours.losses, programs.first_losses(name, command))
                seconds = programs.time_by_length(name, command)
            except UsageError as error:
                rows.append(failed(job, name, dtype, batch_size, error))
                continue
            rows.append(
                {
                    "job": job.name,
                    "who": name,
                    "dtype": dtype,
                    "batch_size": batch_size,
                    **step_times(seconds),
                    **comparison(result_of_ours, seconds, unequal),
                }
            )
        if original is not None:
            seconds, losses = programs.time_original(original)
            unequal = unequal_work(result_of_ours, "float64", 1)
            if not np.allclose(losses[:3], ours.losses[: len(losses)], atol=PRINTED_LOSS_TOLERANCE):
                unequal = unequal or "its losses differ"
            rows.append(
                {
                    "job": job.name,
                    "who": "original",
                    "dtype": "float64",
                    **result(seconds, 1, 1),
                    "first_loss": losses[0],
                    **comparison(result_of_ours, seconds, unequal),
                }
            )
        return result_of_ours

    def _take_turns(self, ours, others):
        times = [[] for _ in (ours, *others)]
        peak = timing.peak_gflops(self.dtype)
        rounds = ROUNDS if others else 1
        for _ in range(rounds):
            for portion, implementation in zip(times, (ours, *others)):
                portion.append(implementation.measure(self.seconds / rounds))
            peak = peak and max(peak, timing.peak_gflops(self.dtype))
        return [np.concatenate(portion) for portion in times], peak

    def outside(self, job):
        """Microseconds per step of a job on names, from whole training runs of different length."""
        command = programs.train_command(
            *("--quiet", "--no-out", "--num-samples", "0", "--num-steps", "{steps}"),
            *("--dtype", self.dtype, "--numerics", self.numerics, "--backend", name_of(self.backend)),
            *("--threads", str(self.threads), "--batch-size", str(job.batch_size)),
        )
        return float(np.median(programs.time_by_length("the training run", command))) * 1e6

    def decode(self, name):
        """Sampling: a key of `jobs.DECODE`."""
        job, batch_size = jobs.JOBS[jobs.DECODE[name][0]], jobs.DECODE[name][1]
        timing.reset_peak_memory()
        if batch_size == 1:
            result = timing.time_decode(job, self.backend, self.dtype, self.numerics, self.seconds)
            result = {"threads": 1, **result}
        else:
            times = timing.time_decode_together(
                job, batch_size, self.backend, self.dtype, self.threads, self.seconds
            )
            operations, peak = 2 * products(job.config), timing.peak_gflops(self.dtype)
            result = {
                "threads": self.threads,
                "batch_size": batch_size,
                **timing.summary(times, 1),
                **efficiency(operations, times, peak, self.threads),
            }
        return {**self.header(job=name), **result, "peak_rss_mb": timing.peak_memory_mb()}

    def startup(self):
        """The whole process of the default training run, of our import, and of importing NumPy."""
        train, package, numpy = programs.time_startup()
        result = {
            "job": jobs.STARTUP,
            "who": "microgpt-fast",
            **startup_times("", train),
            **startup_times("import_", package),
            "numpy_seconds": float(np.median(numpy[0])),
        }
        return {**result, "ratio_to_numpy": result["seconds"] / result["numpy_seconds"]}

    def kernels(self, name):
        """A result for each size of a kernel that is worth timing."""
        for case, size in timing.kernel_sizes(name):
            result = timing.time_kernel(case, size, self.backend, self.dtype, self.seconds)
            peak = timing.peak_gflops(self.dtype)
            yield {
                **self.header(kernel=name, size=size_text(size)),
                "numerics": "fast",
                "threads": 1,
                **result,
                "peak_gflops": peak,
                "fraction_of_peak": result["gflops"] / peak if peak else None,
            }


def efficiency(operations, times, peak, threads):
    """Operations of a step over its median time, and over what `threads` cores could do in it."""
    gflops = float(operations / np.median(times) / 1e9)
    fraction = gflops / (peak * threads) if peak else None
    return {"gflops": gflops, "peak_gflops": peak, "fraction_of_peak": fraction}


def startup_times(prefix, times):
    """Median seconds of whole processes, the 20th and 80th percentiles, and the median processor time.

    Parameters
    ----------
    prefix : str
        Of the keys.
    times : float64 array [2, n]
        See `programs.time_startup`.
    """
    low, median, high = np.percentile(times[0], (20, 50, 80)).tolist()
    cpu = float(np.median(times[1]))
    return {
        f"{prefix}seconds": median,
        f"{prefix}seconds_p20": low,
        f"{prefix}seconds_p80": high,
        f"{prefix}cpu_seconds": None if np.isnan(cpu) else cpu,
    }


def step_times(seconds):
    """Only the times of a summary: how many tokens a program takes per step is its own business."""
    return {key: value for key, value in timing.summary(seconds, 0).items() if key != "tokens_per_s"}


def unequal_work(ours, dtype, batch_size):
    """How a program's work differs from that of our result; empty if it does not."""
    if dtype is None:
        return "work not declared: --peer NAME:DTYPE:BATCH=COMMAND"
    differences = []
    if dtype != ours["dtype"]:
        differences.append(f"dtype {dtype}, not {ours['dtype']}")
    if batch_size != ours["batch_size"]:
        differences.append(f"batch of {batch_size}, not {ours['batch_size']}")
    if ours["threads"] != 1:
        differences.append(f"ours on {ours['threads']} threads")
    return ", ".join(differences)


def unequal_losses(ours, theirs):
    """Why the first losses that a program prints are not those of the same work; empty if they are."""
    if len(theirs) < LOSSES:
        return f"it prints no losses to compare: {LOSSES} lines such as 'step 1 / {LOSSES} | loss 3.2189'"
    if not np.allclose(theirs[:LOSSES], ours[:LOSSES], atol=PRINTED_LOSS_TOLERANCE):
        return "its losses differ"
    return ""


def failed(job, name, dtype, batch_size, error):
    """The row of a program that could not be timed."""
    work = {"dtype": dtype, "batch_size": batch_size}
    return {"job": job.name, "who": name, **work, "us_per_step": None, "ratio": None, "note": str(error)}


def comparison(ours, seconds, unequal):
    """The ratio of the median times, or why there is none."""
    if unequal:
        return {"ratio": None, "note": unequal}
    return {"ratio": float(np.median(seconds)) * 1e6 / ours["us_per_step"], "note": ""}


def size_text(size):
    """A kernel's size as text: N=64 C=64."""
    values = ((key, "+".join(map(str, v)) if isinstance(v, tuple) else v) for key, v in size.items())
    return " ".join(f"{key}={value}" for key, value in values)
