"""Was the budget of the search enough? What it would have found with fewer trials."""

import math

import pandas as pd

from dml.results import Results, failure_reason
from dml.tabulation import MISSING, failed, number, percent, presented

NEEDS = "searches"
TITLE = "What a shorter search would have found"
CAPTION = (
    "Highest validation MAP@R (percent, mean over the folds) of the first so many trials of each search, in the order "
    "in which they ran, and in the last column of all of them. Within one standard error: after how many trials the "
    "best so far was first no further below the best of all than that one's standard error over folds. A search that "
    "still gained in its last trials had too few. Failed trials count as trials, and find nothing."
)
BUDGETS = (5, 10, 25, 50, 100)


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, method and budget of trials: the best score of so many, a share in [0, 1].

    The last budget of a method is all of its trials. `within` is the number of trials after which the best so far was
    within one standard error of the best of all. A method of which every trial failed has one row: its `failure`;
    methods that search nothing have none.
    """
    rows = []
    for dataset in results.datasets:
        for method in results.trained_methods:
            best_so_far = trial_scores(results, dataset, method).fillna(0.0).cummax()
            if len(best_so_far) < 2:
                continue
            if best_so_far.iloc[-1] == 0:
                rows.append({"dataset": dataset, "method": method, "failure": failure_reason(results, dataset, method)})
                continue
            place = {"dataset": dataset, "method": method, "within": _within(results, dataset, method, best_so_far)}
            budgets = [budget for budget in BUDGETS if budget < len(best_so_far)] + [len(best_so_far)]
            rows += [place | {"trials": budget, "score": best_so_far.iloc[budget - 1]} for budget in budgets]
    types = {
        "dataset": object, "method": object, "trials": "Int64", "score": float, "within": "Int64", "failure": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"failure": ""})


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method, one block for each data set, a column for each budget."""
    budgets = [budget for budget in BUDGETS if budget in set(table["trials"].dropna())]
    names = ["Method", *map(str, budgets), "All", "Trials", "Within one standard error"]
    rows, headings = [], []
    for (dataset, method), group in table.groupby(["dataset", "method"], sort=False):
        headings.append(results.datasets[dataset])
        if group["failure"].iloc[0]:
            reason = failed(group["failure"].iloc[0], len(names) - 1)
            rows.append(dict.fromkeys(names) | {"Method": results.methods[method], names[1]: reason})
            continue
        scores = dict(zip(group["trials"], group["score"], strict=True))
        row = {"Method": results.methods[method], "All": percent(group["score"].iloc[-1])}
        row |= {str(budget): percent(scores[budget]) if budget in scores else MISSING for budget in budgets}
        row |= {
            "Trials": number(group["trials"].iloc[-1]),
            "Within one standard error": number(group["within"].iloc[0]),
        }
        rows.append({name: row[name] for name in names})
    return presented(rows, headings, names)


def trial_scores(results: Results, dataset: str, method: str) -> pd.Series:
    """Score of every trial (index), a share in [0, 1]: the mean over folds, NaN where a fold failed."""
    trials = results.trials[(results.trials["dataset"] == dataset) & (results.trials["method"] == method)]
    by_trial = trials.groupby("trial")
    return by_trial["score"].mean().where(by_trial["failure"].agg(lambda failures: (failures == "").all()))


def _within(results: Results, dataset: str, method: str, best_so_far: pd.Series) -> int:
    best = results.best[(results.best["dataset"] == dataset) & (results.best["method"] == method)].iloc[0]
    tolerance = 0.0 if math.isnan(best["sem"]) else best["sem"]
    return int((best_so_far < best_so_far.iloc[-1] - tolerance).sum()) + 1
