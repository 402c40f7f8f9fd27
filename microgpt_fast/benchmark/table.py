"""Results as lines of text, and as CSV."""

import csv

MILLISECONDS_FROM = 10_000  # microseconds

COLUMNS = (
    *("date", "machine", "cpus", "load", "python", "numpy", "microgpt_fast"),
    *("job", "kernel", "size", "who", "dtype", "numerics", "backend", "isa", "threads", "batch_size"),
    *("n_layer", "n_head", "n_embd", "block_size", "vocab_size"),
    *("us_per_step", "us_p20", "us_p80", "cpu_us_per_step", "us_per_step_outside", "tokens_per_s", "us"),
    *("gflops", "gb_per_s", "operations_per_byte", "peak_gflops", "fraction_of_peak"),
    *("bandwidth_gb_per_s", "fraction_of_bound"),
    *("peak_rss_mb", "first_loss", "loss", "steps", "seconds", "numpy_seconds", "ratio_to_numpy"),
    *("ratio", "note", "import_seconds"),
)


def rows_of(results):
    """Results and, after each, those of its peers."""
    for result in results:
        yield result
        yield from result.get("peers", ())


def write_csv(path, environment, results):
    """One row for each implementation of each job."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in rows_of(results):
            writer.writerow({**environment, **row})


def heading(environment):
    """The environment in one line."""
    return ", ".join(f"{name} {value}" for name, value in environment.items() if value is not None)


def lines_of(result):
    """A result as lines of text."""
    if "kernel" in result:
        yield (
            f"{result['kernel']:22} {result['size']:38} {result['dtype']} {time_text(result, 'us')}"
            f"{result['gflops']:8.1f} GF/s{percent(result, 'fraction_of_peak', 'of peak')}"
            f"{result['gb_per_s']:8.1f} GB/s"
        )
        return
    if "seconds" in result:
        yield (
            f"{result['job']}: {result['seconds']:.3f} s ({result['seconds_p20']:.3f} to "
            f"{result['seconds_p80']:.3f}), {result['ratio_to_numpy']:.2f} times importing NumPy "
            f"({result['numpy_seconds']:.3f} s); importing microgpt_fast {result['import_seconds']:.3f} s"
        )
        return
    how = ", ".join(str(result[key]) for key in ("backend", "isa", "dtype", "numerics") if result[key])
    threads = result["threads"]
    yield f"{result['job']} ({how}, {threads} {'thread' if threads == 1 else 'threads'})"
    for row in rows_of([result]):
        text = f"  {row['who']:16}{time_text(row, 'us_per_step')}"
        if "tokens_per_s" in row:
            text += f"{row['tokens_per_s']:14,.0f} tokens/s"
        text += percent(row, "fraction_of_peak", "of peak") + percent(row, "fraction_of_bound", "of bound")
        if "peak_rss_mb" in row:
            text += f"{row['peak_rss_mb']:7.0f} MB"
        if row.get("loss") is not None:
            text += f"  loss {row['loss']:.4f} after {row['steps']:,} steps"
        if row.get("ratio") is not None:
            text += f"  {row['ratio']:.2f} times ours"
        yield text + (f"  not compared: {row['note']}" if row.get("note") else "")
    if "us_per_step_outside" in result:
        yield f"  from outside    {result['us_per_step_outside']:12,.2f} us"
    if result.get("cpu_us_per_step"):
        yield f"  processor time  {result['cpu_us_per_step']:12,.2f} us"
    yield from (f"  {note}" for note in result.get("notes", ()))


def time_text(row, key):
    """A median with its range, in milliseconds where it is long; nothing of what could not be timed."""
    if row[key] is None:
        return f"{'-':>12}   "
    if row[key] >= MILLISECONDS_FROM:
        median, low, high = (row[name] / 1000 for name in (key, "us_p20", "us_p80"))
        return f"{median:12,.2f} ms ({low:,.2f} to {high:,.2f})"
    return f"{row[key]:12,.2f} us ({row['us_p20']:,.2f} to {row['us_p80']:,.2f})"


def percent(row, key, of):
    return f"{100 * row[key]:6.1f} % {of}" if row.get(key) is not None else ""
