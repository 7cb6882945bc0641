"""Does the geometry of training embeddings go with the accuracy on test classes?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dml.embedding_space import TITLES
from dml.plotting import HEADING, INK, UNTRAINED, empty_figure, method_colours, styled
from dml.results import Results
from dml.tables import embedding_space
from dml.tables.embedding_space import SEPARATED, correlation

NEEDS = "embedding_space"
TITLE = "Geometry of training embeddings and accuracy"
CAPTION = (
    "Each point is a method: a measure of its embeddings of training classes, and its P@1 on the test classes, "
    "separated, means over seeds. r: Pearson's correlation over the n methods that train, with its 95% interval "
    "(Fisher's z); the trunk that does not train is grey and not counted. Published: r of Roth et al. (ICML 2020) for "
    "the same measure, over 18 methods on CUB200-2011 and CARS196 and 16 on SOP; where the data set is none of theirs, "
    "that of CUB200-2011, for comparison. rho: rho@2, the spectral decay without the largest singular value, the one "
    "that their figures show. The table has the intervals of the points. Axes do not begin at 0."
)
MEASURES = ("pi_intra", "pi_inter", "pi_ratio", "rho_2")
WIDTH, HEIGHT = 4.9, 3.2
"""Of a panel with its share of the gaps, inches."""
LEFT, RIGHT, HEAD, FOOT = 0.6, 0.15, 0.5, 0.45
"""Room around the axes of a panel, inches."""
LABEL_SIZE = 6.5
OFFSETS = ((5, 0, "left"), (-5, 0, "right"), (0, 8, "center"), (0, -8, "center"), (5, 7, "left"), (5, -7, "left"),
           (-5, 7, "right"), (-5, -7, "right"), (0, 16, "center"), (0, -16, "center"), (5, 14, "left"),
           (5, -14, "left"), (-5, 14, "right"), (-5, -14, "right"))  # fmt: skip
"""Where the name of a point may stand: points right of it and above it, and which side is fixed."""


@styled
def draw(results: Results) -> Figure:
    """Two by two panels for each data set, one for each measure."""
    table = embedding_space.build(results)
    shown = [name for name in results.datasets if len(_points(table, name, MEASURES[0]))]
    if not shown:
        return empty_figure("No method has a result.")
    figure = Figure(figsize=(2 * WIDTH, len(shown) * (2 * HEIGHT + 0.3)))
    width, height = figure.get_size_inches()
    for block, dataset in enumerate(shown):
        top = height - block * (2 * HEIGHT + 0.3)
        figure.text(0.1 / width, (top - 0.1) / height, results.datasets[dataset], va="top", **HEADING)
        for position, measure in enumerate(MEASURES):
            left, bottom = position % 2 * WIDTH + LEFT, top - 0.3 - (position // 2 + 1) * HEIGHT + FOOT
            size = WIDTH - LEFT - RIGHT, HEIGHT - HEAD - FOOT
            axes = figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
            _draw_measure(axes, results, table, dataset, measure, 72 * np.array(size))
    return figure


def _points(table: pd.DataFrame, dataset: str, measure: str) -> pd.DataFrame:
    """The means of a measure (x) and of P@1 (y, percent) of the methods that have both."""
    own = table[(table["dataset"] == dataset) & (table["method"] != "")]
    means = own.dropna(subset=["mean"]).pivot(index="method", columns="measure", values="mean")
    if not {measure, SEPARATED[1]} <= set(means):
        return pd.DataFrame(columns=["x", "y"])
    order = [method for method in dict.fromkeys(own["method"]) if method in means.index]
    points = means.loc[order, [measure, SEPARATED[1]]].set_axis(["x", "y"], axis=1).dropna()
    return points.assign(y=100 * points["y"])


def _draw_measure(
    axes: Axes, results: Results, table: pd.DataFrame, dataset: str, measure: str, size: np.ndarray
) -> None:
    points, colours = _points(table, dataset, measure), method_colours(results)
    for method, point in points.iterrows():
        axes.plot(point["x"], point["y"], "o", color=colours[method], markersize=5, markeredgewidth=0)
    axes.set_title(_correlation(table, dataset, measure), fontsize=8, pad=6)
    axes.set_xlabel(f"{TITLES[measure]} of training classes")
    axes.set_ylabel("P@1 of test classes, %")
    axes.margins(0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid()
    axes.autoscale_view()
    _label_points(axes, points, [results.methods[m] for m in points.index], [colours[m] for m in points.index], size)


def _correlation(table: pd.DataFrame, dataset: str, measure: str) -> str:
    """What stands above a panel: r with its interval, and the published one."""
    own = table[(table["dataset"] == dataset) & (table["method"] == "") & (table["measure"] == measure)].squeeze()
    ours = f"r = {correlation(own['r'])} ({correlation(own['low'], own['high'])}), n = {own['n']}"
    if pd.isna(own["r"]):
        ours = f"no r: {own['n']} methods" if own["n"] < 3 else "no r: the measure does not vary"
    return f"{ours}\npublished, {own['published_of']}: r = {correlation(own['published_r'])}"


def _label_points(
    axes: Axes, points: pd.DataFrame, names: Sequence[str], colours: Sequence[str], size: np.ndarray
) -> None:
    """Name each point where its name meets the fewest other names and points; `size` of the axes in points."""
    places = axes.transLimits.transform(points.to_numpy(dtype=float)) * size
    taken = [np.array([x - 3, y - 3, x + 3, y + 3]) for x, y in places]
    for place, name, colour, xy in zip(places, names, colours, points.to_numpy(dtype=float), strict=True):
        boxes = [_box(place, name, *offset) for offset in OFFSETS]
        best = min(range(len(boxes)), key=lambda i: (_overlap(boxes[i], taken) + _outside(boxes[i], size), i))
        taken.append(boxes[best])
        right, up, side = OFFSETS[best]
        axes.annotate(
            name, xy, (right, up), textcoords="offset points", ha=side, va="center", fontsize=LABEL_SIZE,
            color=INK if colour == UNTRAINED else colour,
        )  # fmt: skip


def _box(place: np.ndarray, name: str, right: float, up: float, side: str) -> np.ndarray:
    """Left, bottom, right and top of a name, in points: a letter is about 0.62 of its size wide."""
    width = 0.62 * LABEL_SIZE * len(name)
    left = place[0] + right - {"left": 0, "center": width / 2, "right": width}[side]
    middle = place[1] + up
    return np.array([left, middle - 0.6 * LABEL_SIZE, left + width, middle + 0.6 * LABEL_SIZE])


def _overlap(box: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """The area that a box shares with others."""
    sides = [np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]) for other in others]
    return float(sum(np.prod(side.clip(min=0)) for side in sides))


def _outside(box: np.ndarray, size: np.ndarray) -> float:
    """How much of a box is not above the axes: it would be cut off, or stand on the numbers of the axis."""
    whole = np.prod(box[2:] - box[:2])
    return float(whole - np.prod((np.minimum(box[2:], size) - np.maximum(box[:2], 0)).clip(min=0)))
