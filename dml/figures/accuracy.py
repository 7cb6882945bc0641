"""All methods at a glance: a bar for the mean, its interval, and every seed."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dml.plotting import HEADING, INK, UNTRAINED, empty_figure, method_colours, styled
from dml.results import EMBEDDINGS, Results, estimate, incomplete_methods, per_seed, ranked_methods

TITLE = "MAP@R on the test classes"
CAPTION = (
    "Bars: mean over seeds, with its 95% Student-t interval; dots: the seeds. A bar without an interval is a single "
    "seed, or loaded weights that do not train: one evaluation. Darker bar: separated, the mean of the folds' models. "
    "Lighter bar: concatenated, their embeddings joined. Grey: a trunk that does not train. Sorted by separated MAP@R; "
    "methods with a failed seed (2 of 3 seeds, say) stand after those with all seeds, methods without a result last."
)
METRIC = "map_at_r"
TINTS = {"separated": 0.5, "concatenated": 0.16}
"""Share of the method's colour in the fill of its bar; the rest is white."""
OFFSETS = {"separated": -0.2, "concatenated": 0.2}
HIGHEST_ROW, LOWEST_ROW = 0.48, 0.18
"""Of a method, inches."""
ROWS = 9.0
"""Height of all rows up to which they are lowered, so that they go on a page; inches."""
TWO_LINES = 0.28
"""A lower row has no room for a name in two lines, inches."""
THICKNESS = 0.37
"""Of a bar, in rows."""
ASIDE, CAP = 0.08, 0.06
"""A whisker stands so far above the middle of its bar and the seeds below it; half length of its ends; in rows."""
FAINT = "#59626C"


@styled
def draw(results: Results) -> Figure:
    """One panel for each data set, one row for each method; two panels side by side."""
    shown = [dataset for dataset in results.datasets if len(per_seed(results, dataset, "separated", METRIC))]
    if not shown:
        return empty_figure("No method has a result.")
    across = min(2, len(shown))
    down = -(-len(shown) // across)
    height = 0.75 + _row(results) * len(results.methods)
    figure = Figure(figsize=(7.2 if across == 1 else 10.4, height * down + 0.4), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flat
    for place, dataset in zip(axes, shown, strict=False):
        _draw_dataset(place, results, dataset)
    for place in axes[len(shown) :]:
        place.set_visible(False)
    figure.legend(handles=_legend(), loc="outside upper right", ncols=3)
    return figure


def _row(results: Results) -> float:
    return max(LOWEST_ROW, min(HIGHEST_ROW, ROWS / len(results.methods)))


def _draw_dataset(axes: Axes, results: Results, dataset: str) -> None:
    ranking, colours = ranked_methods(results, dataset), method_colours(results)
    for embedding in EMBEDDINGS:
        values = per_seed(results, dataset, embedding, METRIC)
        for position, method in enumerate(ranking):
            if method in values:
                _draw_bar(axes, results, method, values[method].dropna(), position, embedding, colours[method])
            elif embedding == "separated":
                axes.annotate(
                    "no result", (0, position), (4, 0), textcoords="offset points", va="center", color=FAINT,
                    fontsize=7.5, fontstyle="italic",
                )  # fmt: skip
    incomplete = incomplete_methods(results, dataset)
    between = "\n" if _row(results) >= TWO_LINES else ", "
    notes = {method: f"{between}{count} of {results.seeds} seeds" for method, count in incomplete.items()}
    axes.set_title(results.datasets[dataset], **HEADING)
    axes.set_yticks(range(len(ranking)), [results.methods[method] + notes.get(method, "") for method in ranking])
    axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=INK)
    axes.set_ylim(len(ranking) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("MAP@R, %")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x")


def _draw_bar(
    axes: Axes, results: Results, method: str, values: pd.Series, position: int, embedding: str, colour: str
) -> None:
    mean, half_width, n = estimate(results, method, values)
    row = position + OFFSETS[embedding]
    axes.barh(row, 100 * mean, THICKNESS, color=_tint(colour, TINTS[embedding]), edgecolor=colour, linewidth=0.6)
    if not math.isnan(half_width):
        ends = [100 * (mean - half_width), 100 * (mean + half_width)]
        axes.plot(ends, [row - ASIDE] * 2, color=colour, linewidth=1.2, solid_capstyle="butt")
        axes.vlines(ends, row - ASIDE - CAP, row - ASIDE + CAP, color=colour, linewidth=1.2)
    if n > 1:
        dots = {"markersize": 3.8, "color": colour, "markeredgecolor": "white", "markeredgewidth": 0.4}
        axes.plot(100 * values, [row + ASIDE] * n, "o", **dots)


def _tint(colour: str, share: float) -> tuple[float, ...]:
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def _legend() -> list[Patch | Line2D]:
    bars = [
        Patch(facecolor=_tint(UNTRAINED, TINTS[embedding]), edgecolor=UNTRAINED, linewidth=0.6, label=embedding)
        for embedding in EMBEDDINGS
    ]
    seed = {"color": UNTRAINED, "markeredgecolor": "white", "markeredgewidth": 0.5, "linestyle": "none"}
    return [*bars, Line2D([], [], marker="o", markersize=4, label="one seed", **seed)]
