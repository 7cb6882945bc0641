"""How the final runs learnt: validation score against training step."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dml.plotting import CONTEXT, Panel, small_multiples, styled
from dml.results import Results

TITLE = "Validation during the final runs"
CAPTION = (
    "Validation MAP@R against training step. Line: mean over seeds and folds; band: the middle 80% of them; grey: the "
    "other methods. Runs stop early at different steps, so a line ends where fewer than half of its runs still "
    "train. Step 0 is the model before training."
)


@styled
def draw(results: Results) -> Figure:
    """One panel for each data set and method that trains."""
    curves = {dataset: _curves(results, dataset) for dataset in results.datasets}
    shown = {dataset: list(of) for dataset, of in curves.items()}
    figure, panels = small_multiples(
        results, shown, "training step", "validation MAP@R, %", "No training has finished."
    )
    for panel in panels:
        _draw_panel(panel, curves[panel.dataset])
    return figure


def _curves(results: Results, dataset: str) -> dict[str, pd.DataFrame]:
    """Mean, low and high in percent at each step (index), of each method that trains."""
    c = results.curves
    final = c[(c["dataset"] == dataset) & (c["stage"] == "final")].dropna(subset=["map_at_r"])
    curves = {}
    for method in results.trained_methods:
        own = final[final["method"] == method]
        if len(own):
            by_step = own.groupby("step")["map_at_r"]
            half_of_runs = own.groupby(["number", "fold"]).ngroups / 2
            curves[method] = 100 * by_step.agg(["mean", _low, _high])[by_step.count() >= half_of_runs]
    return curves


def _low(values: pd.Series) -> float:
    return values.quantile(0.1)


def _high(values: pd.Series) -> float:
    return values.quantile(0.9)


def _draw_panel(panel: Panel, curves: dict[str, pd.DataFrame]) -> None:
    axes = panel.axes
    for method, others in curves.items():
        if method != panel.method:
            axes.plot(others.index, others["mean"], color=CONTEXT, linewidth=0.8)
    own = curves[panel.method]
    steps = own.index.to_numpy(dtype=float)
    axes.fill_between(steps, own["_low"], own["_high"], color=panel.colour, alpha=0.18, linewidth=0)
    axes.plot(steps, own["mean"], color=panel.colour, marker="." if len(own) == 1 else "")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
