"""Where did the search look? Every trial: the value of a hyperparameter, and the score."""

from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dml.plotting import CONTEXT, HEADING, INK, empty_figure, method_colours, styled
from dml.results import Results
from dml.tabulation import number

NEEDS = "searches"
TITLE = "Trials of the hyperparameter search"
CAPTION = (
    "Validation MAP@R of every trial against the value of one hyperparameter; the others vary too. Dots: mean over the "
    "folds; lines: from the lowest to the highest. Ring: the trial that was chosen. × on the axis: a failed trial. "
    "Grey lines: the ends of the range; a best value there asks for a wider one, and its panel says so. Panels of one "
    "data set have a common vertical axis."
)
COLUMNS = 4
WIDTH, HEIGHT = 2.3, 1.85
"""Of a panel with the labels between it and the next, inches."""
LEFT, HEAD, BETWEEN = 0.75, 0.65, 0.6
"""Room for the labels of a block of panels, and between two rows of them, inches."""


class Searched(NamedTuple):
    """What one panel shows: a hyperparameter of a method on a data set."""

    dataset: str
    method: str
    name: str
    range: dict[str, Any]
    edge: str


@styled
def draw(results: Results) -> Figure:
    """One panel for each data set, method and hyperparameter that was searched; a method's panels follow each other."""
    shown = _shown(results)
    if not shown:
        return empty_figure("No hyperparameter was searched.")
    blocks = [list(of_dataset) for _, of_dataset in groupby(shown, key=lambda panel: panel.dataset)]
    across = min(COLUMNS, max(map(len, blocks)))
    heights = [HEAD + HEIGHT * -(-len(block) // across) for block in blocks]
    width, height = LEFT + across * WIDTH, sum(heights)
    figure, top = Figure(figsize=(width, height)), height
    for block, own_height in zip(blocks, heights, strict=True):
        title = results.datasets[block[0].dataset]
        figure.text(0.1 / width, (top - 0.1) / height, title, va="top", **HEADING)
        place = {"left": LEFT / width, "right": 1 - 0.15 / width}
        place |= {"bottom": (top - own_height + BETWEEN) / height, "top": (top - HEAD) / height}
        _draw_block(figure, results, block, across, place)
        top -= own_height
    return figure


def _draw_block(figure: Figure, results: Results, block: list[Searched], across: int, place: dict[str, float]) -> None:
    """The panels of a data set, which have a common vertical axis."""
    down = -(-len(block) // across)
    space = {"wspace": 0.14, "hspace": BETWEEN / (HEIGHT - BETWEEN)}
    axes = figure.add_gridspec(down, across, **place, **space).subplots(sharey=True, squeeze=False).flat
    for own, panel in zip(axes, block, strict=False):
        _draw_panel(own, results, panel)
    for own in axes[len(block) :]:
        own.set_visible(False)
    middle = (place["bottom"] + place["top"]) / 2
    figure.text(0.1 / figure.get_figwidth(), middle, "validation MAP@R, %", rotation=90, va="center", fontsize=8.5)


def _shown(results: Results) -> list[Searched]:
    best = results.best[results.best["failure"] == ""]
    return [
        Searched(dataset, method, name, searched, found["edges"].get(name, ""))
        for dataset in results.datasets
        for method in results.trained_methods
        for _, found in best[(best["dataset"] == dataset) & (best["method"] == method)].iterrows()
        for name, searched in sorted(found["ranges"].items())
    ]


def _draw_panel(axes: Axes, results: Results, panel: Searched) -> None:
    colour = method_colours(results)[panel.method]
    trials = _trials(results, panel)
    chosen = results.best[(results.best["dataset"] == panel.dataset) & (results.best["method"] == panel.method)]
    axes.vlines(trials["value"], trials["low"], trials["high"], color=colour, linewidth=0.6, alpha=0.4)
    axes.plot(trials["value"], trials["mean"], "o", color=colour, markersize=2.8, alpha=0.6, markeredgewidth=0)
    best = trials[trials.index == chosen["trial"].iloc[0]]
    axes.plot(best["value"], best["mean"], "o", color=INK, markersize=7, markerfacecolor="none", markeredgewidth=1)
    failed = trials[trials["mean"].isna()]
    bottom = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.plot(failed["value"], [0.0] * len(failed), "x", color=colour, markersize=4.5, **bottom)
    _set_axis(axes, panel)
    axes.set_title(results.methods[panel.method], color=colour, fontweight="bold", fontsize=8.5, pad=4)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y")


def _trials(results: Results, panel: Searched) -> pd.DataFrame:
    """Value, and mean, low and high over the folds in percent, of each trial (index); NaN where a fold failed."""
    t = results.trials
    own = t[(t["dataset"] == panel.dataset) & (t["method"] == panel.method)]
    by_trial = own.groupby("trial")
    scores = 100 * by_trial["score"].agg(["mean", "min", "max"]).set_axis(["mean", "low", "high"], axis=1)
    scores[by_trial["failure"].agg(lambda failures: (failures != "").any())] = float("nan")
    values = by_trial["parameters"].first().map(lambda parameters: parameters[panel.name])
    choices = panel.range.get("choices")
    return scores.assign(value=values if choices is None else values.map(choices.index)).astype(float)


def _set_axis(axes: Axes, panel: Searched) -> None:
    choices = panel.range.get("choices")
    if choices is not None:
        axes.set_xticks(range(len(choices)), [str(choice) for choice in choices])
    else:
        if panel.range.get("log"):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=4))
            # the axis's own labels are formulas, which figures of the house do not set
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=bool(panel.range.get("integer"))))
        for end in (panel.range["low"], panel.range["high"]):
            axes.axvline(end, color=CONTEXT, linewidth=1, zorder=0)
    at_edge = f" (best at the {panel.edge} edge)" if panel.edge else ""
    axes.set_xlabel(panel.name + at_edge, fontsize=8, fontweight="bold" if panel.edge else "normal")
