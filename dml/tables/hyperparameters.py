"""What the search found: the best trial of each method."""

import math
from typing import Any

import pandas as pd

from dml.results import Results
from dml.study import SEARCH
from dml.tabulation import EDGE, MISSING, Cell, failed, number, percent, presented

TITLE = "Best hyperparameters"
CAPTION = (
    "The trial with the highest validation MAP@R (percent, mean over the folds ± its standard error). Trials are "
    "counted from 0. ⚠ marks a value at the edge of its range: the best may lie beyond it, and the range should be "
    "widened. Without a trial: the value was not searched but taken from elsewhere, as the text above says."
)


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, method and hyperparameter; a method without any has one row with the score.

    `low`, `high` and `log` describe the range (or `choices` do), `edge` is "low" or "high" where the value lies at that
    end. Methods that do not train are left out.
    """
    rows = []
    search = ["dataset", "method", "trial", "score", "sem", "trials", "failed_trials", "failure", "origin"]
    b = results.best
    for dataset in results.datasets:
        for method in [*results.trained_methods, *results.runs_of_levels]:
            for _, best in b[(b["dataset"] == dataset) & (b["method"] == method)].iterrows():
                found = [] if best["failure"] else [_value(best, name) for name in sorted(best["parameters"])]
                rows += [best[search].to_dict() | value for value in found or [{}]]
    types = {
        "dataset": object, "method": object, "trial": "Int64", "score": float, "sem": float, "trials": "Int64",
        "failed_trials": "Int64", "parameter": object, "value": object, "low": float, "high": float, "log": "boolean",
        "choices": object, "edge": object, "failure": object, "origin": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"parameter": "", "edge": "", "choices": ""})


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each hyperparameter; what belongs to the method stands in its first row only."""
    names = ["Method", "MAP@R", "Trial", "Failed", "Hyperparameter", "Value", "Range"]
    rows, headings = [], []
    for (dataset, method), group in table.groupby(["dataset", "method"], sort=False):
        for position, (_, row) in enumerate(group.iterrows()):
            about_method = _about_method(row, results.titles[method]) if position == 0 else [""] * 4
            rows.append(dict(zip(names, [*about_method, *_about_value(row)], strict=True)))
            headings.append(results.datasets[dataset])
    return presented(rows, headings, names)


def _value(best: pd.Series, name: str) -> dict[str, Any]:
    value, searched = best["parameters"][name], best["ranges"].get(name, {})
    choices = searched.get("choices")
    return {
        "parameter": name,
        "value": value,
        "low": math.nan if searched.get("low") is None else searched["low"],
        "high": math.nan if searched.get("high") is None else searched["high"],
        "log": bool(searched.get("log", False)),
        "choices": "" if choices is None else ", ".join(map(str, choices)),
        "edge": best["edges"].get(name, ""),
    }


def _about_method(row: pd.Series, title: str) -> list[str]:
    if row["origin"] != SEARCH:
        return [title, MISSING, MISSING, MISSING]
    score = MISSING if row["failure"] else percent(row["score"], row["sem"])
    trial = MISSING if row["failure"] else number(row["trial"])
    return [title, score, trial, f"{row['failed_trials']} of {row['trials']}"]


def _about_value(row: pd.Series) -> list[str | Cell | None]:
    if row["failure"]:
        return [failed(row["failure"], 3), None, None]
    if not row["parameter"]:
        return ["none", MISSING, MISSING]
    if row["edge"]:
        at_edge = f"{_range(row)} {EDGE} at the {row['edge']} edge"
        return [row["parameter"], Cell(number(row["value"]), bold=True), Cell(at_edge, bold=True)]
    return [row["parameter"], number(row["value"]), _range(row)]


def _range(row: pd.Series) -> str:
    if row["choices"] or math.isnan(row["low"]):
        return row["choices"] or MISSING
    return f"{number(row['low'])} to {number(row['high'])}" + (", log" if row["log"] else "")
