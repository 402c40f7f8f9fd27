"""Jobs and kernels, timed in this process."""

import math
from time import perf_counter, thread_time

import numpy as np

from ..backends import BackendError, load, name_of
from ..checking.cases import CASES
from ..data.tokenizer import Tokenizer
from ..model import GPT
from ..parameters import products
from ..random_stream import seeded
from ..sampling.sample import generate
from .jobs import ADAM, SEED

CALL_SECONDS = 0.005  # a call is timed as a whole: long enough for the clock, short enough for many calls
FIRST_LOSSES = 3  # that implementations are compared by: after three steps a wrong gradient shows
PEAK_SECONDS = 0.05


class Training:
    """A job on one of our backends, timed in portions; the training goes on from one to the next.

    Parameters
    ----------
    job : Job
    backend : module
        As backends.load() returns it.
    dtype, numerics, threads : str, str, int

    Attributes
    ----------
    losses : float64 array [FIRST_LOSSES]
        Of the first steps.
    last_loss : float
    step : int
        Steps so far.
    cpu_times : list of float
        Seconds of this thread's own computing in a step of each call: what the call would take if no other
        program had the processor meanwhile. It leaves out what other threads do.
    """

    def __init__(self, job, backend, dtype, numerics, threads):
        self.job = job
        self.engine = backend.Engine(job.config, dtype, numerics, threads)
        self.parameters = job.weights(dtype)
        self.m, self.v = np.zeros((2, self.parameters.size), self.parameters.dtype)
        self.tokens, self.starts, self.lengths = job.documents()
        self.step, self.count, self.last_loss = 0, 1, math.nan
        self.cpu_times = []
        self.losses = np.concatenate([self._train(1)[0] for _ in range(FIRST_LOSSES)])

    def measure(self, seconds):
        """Train for about this long; returns the seconds per step of each call, an array."""
        times, spent = [], 0.0
        while spent < seconds or not times:
            _, elapsed, cpu = self._train(self.count)
            spent += elapsed
            if elapsed < CALL_SECONDS / 2:
                self.count *= 2
            else:
                times.append(elapsed / self.count)
                self.cpu_times.append(cpu / self.count)
        return np.array(times)

    def _train(self, count):
        B = self.job.batch_size
        documents = np.arange(self.step * B, (self.step + count) * B) % len(self.starts)
        starts, lengths = self.starts[documents], self.lengths[documents]
        learning_rates = np.full(count, self.job.learning_rate)
        losses = np.empty(count)
        begin, cpu_begin = perf_counter(), thread_time()
        self.engine.train_steps(
            losses, self.parameters, self.m, self.v, self.tokens, starts, lengths, B, learning_rates, ADAM,
            self.step + 1,
        )  # fmt: skip
        elapsed, cpu = perf_counter() - begin, thread_time() - cpu_begin
        self.step += count
        self.last_loss = float(losses[-1])
        return losses, elapsed, cpu


def time_decode(job, backend, dtype, numerics, seconds):
    """Documents sampled from a job's initial model, one stream, sampling included.

    Each is drawn until it ends by itself or has block_size tokens. The bound is the reading of every weight
    once per token, at the bandwidth with which this core reads an array as large as they are.

    Returns
    -------
    result : dict
        See `summary`; a step is a token. Also cpu_us_per_step, the thread's own computing; mean_length of
        the documents, bandwidth_gb_per_s, and fraction_of_bound.
    """
    config = job.config
    engine = backend.Engine(config, dtype, numerics)
    weights = job.weights(dtype)
    decoder = engine.decoder(weights)
    random = seeded(SEED, backend)
    bos = config.vocab_size - 1
    times, cpu_times, lengths, spent = [], [], [], 0.0
    while spent < seconds:
        tokens, begin, cpu_begin, elapsed = 0, perf_counter(), thread_time(), 0.0
        while elapsed < CALL_SECONDS:
            drawn = len(decoder.generate(random, bos, 1.0))
            length = min(drawn + 1, config.block_size)  # the bos that ends it was computed too
            tokens += length
            lengths.append(length)
            elapsed = perf_counter() - begin
        times.append(elapsed / tokens)
        cpu_times.append((thread_time() - cpu_begin) / tokens)
        spent += elapsed
    bytes_per_token = products(config) * (2 if dtype == "bfloat16" else weights.itemsize)
    result = summary(times[1:] or times, 1)
    result["cpu_us_per_step"] = float(np.median(cpu_times[1:] or cpu_times)) * 1e6
    result = {**result, "mean_length": round(float(np.mean(lengths)), 1)}
    compiled = compiled_backend()
    if compiled is not None:
        bandwidth = compiled.measure_bandwidth(bytes_per_token)
        result["bandwidth_gb_per_s"] = bandwidth
        result["fraction_of_bound"] = result["tokens_per_s"] * bytes_per_token / (bandwidth * 1e9)
    return result


def time_decode_together(job, batch_size, backend, dtype, threads, seconds):
    """`batch_size` streams at once from a job's initial model: whole calls of `generate`, of two batches each.

    Returns
    -------
    times : array
        Seconds per token, of each call.
    """
    alphabet = "".join(map(chr, range(ord("0"), ord("0") + job.config.vocab_size - 1)))
    model = GPT(
        job.config,
        Tokenizer(alphabet),
        dtype=dtype,
        backend=name_of(backend),
        numerics="fast",
        threads=threads,
    )
    model.parameters[:] = job.weights(dtype)
    times, spent, seed = [], 0.0, SEED
    while spent < seconds or len(times) < 2:
        begin = perf_counter()
        texts = generate(model, 2 * batch_size, 1.0, seed, batch_size=batch_size)
        elapsed = perf_counter() - begin
        times.append(elapsed / sum(min(len(text) + 1, job.config.block_size) for text in texts))
        spent += elapsed
        seed += 1
    return np.array(times[1:])  # without the warm-up


def time_kernel(case, size, backend, dtype, seconds):
    """One kernel with the arguments of its case.

    Parameters
    ----------
    case : cases.Case
    size : dict
        One of case.timed.
    backend : module
    dtype : str
    seconds : float

    Returns
    -------
    result : dict
        us, us_p20, us_p80, gflops, gb_per_s (each argument counted once) and operations_per_byte.
    """
    arguments = case.arguments(dtype, **size)
    size_bytes = sum(value.nbytes for value in arguments.values() if isinstance(value, np.ndarray))
    count, times, spent = 1, [], 0.0
    case.run(backend, arguments)
    while spent < seconds or not times:
        begin = perf_counter()
        for _ in range(count):
            case.run(backend, arguments)
        elapsed = perf_counter() - begin
        spent += elapsed
        if elapsed < CALL_SECONDS / 2:
            count *= 2
        else:
            times.append(elapsed / count)
    low, median, high = np.percentile(times, (20, 50, 80))
    operations = case.operations(**size)
    return {
        "us": median * 1e6,
        "us_p20": low * 1e6,
        "us_p80": high * 1e6,
        "gflops": operations / median / 1e9,
        "gb_per_s": size_bytes / median / 1e9,
        "operations_per_byte": operations / size_bytes,
    }


def kernel_sizes(name):
    """(case, size) of every size of a kernel that is worth timing."""
    return [(CASES[name], size) for size in CASES[name].timed]


def summary(times, tokens):
    """Median and percentiles of the seconds per step, and the rate for so many tokens per step."""
    low, median, high = np.percentile(times, (20, 50, 80))
    return {
        "us_per_step": median * 1e6,
        "us_p20": low * 1e6,
        "us_p80": high * 1e6,
        "tokens_per_s": tokens / median,
    }


def compiled_backend():
    """The compiled backend, which has the loops that measure the machine; None without it."""
    try:
        return load("cython")
    except BackendError:
        return None


def peak_gflops(dtype):
    """Multiply-adds of one core in 1e9 operations per second; None without the compiled backend."""
    compiled = compiled_backend()
    return None if compiled is None else compiled.measure_peak(dtype, seconds=PEAK_SECONDS)


def isa_of(backend):
    """The instruction set in use; None for a backend that leaves it to its libraries."""
    return backend.active_isa() if name_of(backend) == "cython" else None


def reset_peak_memory():
    """Let `peak_memory_mb` count from here on, where the system can."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def peak_memory_mb():
    """Largest resident memory of this process, libraries included, since the reset or else from the start."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e6
    except (OSError, StopIteration):
        import resource
        import sys

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6
