"""What is varied beside the methods: how well each method does on every level of every factor."""

from itertools import product
from typing import Any

import pandas as pd

from dml.differences import Compared, compared
from dml.results import Results, estimate, failure_reason, metric_title, per_seed
from dml.tabulation import MISSING, Cell, counts, failed, marked, percent, presented

NEEDS = "factors"
TITLE = "Accuracy on the levels of factors"
CAPTION = (
    "One factor is varied at a time, everything else is as in the study's protocol. Separated, percent: mean over n "
    "seeds ± half width of the 95% Student-t interval. Bold: the study's own value, where it belongs to the factor. "
    "Difference: the level minus the study's own value, in percentage points, mean in pairs over seeds ± half width of "
    "its 95% interval. †: not told from the study's own value (paired t-test over seeds, corrected for the number of a "
    "method's levels after Holm, 5%). A difference without ± was not tested: a single seed. The CSV file also has the "
    "means of other ways of retrieval."
)
METRICS = ("precision_at_1", "map_at_r")


KEYS = ["dataset", "factor", "method", "run", "retrieval", "metric"]


def build(results: Results) -> pd.DataFrame:
    """The rows of `measured`, with the differences from the study's own value where the retrieval is the plain one.

    `difference` is the run minus the method's run on the study's own value, over `pairs` of seeds.
    """
    found = compared(results, _values_beside_own(results), KEYS, ["dataset", "factor", "method", "metric"])
    found = found.rename(columns={"n": "pairs", "half_width": "difference_half_width"})
    table = measured(results).merge(found, on=KEYS, how="left").astype({"pairs": "Int64"})
    return table[[*table.columns.drop("failure"), "failure"]]


def measured(results: Results) -> pd.DataFrame:
    """One row for each data set, factor, method, level, way of retrieval and metric; values are shares in [0, 1].

    The study's own value of a factor has an empty `level`; `at` is where a level stands on an axis. A run without any
    value has a single row that gives its `failure`.
    """
    rows = []
    for dataset in results.datasets:
        for factor in results.study["factors"]:
            for method in factor["methods"]:
                rows += _rows_of_method(results, dataset, factor, method)
    types = {
        "dataset": object, "factor": object, "curve": object, "method": object, "level": object, "title": object,
        "at": float, "run": object, "retrieval": object, "metric": object, "mean": float, "half_width": float,
        "n": "Int64", "failure": object,
    }  # fmt: skip
    texts = dict.fromkeys(("retrieval", "metric", "failure"), "")
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna(texts)


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method and level, one block for each data set and factor."""
    headings = {factor["name"]: _heading(factor) for factor in results.study["factors"]}
    names = [("", "Method"), ("", "Level")]
    names += [(metric_title(metric), name) for metric in METRICS for name in ("Mean", "Difference")] + [("", "n")]
    rows, blocks, before = [], [], None
    plain = table[table["retrieval"] == ""]
    for (dataset, factor, method, level), group in plain.groupby(["dataset", "factor", "method", "level"], sort=False):
        first, own = group.iloc[0], level == ""
        of_method = (dataset, factor, method)
        row = dict.fromkeys(names, MISSING) | {names[0]: "" if of_method == before else results.methods[method]}
        row |= {names[1]: Cell(first["title"], bold=own), names[-1]: counts(group["n"], _planned(results, group))}
        if first["failure"]:
            row |= dict.fromkeys(names[2:]) | {names[2]: failed(first["failure"], len(names) - 2)}
            group = group.iloc[:0]
        for _, estimated in group.iterrows():
            title = metric_title(estimated["metric"])
            row[title, "Mean"] = percent(estimated["mean"], estimated["half_width"])
            row[title, "Difference"] = marked(*estimated[["difference", "difference_half_width", "tied"]])
        rows.append(row)
        blocks.append(f"{results.datasets[dataset]}: {headings[factor]}")
        before = of_method
    return presented(rows, blocks, names)


def _rows_of_method(results: Results, dataset: str, factor: dict[str, Any], method: str) -> list[dict]:
    levels = _levels(factor, method)
    runs = [level["run"] for level in levels]
    values = {
        (way, metric): per_seed(results, dataset, "separated", metric, names=runs, retrieval=way)
        for way, metric in product(["", *results.study["retrieval"]], METRICS)
    }
    rows = []
    for level in levels:
        run = level["run"]
        place = {"dataset": dataset, "factor": factor["name"], "curve": factor["curve"], "method": method} | level
        found = {key: estimate(results, method, of_runs[run]) for key, of_runs in values.items() if run in of_runs}
        for (way, metric), (mean, half_width, n) in found.items():
            numbers = {"mean": mean, "half_width": half_width, "n": n}
            rows.append(place | {"retrieval": way, "metric": metric} | numbers)
        if not found:
            rows.append(place | {"failure": failure_reason(results, dataset, run)})
    return rows


def _levels(factor: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """A method's levels, in the order of the axis where all have a place on it; else the study's own value is first."""
    levels = [
        {"level": level["name"], "title": level["title"], "at": level["at"], "run": level["runs"][method]["name"]}
        for level in factor["levels"]
        if method in level["runs"]
    ]
    if factor["study"] is not None:
        levels.insert(0, {"level": "", "title": factor["study"], "at": factor["at"], "run": method})
    placed = all(level["at"] is not None for level in levels)
    return sorted(levels, key=lambda level: level["at"]) if placed else levels


def _values_beside_own(results: Results) -> list[Compared]:
    """Every level beside the study's own value, of the factors that it belongs to."""
    rows = []
    factors = [factor for factor in results.study["factors"] if factor["study"] is not None]
    for dataset, factor, metric in product(results.datasets, factors, METRICS):
        for method in factor["methods"]:
            runs = [level["run"] for level in _levels(factor, method)]
            values = per_seed(results, dataset, "separated", metric, names=runs)
            place = {"dataset": dataset, "factor": factor["name"], "method": method, "retrieval": "", "metric": metric}
            rows += [
                Compared(place | {"run": run}, values[run], values[method], (method, method))
                for run in values
                if method in values and run != method
            ]
    return rows


def _heading(factor: dict[str, Any]) -> str:
    return ", ".join(filter(None, [factor["title"], factor["curve"]]))


def _planned(results: Results, group: pd.DataFrame) -> int | None:
    """How many seeds were planned, where some failed."""
    failures = results.runs["failure"] != ""
    own = (results.runs["dataset"] == group["dataset"].iloc[0]) & (results.runs["method"] == group["run"].iloc[0])
    return results.seeds if (failures & own).any() else None
