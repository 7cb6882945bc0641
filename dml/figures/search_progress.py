"""Did the search have enough trials? Best validation score so far, trial by trial."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dml.plotting import CONTEXT, INK, Panel, small_multiples, styled
from dml.results import Results
from dml.tables.search_budget import trial_scores

NEEDS = "searches"
TITLE = "Progress of the hyperparameter search"
CAPTION = (
    "Validation MAP@R (mean over the folds): dots are trials, the coloured line is the best so far, grey lines are the "
    "other methods. × on the axis: a failed trial. A line that still rises at "
    "the end asks for more trials."
)


@styled
def draw(results: Results) -> Figure:
    """One panel for each data set and method that trains."""
    scores = {dataset: _scores(results, dataset) for dataset in results.datasets}
    shown = {dataset: list(methods) for dataset, methods in scores.items()}
    figure, panels = small_multiples(results, shown, "trial", "validation MAP@R, %", "No training has finished.")
    for panel in panels:
        _draw_panel(panel, scores[panel.dataset])
    return figure


def _scores(results: Results, dataset: str) -> dict[str, pd.Series]:
    """The score of every trial (index) in percent, NaN where a fold failed, of each method that trains."""
    scores = {method: 100 * trial_scores(results, dataset, method) for method in results.trained_methods}
    return {method: own for method, own in scores.items() if len(own)}


def _draw_panel(panel: Panel, scores: dict[str, pd.Series]) -> None:
    axes = panel.axes
    for method, others in scores.items():
        if method != panel.method:
            axes.plot(*_best_so_far(others), color=CONTEXT, linewidth=0.8, drawstyle="steps-post")
    own = scores[panel.method]
    axes.plot(own.index, own, "o", markersize=2.8, color=panel.colour, alpha=0.45, markeredgewidth=0)
    axes.plot(*_best_so_far(own), color=panel.colour, drawstyle="steps-post")
    failed = own.index[own.isna()]
    bottom = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.plot(failed, [0.0] * len(failed), "x", color=panel.colour, markersize=4.5, **bottom)
    best = "all failed" if own.isna().all() else f"best {own.max():.2f}"
    ground = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}
    axes.text(0.98, 0.07, best, transform=axes.transAxes, ha="right", fontsize=7.5, color=INK, bbox=ground)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _best_so_far(scores: pd.Series) -> tuple[pd.Index, pd.Series]:
    """Trials and scores where a step begins, and the last trial: a figure has many such lines."""
    best = scores.cummax().ffill()
    kept = best[(best != best.shift()) | (best.index == best.index[-1])].dropna()
    return kept.index, kept
