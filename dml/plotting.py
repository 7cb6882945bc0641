"""How figures look, and how they are saved: the same results give the same bytes.

A figure is a file in `dml/figures/`: the literals `TITLE` and `CAPTION`, and `draw(results)`, which gives a matplotlib
Figure and is decorated with `styled`. No pyplot: a figure is an object, nothing is global.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dml.results import Results

PALETTE = ("#0072B2", "#D55E00", "#00876C", "#C45FA0", "#332288", "#882255", "#3F9BD9")
"""Contrast of at least 3 with white, and told apart by most colour-blind readers. A study may have more methods than
colours, so a colour never names a method alone: every mark has its label beside it."""
UNTRAINED = "#777777"
CONTEXT = "#C9CDD2"
INK = "#1F2328"
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": "#8C939B",
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#E4E7EB",
    "grid.linewidth": 0.7,
    "xtick.color": "#59626C",
    "ytick.color": "#59626C",
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "dml",
    "pdf.fonttype": 42,
}
PANEL_COLUMNS = 4
PANEL_WIDTH, PANEL_HEIGHT = 2.35, 1.5
"""One of the small panels with its share of the gaps, inches; two or fewer side by side are wider."""
LEFT, RIGHT, HEAD, FOOT = 0.75, 0.15, 0.6, 0.5
"""Room for the labels of a block of panels, inches."""
HEADING = {"fontsize": 10.5, "fontweight": "bold"}


class Panel(NamedTuple):
    """One small panel: where a method of a data set is drawn."""

    dataset: str
    method: str
    axes: Axes
    colour: str


def styled(draw: Callable[[Results], Figure]) -> Callable[[Results], Figure]:
    """Draw in the house style, whatever the caller's matplotlib settings are."""

    @wraps(draw)
    def in_style(results: Results) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(results)

    return in_style


def method_colours(results: Results) -> dict[str, str]:
    """One colour for each method, the same in all figures; methods that do not train are grey."""
    trained = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(results.trained_methods)}
    return {name: trained.get(name, UNTRAINED) for name in results.methods}


def small_multiples(
    results: Results, shown: Mapping[str, list[str]], xlabel: str, ylabel: str, empty: str
) -> tuple[Figure, list[Panel]]:
    """A block of panels for each data set, one panel for each of its `shown` methods, with axes common to the block.

    Where nothing is to be shown, the figure says `empty`.
    """
    shown = {dataset: methods for dataset, methods in shown.items() if methods}
    if not shown:
        return empty_figure(empty), []
    across = min(PANEL_COLUMNS, max(map(len, shown.values())))
    heights = [HEAD + FOOT + PANEL_HEIGHT * -(-len(methods) // across) for methods in shown.values()]
    width = LEFT + RIGHT + across * max(PANEL_WIDTH, min(4.2, 6.4 / across))
    height = sum(heights)
    figure = Figure(figsize=(width, height))
    panels, top = [], height
    for (dataset, methods), own_height in zip(shown.items(), heights, strict=True):
        bottom = top - own_height
        figure.text(0.1 / width, (top - 0.1) / height, results.datasets[dataset], va="top", **HEADING)
        sides = {"left": LEFT / width, "right": 1 - RIGHT / width}
        place = sides | {"bottom": (bottom + FOOT) / height, "top": (top - HEAD) / height}
        panels += _panels(results, figure, dataset, methods, across, place)
        middle = (bottom + FOOT + top - HEAD) / 2 / height
        figure.text(0.1 / width, middle, ylabel, rotation=90, va="center", fontsize=8.5)
        figure.text((sides["left"] + sides["right"]) / 2, (bottom + 0.1) / height, xlabel, ha="center", fontsize=8.5)
        top = bottom
    return figure, panels


def empty_figure(message: str) -> Figure:
    """A figure that only says why there is nothing in it."""
    figure = Figure(figsize=(4.2, 0.8))
    figure.text(0.5, 0.5, message, ha="center", va="center")
    return figure


def save(figure: Figure, stem: Path) -> None:
    """Write <stem>.svg and <stem>.pdf, without dates and with the same ids whenever they are drawn."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(f"{stem}.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(f"{stem}.pdf", metadata={"CreationDate": None})


def _panels(
    results: Results, figure: Figure, dataset: str, methods: list[str], across: int, place: dict[str, float]
) -> list[Panel]:
    down = -(-len(methods) // across)
    axes = figure.add_gridspec(down, across, wspace=0.14, hspace=0.42, **place).subplots(
        sharex=True, sharey=True, squeeze=False
    )
    colours = method_colours(results)
    panels = []
    for position, own in enumerate(axes.flat):
        if position >= len(methods):
            own.set_visible(False)
            axes.flat[position - across].xaxis.set_tick_params(labelbottom=True)
            continue
        method = methods[position]
        own.set_title(results.methods[method], color=colours[method], fontweight="bold", fontsize=8.5, pad=4)
        own.grid(axis="y")
        panels.append(Panel(dataset, method, own, colours[method]))
    return panels
