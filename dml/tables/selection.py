"""How much better results would look if the test classes had chosen the model. No other table has such numbers."""

import pandas as pd

from dml.results import Results, estimate, failure_reason, incomplete_methods, metric_title, ranked_methods
from dml.tabulation import MISSING, counts, failed, percent, presented, signed

NEEDS = "checkpoints"
TITLE = "What choosing the model by the test would feign"
CAPTION = (
    "A warning, not a result: no other number of this page uses what stands here. Chosen by validation: the models of "
    "this study, as everywhere else. Chosen by the test: of each training, the highest test value that any of its "
    "validated models has, for each metric another model if need be, as Roth et al. (ICML 2020) take it. Feigned: the "
    "second minus the first, in percentage points. Separated, percent, mean over n seeds ± half width of the 95% "
    "Student-t interval. The highest of several values is never below the chosen one, so a difference above 0 says "
    "nothing in favour of a method: it is the bias that an honest comparison leaves out."
)
METRICS = ("precision_at_1", "map_at_r")


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, method that trains, and metric; values are shares in [0, 1].

    A method without any value has a single row that gives its `failure`.
    """
    rows = []
    for dataset in results.datasets if len(results.selection) else ():
        for method in filter(results.trained_methods.__contains__, ranked_methods(results, dataset)):
            place = {"dataset": dataset, "method": method}
            values = {metric: _values(results, dataset, method, metric) for metric in METRICS}
            rows += [
                place | {"metric": metric} | _estimates(results, method, of_metric)
                for metric, of_metric in values.items()
                if len(of_metric)
            ]
            if all(of_metric.empty for of_metric in values.values()):
                rows.append(place | {"failure": failure_reason(results, dataset, method)})
    types = {
        "dataset": object, "method": object, "metric": object, "by_validation": float,
        "by_validation_half_width": float, "by_test": float, "by_test_half_width": float, "feigned": float,
        "feigned_half_width": float, "n": "Int64", "failure": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"failure": ""})


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method, one block for each data set."""
    titles = {"by_validation": "By validation", "by_test": "By the test", "feigned": "Feigned"}
    names = [("", "Method")]
    names += [(metric_title(metric), title) for metric in METRICS for title in titles.values()] + [("", "n")]
    incomplete = {dataset: incomplete_methods(results, dataset) for dataset in results.datasets}
    rows, headings = [], []
    for (dataset, method), group in table.groupby(["dataset", "method"], sort=False):
        planned = results.seeds if method in incomplete[dataset] else None
        row = dict.fromkeys(names, MISSING) | {("", "Method"): results.methods[method]}
        row |= {("", "n"): counts(group["n"], planned)}
        if group["failure"].iloc[0]:
            row |= dict.fromkeys(names[1:]) | {names[1]: failed(group["failure"].iloc[0], len(names) - 1)}
            group = group.iloc[:0]
        for _, estimated in group.iterrows():
            for kind, title in titles.items():
                show = signed if kind == "feigned" else percent
                cell = show(estimated[kind], estimated[f"{kind}_half_width"])
                row[metric_title(estimated["metric"]), title] = cell
        rows.append(row)
        headings.append(results.datasets[dataset])
    return presented(rows, headings, names)


def _values(results: Results, dataset: str, method: str, metric: str) -> pd.DataFrame:
    """Seeds x (by_validation, by_test): means over the folds, of seeds of which no fold failed."""
    r, s = results.runs, results.selection
    runs = r[(r["dataset"] == dataset) & (r["method"] == method)].set_index(["seed", "fold"])
    tried = s[(s["dataset"] == dataset) & (s["method"] == method)]
    of_fold = tried.groupby(["seed", "fold"])[metric].max().to_frame("by_test")
    of_fold["by_validation"] = tried[tried["chosen"]].set_index(["seed", "fold"])[metric]
    of_fold = of_fold.reindex(runs.index).where(runs["failure"] == "")
    incomplete = of_fold.isna().any(axis=1).groupby(level="seed").any()
    return of_fold.groupby(level="seed").mean()[~incomplete]


def _estimates(results: Results, method: str, values: pd.DataFrame) -> dict[str, float | int]:
    numbers = {}
    for kind, of_kind in values.assign(feigned=values["by_test"] - values["by_validation"]).items():
        numbers[kind], numbers[f"{kind}_half_width"], numbers["n"] = estimate(results, method, of_kind)
    return numbers
