"""The limits of this machine, which other topics refer to."""

import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks import limits
from dml.plotting import INK, PALETTE

TITLE = "This machine"
ABOUT = """How fast anything here could be at best: float32 products of 2,048 x 2,048 matrices (every multiplication and
every addition counts as an operation) by each of the libraries that the project has, and copying in memory (bytes read
and written count); on a GPU products of 8,192 x 8,192. The best of many tries."""
OPERATIONS, BYTES = "10⁹ operations/s", "10⁹ bytes/s"
GIGA = 1e9


def measure(repetitions: int) -> pd.DataFrame:
    """One row for each limit. They are the best of as many tries as fit into half a second, not of `repetitions`."""
    rows = []
    for threads in sorted({1, limits.cores()}):
        on = f"cpu, {threads} thread{'s' if threads > 1 else ''}"
        for library, product in limits.PRODUCTS.items():
            rows.append((f"product, {library}", on, product(threads=threads) / GIGA, OPERATIONS))
        rows.append(("copy", on, limits.bandwidth(threads) / GIGA, BYTES))
    if torch.cuda.is_available():
        for kind in limits.GPU_TYPES:
            rows.append((f"product, {kind}", "gpu", limits.gpu_peak(kind) / GIGA, OPERATIONS))
        rows.append(("copy", "gpu", limits.gpu_bandwidth() / GIGA, BYTES))
    return pd.DataFrame(rows, columns=["case", "device", "rate", "unit"])


def draw(table: pd.DataFrame) -> Figure:
    """The products, one bar a library and number of threads."""
    shown = table[table["unit"] == OPERATIONS].iloc[::-1]
    figure = Figure(figsize=(8, 0.7 + 0.27 * len(shown)), layout="constrained")
    axes = figure.subplots()
    colours = [PALETTE[list(dict.fromkeys(table["device"])).index(device)] for device in shown["device"]]
    cases = [f"{case} ({device})" for case, device in zip(shown["case"], shown["device"], strict=True)]
    bars = axes.barh(cases, shown["rate"], 0.62, color=colours)
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in shown["rate"]], padding=3)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    if shown["rate"].max() > 100 * shown["rate"].min():  # a GPU beside a CPU
        axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_xlabel(OPERATIONS)
    axes.grid(axis="x")
    return figure
