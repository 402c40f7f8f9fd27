"""A program: one of two versions of the package, timing a job when told.

`versions` starts it by the interpreter of a version that may be older than this file. So it names modules in full and
uses what every version has: backends.load and the functions of benchmark.timing with the arguments used here.
It speaks as `processes.TimedProcess` expects.
"""

import json
import sys
import time

FINE = 1e-6  # seconds: of a clock that can time calls of 5 ms


def main():
    """Answer the bench until it has no more questions."""
    try:
        hello, measure = prepare(**json.loads(sys.argv[1]))
        answer(**hello)
        for line in sys.stdin:
            answer(seconds=[float(seconds) for seconds in measure(float(line))])
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")


def prepare(job, dtype, numerics, backend, threads, **_):
    """What this version is and runs, and a function that times the job (None: no job) for some seconds."""
    from pathlib import Path

    import microgpt_fast
    from microgpt_fast import backends
    from microgpt_fast.benchmark import jobs, timing

    module = backends.load(backend)
    hello = {
        "version": microgpt_fast.__version__,
        "package": str(Path(microgpt_fast.__file__).resolve().parent),
        "isa": timing.isa_of(module),
    }
    if job is None:
        return hello, None
    by_processor = threads == 1 and time.get_clock_info("thread_time").resolution <= FINE
    if by_processor:
        timing.perf_counter = time.thread_time  # which stands still while other programs have the processor
    hello["by_processor"] = by_processor
    if job in jobs.JOBS:
        training = timing.Training(jobs.JOBS[job], module, dtype, numerics, threads)
        hello["threads"] = getattr(training.engine, "threads", 1)
        return {**hello, "losses": training.losses.tolist()}, training.measure
    if job not in jobs.DECODE:
        raise ValueError(f"this version has no job {job!r}")
    name, streams = jobs.DECODE[job]
    if streams > 1:

        def measure(seconds):
            return timing.time_decode_together(jobs.JOBS[name], streams, module, dtype, threads, seconds)
    else:

        def measure(seconds):
            result = timing.time_decode(jobs.JOBS[name], module, dtype, numerics, seconds)
            return [result["us_per_step"] * 1e-6]

    return hello, measure


def answer(**fields):
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
