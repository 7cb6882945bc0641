"""What an addition gains: the difference of each pair, with its interval."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dml.embedding_space import TITLES
from dml.plotting import HEADING, INK, empty_figure, method_colours, styled
from dml.results import Results, metric_title
from dml.tables import pairs

NEEDS = "pairs"
TITLE = "Gain of each addition"
CAPTION = (
    "A method minus the one that it adds something to, in pairs over seeds: mean and its 95% Student-t interval, on "
    "the test classes, separated. An interval that holds 0 leaves open whether the addition helps. Hollow: after "
    "correction for the number of pairs (Holm), not told from 0; without an interval: not tested, there "
    "is a single seed. Where the geometry of embeddings was measured, the last column has the change of rho@2 on the "
    "training classes: left of 0, the spectrum is flatter than without the addition."
)


@styled
def draw(results: Results) -> Figure:
    """One row of panels for each data set, in it one panel for each measure; in each a row for each pair."""
    table = pairs.build(results).dropna(subset=["difference"])
    if table.empty:
        return empty_figure("No pair has a result.")
    measures = list(dict.fromkeys(table["metric"]))
    datasets = list(dict.fromkeys(table["dataset"]))
    names = list(dict.fromkeys(zip(table["method"], table["base"], strict=True)))
    size = (2.0 + 2.8 * len(measures), (1.0 + 0.34 * len(names)) * len(datasets))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(datasets), len(measures), squeeze=False, sharey=True)
    for row, dataset in zip(axes, datasets, strict=True):
        row[0].set_title(results.datasets[dataset], pad=16, **HEADING)
        for place, measure in zip(row, measures, strict=True):
            own = table[(table["dataset"] == dataset) & (table["metric"] == measure)]
            _draw_measure(place, results, own, names, measure)
    return figure


def _draw_measure(axes: Axes, results: Results, own: pd.DataFrame, names: list[tuple[str, str]], measure: str) -> None:
    colours = method_colours(results)
    scale, unit = (1, "nats") if measure in TITLES else (100, "points")
    for _, pair in own.iterrows():
        row, tied = names.index((pair["method"], pair["base"])), not pd.isna(pair["tied"]) and pair["tied"]
        colour = colours.get(pair["method"], INK)
        axes.errorbar(
            scale * pair["difference"], row, xerr=scale * (0 if pd.isna(pair["half_width"]) else pair["half_width"]),
            fmt="o", color=colour, markerfacecolor="white" if tied else colour, markersize=5, elinewidth=1.3,
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), [f"{results.titles[m]} beside\n{results.titles[base]}" for m, base in names])
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"{TITLES.get(measure) or metric_title(measure)}, {unit}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
