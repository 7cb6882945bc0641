"""What a report shows of the search: every trial, and what fewer of them would have found."""

import dataclasses
import math

import pytest
from example_results import NAMES, write

from dml import plugins
from dml.results import Results
from dml.tables import search_budget


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    write(folder, methods=NAMES[:3], datasets=1)
    return Results.load(folder)


def with_scores(results, method, scores, sem):
    """The results with other scores of a method's trials, all folds alike; None failed."""
    trials, best = results.trials.copy(), results.best.copy()
    own = trials["method"] == method
    trials.loc[own, "score"] = [scores[t] if scores[t] is not None else math.nan for t in trials.loc[own, "trial"]]
    trials.loc[own, "failure"] = ["" if scores[t] is not None else "diverged" for t in trials.loc[own, "trial"]]
    best.loc[best["method"] == method, "sem"] = sem
    return dataclasses.replace(results, trials=trials, best=best)


def test_a_budget_finds_the_best_of_its_first_trials(results):
    changed = with_scores(results, "contrastive", [0.3, None, 0.2, 0.4, 0.1, 0.5], sem=0.11)
    table = search_budget.build(changed)
    own = table[table["method"] == "contrastive"]
    assert list(zip(own["trials"], own["score"], own["within"], strict=True)) == [(5, 0.4, 4), (6, 0.5, 4)]
    rows = {row["Method"]: row.tolist() for _, row in search_budget.present(table, changed).iterrows()}
    assert rows["Contrastive"] == ["Contrastive", "40.00", "50.00", "6", "4"]


@pytest.mark.parametrize("sem, within", [(0.0, 6), (0.1, 4), (math.nan, 6), (1.0, 1)])
def test_within_one_standard_error_of_the_best(results, sem, within):
    changed = with_scores(results, "contrastive", [None, 0.3, 0.2, 0.45, 0.1, 0.5], sem)
    assert set(search_budget.build(changed)["within"][:1]) == {within}


def test_methods_without_a_search_have_no_row_and_those_without_a_score_say_why(results):
    assert "pretrained" not in set(search_budget.build(results)["method"])
    changed = with_scores(results, "contrastive", [None] * 6, math.nan)
    rows = {
        row["Method"]: row.tolist()
        for _, row in search_budget.present(search_budget.build(changed), changed).iterrows()
    }
    assert rows["Contrastive"][1].text == "failed: diverged" and rows["Contrastive"][2:] == [None] * 3


def test_every_searched_hyperparameter_has_a_panel_with_every_trial(results):
    changed = with_scores(results, "contrastive", [0.3, None, 0.2, 0.4, 0.1, 0.5], sem=0.11)
    panels = plugins.load("figures", "trials").draw(changed).axes
    titles = [axes.get_title(loc="left") for axes in panels if axes.get_visible()]
    assert titles == ["Contrastive", "Contrastive", "Triplet", "Triplet"]
    assert [axes.get_xlabel() for axes in panels][:3] == ["margin", "weights_lr", "margin (best at the high edge)"]
    dots, ring, failed = panels[0].lines[:3]
    assert dots.get_xdata() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert dots.get_ydata() == pytest.approx([30, math.nan, 20, 40, 10, 50], nan_ok=True)
    chosen = changed.best.loc[changed.best["method"] == "contrastive", "trial"].iloc[0]
    assert ring.get_xdata() == pytest.approx([0.1 * chosen])
    assert failed.get_xdata() == pytest.approx([0.1])
    assert panels[1].get_xscale() == "log" and panels[0].get_xscale() == "linear"
    labels = [label.get_text() for label in panels[1].get_xticklabels()]
    assert "1" in labels and not any("$" in label for label in labels), "formulas would stand there as they are written"


def test_choices_stand_in_their_order(results):
    best = results.best.copy()
    best["ranges"] = [{"margin": {"choices": [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]}} if r else {} for r in best["ranges"]]
    trials = results.trials.assign(
        parameters=[{"margin": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5][t]} for t in results.trials["trial"]]
    )
    axes = plugins.load("figures", "trials").draw(dataclasses.replace(results, best=best, trials=trials)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "0.4", "0.3", "0.2", "0.1", "0.0"]
    assert list(axes.lines[0].get_xdata()) == [5, 4, 3, 2, 1, 0]


def test_where_nothing_was_searched_the_figure_says_so(results):
    nothing = dataclasses.replace(results, best=results.best.assign(ranges=[{}] * len(results.best)))
    (text,) = plugins.load("figures", "trials").draw(nothing).texts
    assert text.get_text() == "No hyperparameter was searched."
