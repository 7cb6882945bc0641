"""Does the geometry of training embeddings go with the accuracy on test classes?"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dml.embedding_space import TITLES
from dml.plotting import HEADING, INK, UNTRAINED, empty_figure, method_colours, styled
from dml.results import Results
from dml.tables import embedding_space
from dml.tables.embedding_space import SEPARATED, correlation, shown

NEEDS = "embedding_space"
TITLE = "Geometry of training embeddings and accuracy"
CAPTION = (
    "Each point is a method: a measure of its embeddings of training classes, and its P@1 on the test classes, "
    "separated, means over seeds. Of many methods the points have numbers, from the highest P@1 down, which the list "
    "below explains. r: Pearson's correlation over the n methods that train, with its 95% interval (Fisher's z). The "
    "trunk that does not train is grey and not counted; an arrow at the edge says where it lies if that is outside. "
    "Published: r of the study's paper for the same measure and data set, and its number of methods; the table says "
    "which. rho: rho@2, the spectral decay without the largest singular value. The table has the intervals of the "
    "points. Axes do not begin at 0."
)
MEASURES = ("pi_intra", "pi_inter", "pi_ratio", "rho_2")
WIDTH, HEIGHT = 4.5, 3.2
"""Of a panel with its share of the gaps, inches."""
LEFT, RIGHT, HEAD, FOOT = 0.6, 0.15, 0.5, 0.45
"""Room around the axes of a panel, inches."""
HEADING_HEIGHT = 0.3
"""Of a data set's name, inches."""
NAMED = 12
"""With more methods that train, points have numbers."""
LABEL_SIZE = 7.5
LETTER = 0.62
"""Width of a letter in sizes of its type, about."""
LINE = 0.16
"""Of the list of numbers, inches."""
DIRECTIONS = ((1, 0, "left"), (-1, 0, "right"), (0, 1, "center"), (0, -1, "center"), (0.8, 0.8, "left"),
              (0.8, -0.8, "left"), (-0.8, 0.8, "right"), (-0.8, -0.8, "right"))  # fmt: skip
OFFSETS = [(far * right, far * up, side) for far in (6, 9, 15, 22, 30) for right, up, side in DIRECTIONS]
"""Where the label of a point may stand: points right of it and above it, and which side is fixed."""
BESIDE = 12
"""A line leads to a label that stands further from its point, in points."""
MARGIN = 0.14
"""Of the axes around the outermost points, a share."""
ARROW = 16
"""Length of an arrow at the edge, points."""
OFFSETS_OF_ARROW = [(side * 4, up, name) for up in (0, 12, 24) for side, name in ((1, "left"), (-1, "right"))]
"""Where the text of an arrow may stand, likewise."""


@styled
def draw(results: Results) -> Figure:
    """Two by two panels for each data set, one for each measure."""
    table = embedding_space.build(results)
    numbers = {
        dataset: _numbers(results, points)
        for dataset in results.datasets
        if len(points := _points(table, dataset, MEASURES[0]))
    }
    if not numbers:
        return empty_figure("No method has a result.")
    heights = [HEADING_HEIGHT + 2 * HEIGHT + _height_of_list(results, of_points) for of_points in numbers.values()]
    figure = Figure(figsize=(2 * WIDTH, sum(heights)))
    width, height = figure.get_size_inches()
    top = height
    for (dataset, of_points), own_height in zip(numbers.items(), heights, strict=True):
        figure.text(0.1 / width, (top - 0.1) / height, results.datasets[dataset], va="top", **HEADING)
        for position, measure in enumerate(MEASURES):
            left = position % 2 * WIDTH + LEFT
            bottom = top - HEADING_HEIGHT - (position // 2 + 1) * HEIGHT + FOOT
            size = WIDTH - LEFT - RIGHT, HEIGHT - HEAD - FOOT
            axes = figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
            _draw_measure(axes, results, table, dataset, measure, of_points, 72 * np.array(size))
        top -= own_height
        _list_numbers(figure, results, of_points, top)
    return figure


def _points(table: pd.DataFrame, dataset: str, measure: str) -> pd.DataFrame:
    """The means of a measure (x) and of P@1 (y, percent) of the methods that have both, highest P@1 first."""
    own = table[(table["dataset"] == dataset) & (table["method"] != "")]
    means = own.dropna(subset=["mean"]).pivot(index="method", columns="measure", values="mean")
    if not {measure, SEPARATED[1]} <= set(means):
        return pd.DataFrame(columns=["x", "y"])
    points = means[[measure, SEPARATED[1]]].set_axis(["x", "y"], axis=1).dropna()
    return points.assign(y=100 * points["y"]).sort_values("y", ascending=False, kind="stable")


def _numbers(results: Results, points: pd.DataFrame) -> dict[str, str]:
    """The numbers of the methods that train, where they are too many for their names."""
    trained = [method for method in points.index if method in results.trained_methods]
    return {method: str(i) for i, method in enumerate(trained, 1)} if len(trained) > NAMED else {}


def _columns_of_list(results: Results, numbers: Mapping[str, str]) -> int:
    longest = max(len(f"{number}  {results.methods[method]}") for method, number in numbers.items())
    return max(1, int((2 * WIDTH - LEFT) / (LETTER * LABEL_SIZE * longest / 72)))


def _height_of_list(results: Results, numbers: Mapping[str, str]) -> float:
    return 0.1 + LINE * -(-len(numbers) // _columns_of_list(results, numbers)) if numbers else 0.0


def _list_numbers(figure: Figure, results: Results, numbers: Mapping[str, str], bottom: float) -> None:
    """Which method a number is, in columns above `bottom` (inches)."""
    if not numbers:
        return
    width, height = figure.get_size_inches()
    colours, across = method_colours(results), _columns_of_list(results, numbers)
    down = -(-len(numbers) // across)
    for position, (method, number) in enumerate(numbers.items()):
        x = LEFT + position // down * (width - LEFT) / across
        y = bottom + (down - position % down) * LINE
        about = {"va": "top", "fontsize": LABEL_SIZE, "color": colours[method]}
        figure.text((x - 0.06) / width, y / height, number, ha="right", fontweight="bold", **about)
        figure.text(x / width, y / height, results.methods[method], **about)


def _draw_measure(
    axes: Axes,
    results: Results,
    table: pd.DataFrame,
    dataset: str,
    measure: str,
    numbers: Mapping[str, str],
    size: np.ndarray,
) -> None:
    """One panel, `size` points large. Its limits are those of the methods that train, if any does."""
    points, colours = _points(table, dataset, measure), method_colours(results)
    trained = points[points.index.isin(list(results.trained_methods))]
    framed = points if trained.empty else trained
    axes.margins(MARGIN)
    axes.plot(framed["x"], framed["y"], linestyle="none")
    axes.autoscale_view()
    axes.autoscale(False)
    places = pd.DataFrame(axes.transLimits.transform(points.to_numpy(dtype=float)) * size, index=points.index)
    inside = ((places >= 0) & (places <= size)).all(axis=1)
    for method, point in points[inside].iterrows():
        axes.plot(point["x"], point["y"], "o", color=colours[method], markersize=5, markeredgewidth=0)
    taken = [np.array([x - 3, y - 3, x + 3, y + 3]) for x, y in places[inside].to_numpy()]
    for method, point in points[~inside].iterrows():
        text = f"{results.methods[method]}: {shown(point['x'])}, {point['y']:.1f}%"
        taken.append(_point_outside(axes, places.loc[method].to_numpy(), text, taken, size))
    labels = [numbers.get(method, results.methods[method]) for method in points.index[inside]]
    _label_points(axes, places[inside].to_numpy(), labels, [colours[m] for m in points.index[inside]], taken, size)
    axes.set_title(_correlation(table, dataset, measure), fontsize=8, pad=6)
    axes.set_xlabel(f"{TITLES[measure]} of training classes")
    axes.set_ylabel("P@1 of test classes, %")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid()


def _correlation(table: pd.DataFrame, dataset: str, measure: str) -> str:
    """What stands above a panel: r with its interval, and what the paper has."""
    of_panel = table[(table["dataset"] == dataset) & (table["method"] == "") & (table["measure"] == measure)]
    published = of_panel[of_panel["published_r"].notna()]
    own = of_panel.drop(published.index).squeeze()
    ours = f"r = {correlation(own['r'])} ({correlation(own['low'], own['high'])}), n = {own['n']}"
    if pd.isna(own["r"]):
        ours = f"no r: {own['n']} methods" if own["n"] < 3 else "no r: the measure does not vary"
    theirs = [f"r = {correlation(row['published_r'])}, n = {row['n']}" for _, row in published.iterrows()]
    return f"{ours}\npublished: {'; '.join(theirs)}" if theirs else ours


def _point_outside(
    axes: Axes, place: np.ndarray, text: str, taken: Sequence[np.ndarray], size: np.ndarray
) -> np.ndarray:
    """Draw an arrow at the edge towards a place (points) outside the axes; gives the box of the text beside it."""
    edge = np.clip(place, 0, size)
    direction = (place - edge) / np.linalg.norm(place - edge)
    tail = edge - ARROW * direction
    axes.annotate(
        "", edge, tail, xycoords="axes points", textcoords="axes points", annotation_clip=False,
        arrowprops={"arrowstyle": "-|>", "color": UNTRAINED, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    box, (right, up, side) = _freest(tail, text, OFFSETS_OF_ARROW, taken, size)
    axes.annotate(
        text, tail, (right, up), xycoords="axes points", textcoords="offset points", ha=side, va="center",
        fontsize=LABEL_SIZE, color=INK,
    )  # fmt: skip
    return box


def _label_points(
    axes: Axes,
    places: np.ndarray,
    labels: Sequence[str],
    colours: Sequence[str],
    taken: Sequence[np.ndarray],
    size: np.ndarray,
) -> None:
    """Label each place where its label meets the fewest other labels and boxes that are `taken`; all in points."""
    taken = list(taken)
    for place, label, colour in zip(places, labels, colours, strict=True):
        box, (right, up, side) = _freest(place, label, OFFSETS, taken, size)
        taken.append(box)
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            label, place, (right, up), xycoords="axes points", textcoords="offset points", ha=side, va="center",
            fontsize=LABEL_SIZE, color=INK if colour == UNTRAINED else colour,
            arrowprops=line if math.hypot(right, up) > BESIDE else None,
        )  # fmt: skip


def _freest(
    place: np.ndarray,
    text: str,
    offsets: Sequence[tuple[float, float, str]],
    taken: Sequence[np.ndarray],
    size: np.ndarray,
) -> tuple[np.ndarray, tuple[float, float, str]]:
    """The box that a text beside a place covers, and its offset: of those with the least in their way the first."""
    boxes = [_box(place, text, *offset) for offset in offsets]
    best = min(range(len(boxes)), key=lambda i: (_overlap(boxes[i], taken) + _outside(boxes[i], size), i))
    return boxes[best], offsets[best]


def _box(place: np.ndarray, name: str, right: float, up: float, side: str) -> np.ndarray:
    """Left, bottom, right and top of a name, in points: a letter is about LETTER of its size wide."""
    width = LETTER * LABEL_SIZE * len(name)
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
