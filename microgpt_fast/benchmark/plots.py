"""The figures: time against n_embd, and the roofline."""

from ..config import UsageError
from . import timing

try:
    import matplotlib
except ModuleNotFoundError as error:
    raise UsageError(f"--plot needs {error.name}: pip install 'microgpt-fast[plot]'") from None

matplotlib.use("Agg")
from matplotlib import pyplot

FIRST_CACHE, MEMORY = 1 << 14, 1 << 28  # bytes, to measure bandwidths with
MARKERS = "osd^v<>"


def draw(results, environment, path):
    """Write a PNG: time against n_embd if a sweep was measured, the roofline if kernels were."""
    sweep = [result for result in results if result.get("job", "").startswith("n_embd=")]
    kernels = [result for result in results if "kernel" in result]
    panels = [draw_widths] * bool(sweep) + [draw_roofline] * bool(kernels)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(8 * len(panels), 5), squeeze=False)
    for panel, ax in zip(panels, axes[0]):
        panel(ax, sweep if panel is draw_widths else kernels)
    figure.suptitle(f"{environment['machine']}, {environment['date']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=150)
    pyplot.close(figure)


def draw_widths(ax, results):
    """Time per step against n_embd, a line for each implementation, and the bound by the measured peak."""
    lines = {}
    for result in results:
        for row in (result, *result["peers"]):
            lines.setdefault(row["who"], []).append((result["n_embd"], row["us_per_step"]))
        if result["peak_gflops"]:
            bound = result["us_per_step"] * result["fraction_of_peak"]
            lines.setdefault("bound by the peak", []).append((result["n_embd"], bound))
    for name, points in sorted(lines.items(), key=lambda line: -line[1][-1][1]):
        style = "k--" if name.startswith("bound") else "o-"
        ax.loglog(*zip(*points), style, base=2, label=name, markersize=4)
    first = results[0]
    ax.set_yscale("log", base=10)
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.xaxis.set_minor_formatter("")
    ax.set_xlabel("n_embd")
    ax.set_ylabel("us per training step")
    ax.set_title(
        f"n_layer {first['n_layer']}, block_size {first['block_size']}, {first['batch_size']} documents, "
        f"{first['dtype']}, threads {first['threads']}",
        fontsize=10,
    )
    ax.legend()
    ax.grid(alpha=0.3)


def draw_roofline(ax, results):
    """Speed of the kernels, the first size of each, below the measured peak and bandwidths."""
    shown = {}
    for result in results:
        shown.setdefault(result["kernel"], result)
    for i, (name, result) in enumerate(shown.items()):
        point = (result["operations_per_byte"], result["gflops"])
        ax.loglog(*point, MARKERS[i % len(MARKERS)], color=f"C{i % 10}", label=name)
    peak = max((result["peak_gflops"] for result in results if result["peak_gflops"]), default=None)
    compiled = timing.compiled_backend()
    if peak and compiled is not None:
        for name, size in (("first cache", FIRST_CACHE), ("memory", MEMORY)):
            bandwidth = compiled.measure_bandwidth(size)
            edge = peak / bandwidth
            label = f"{name}: {bandwidth:.0f} GB/s, peak {peak:.0f} GF/s"
            ax.plot([0.01, edge, 1000], [0.01 * bandwidth, peak, peak], "--", color="0.5")
            ax.annotate(label, (0.011, 0.012 * bandwidth), fontsize=7)
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set_xlabel("operations per byte of the arguments")
    ax.set_ylabel("GF/s")
    ax.set_title(f"kernels, {results[0]['dtype']}, one core", fontsize=10)
    ax.grid(alpha=0.3)
