"""Ours and the peer on the same work, in one run: seconds and memory side by side."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Written to CLEAR_REFS, it makes the peak memory of a process its memory now: see proc(5)."""


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


def draw(frame: pd.DataFrame) -> Figure:
    """The ratio to the peer of each case, with the goal as a mark; logarithmic."""
    shown = frame[frame["ratio"].notna()].iloc[::-1]
    figure = Figure(figsize=(8, 0.6 + 0.34 * len(shown)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([f"{case} ({device})" for case, device in zip(shown["case"], shown["device"], strict=True)],
                     shown["ratio"], color="#4477aa")  # fmt: skip
    axes.bar_label(bars, [f"{ratio:.3g}x" for ratio in shown["ratio"]], padding=3)
    goals = shown["goal"].astype(float)
    axes.plot(goals, range(len(shown)), "|", color="#aa3377", markersize=14, markeredgewidth=2, label="goal")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("times as fast as the peer")
    axes.margins(x=0.15)
    if goals.notna().any():
        axes.legend(loc="lower right")
    return figure


def _status_megabytes(field: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024
