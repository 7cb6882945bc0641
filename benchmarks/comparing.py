"""Ours and the peer on the same work, in one run: seconds and memory side by side."""

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dml.plotting import INK, PALETTE

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Written to CLEAR_REFS, it makes the peak memory of a process its memory now: see proc(5)."""
LONG = 5.0
"""Seconds from which on `measured` calls a side only once."""


@dataclass(frozen=True)
class Row:
    """One case. Seconds are medians; what was not measured, or does not exist, is None."""

    case: str
    device: str
    """Where it ran, with the number of threads or processes."""
    ours: float | None
    """Seconds."""
    peer: float | None
    """Seconds of the peer for the same work."""
    peer_is: str
    """What was measured as the peer."""
    limit: float | None = None
    """Seconds that the hardware needs for what cannot be saved."""
    limit_is: str = ""
    ours_mb: float | None = None
    """Memory beyond the inputs, at its peak."""
    peer_mb: float | None = None
    goal: float | None = None
    """The ratio aimed at."""
    repetitions: int = 1
    note: str = ""


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """All rows, with `ratio` (how many times the peer's seconds ours go into) and `of_limit` (1: as fast as can be)."""
    frame = pd.DataFrame([asdict(row) for row in rows])
    frame.insert(frame.columns.get_loc("peer") + 1, "ratio", frame["peer"].astype(float) / frame["ours"].astype(float))
    of_limit = frame["limit"].astype(float) / frame["ours"].astype(float)
    frame.insert(frame.columns.get_loc("limit") + 1, "of_limit", of_limit)
    return frame


@dataclass(frozen=True)
class Measured:
    """One side of a comparison."""

    seconds: float
    """The median of the repetitions."""
    megabytes: float | None
    """Memory beyond what the process held before, at its peak."""
    repetitions: int
    result: Any
    """What the function gave."""


def measured(
    sides: Mapping[str, Callable[[], object]], repetitions: int, long: float = LONG, device: str = "cpu"
) -> dict[str, Measured]:
    """Seconds, memory and result of each side.

    A first call gives result and memory and warms up. It is also the only one of a side that takes more than `long`
    seconds; the others are then timed as in `seconds`.
    """
    found = {name: _first(function, device) for name, function in sides.items()}
    short = {name: function for name, function in sides.items() if found[name].seconds <= long}
    medians = seconds(short, repetitions, warm_up=False)
    return {
        name: Measured(medians[name], first.megabytes, repetitions, first.result) if name in short else first
        for name, first in found.items()
    }


def seconds(sides: Mapping[str, Callable[[], object]], repetitions: int, warm_up: bool = True) -> dict[str, float]:
    """The median seconds of each side over interleaved repetitions, so that what disturbs one disturbs all.

    On a GPU the functions must wait for the device themselves.
    """
    if warm_up:
        for function in sides.values():
            function()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, function in sides.items():
            gc.collect()
            begin = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in taken.items()}


def extra_megabytes(function: Callable[[], object]) -> float | None:
    """How far the memory of this process rises above what it holds now, at the peak; None where Linux does not tell."""
    if not CLEAR_REFS.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work gave back would otherwise be used again, unseen
    CLEAR_REFS.write_text(RESET_PEAK)
    before = _status_megabytes("VmRSS")
    function()
    return round(_status_megabytes("VmHWM") - before, 1)


def extra_gpu_megabytes(function: Callable[[], object]) -> float:
    """The same of the memory that PyTorch allocates on the GPU."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log(values) over log(sizes) by least squares: 2 where double the size takes four times as long.

    NaN where fewer than two positive values are known.
    """
    sizes, values = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    known = values > 0
    if np.count_nonzero(known) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes[known]), np.log(values[known]), 1)[0])


def draw(frame: pd.DataFrame) -> Figure:
    """The ratio to the peer of each case, with the goal as a mark; logarithmic."""
    shown = frame[frame["ratio"].notna()].iloc[::-1]
    figure = Figure(figsize=(8, 0.9 + 0.27 * len(shown)), layout="constrained")
    axes = figure.subplots()
    rows = range(len(shown))
    ratios, goals = shown["ratio"].to_numpy(dtype=float), shown["goal"].to_numpy(dtype=float)
    axes.barh(rows, ratios - 1, 0.62, left=1, color=[PALETTE[0] if ratio >= 1 else PALETTE[1] for ratio in ratios])
    axes.plot(goals, rows, "|", color=INK, markersize=13, markeredgewidth=1.6, label="goal")
    for row, ratio in zip(rows, ratios, strict=True):
        side, place = ("left", 4) if ratio >= 1 else ("right", -4)
        axes.annotate(times(ratio), (ratio, row), (place, 0), textcoords="offset points", ha=side, va="center",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8})  # fmt: skip
    axes.axvline(1, color=INK, linewidth=0.8)
    one_device = shown["device"].nunique() == 1
    cases = shown["case"] if one_device else shown["case"] + " (" + shown["device"] + ")"
    axes.set_yticks(rows, cases)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    _set_scale_of_ratios(axes, np.concatenate([ratios, goals]))
    if not np.isnan(goals).all():
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)
    return figure


def times(ratio: float) -> str:
    """A ratio for reading."""
    return f"{three_digits(ratio)}\N{MULTIPLICATION SIGN}"


def three_digits(value: float) -> str:
    """With three significant digits, at least: 1,234 and 31.2 and 0.960."""
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"


def _set_scale_of_ratios(axes: Any, values: np.ndarray) -> None:
    low, high = np.nanmin(values, initial=1), np.nanmax(values, initial=1)
    axes.set_xscale("log")
    decades = max(0.5, math.log10(high / low))
    room = 10 ** (0.15 * decades)  # for the numbers beyond the bars
    axes.set_xlim(low / room if low < 1 else 0.8, high * room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:,g}\N{MULTIPLICATION SIGN}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("times as fast as the peer (logarithmic)")
    axes.grid(axis="x")


def _first(function: Callable[[], object], device: str) -> Measured:
    taken = {}

    def called() -> None:
        begin = time.perf_counter()
        taken["result"] = function()
        taken["seconds"] = time.perf_counter() - begin

    megabytes = extra_megabytes(called) if device == "cpu" else extra_gpu_megabytes(called)
    return Measured(taken["seconds"], megabytes, 1, taken["result"])


def _status_megabytes(field: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024
