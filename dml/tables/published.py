"""The paper's numbers beside ours, cell by cell."""

import math

import pandas as pd

from dml.results import (
    HEADLINE_METRICS,
    RANKING,
    Results,
    estimate,
    failure_reason,
    metric_title,
    per_seed,
    ranked_methods,
)
from dml.tabulation import MISSING, Cell, percent, presented

TITLE = "Published and measured"
CAPTION = (
    "Percent, mean ± half width of the 95% interval, as the paper gives it and as measured here; the difference is "
    "ours minus the paper's. ✓: within both intervals (of either mean), (✓): within the one interval that there is, ✗: "
    "not. Where the protocol, the data or the search is not the paper's, the values stand side by side but are not "
    "comparable: the reason stands with them, and no difference is given. Binary: the signs of the separated "
    "embeddings. Measures of training images stand with the geometry of embeddings, where the study measures that."
)
MEASURED = {
    "separated": ("separated", ""), "concatenated": ("concatenated", ""), "binary": ("separated", "binary"),
}  # fmt: skip
"""What a paper's numbers are of, and the embedding and way of retrieval of ours beside them."""
NOT_MEASURED = "not measured"
WITHIN = {"both": "✓", "one": "(✓)", "no": "✗", "": ""}


def build(results: Results) -> pd.DataFrame:
    """One row for each published value of a data set, embedding, method and metric; values are shares in [0, 1].

    `within` is "both" if neither interval's half width is smaller than the difference, "one" if only one of the values
    has an interval and that holds, "no" if it does not hold, empty without any interval. `difference` and `within` are
    empty where `reason` says why the values are not comparable; `failure` says why there is no value of ours: why the
    method has none, or that the study does not measure this of it.
    """
    rows = []
    p = results.published
    for dataset in results.datasets:
        for embedding, (of_ours, way) in MEASURED.items():
            own = p[(p["dataset"] == dataset) & (p["embedding"] == embedding)]
            measured = {
                metric: per_seed(results, dataset, of_ours, metric, retrieval=way)
                for metric in dict.fromkeys(own["metric"])
            }
            for method in ranked_methods(results, dataset):
                of_method = own[own["method"] == method]
                rows += [
                    _row(row, _ours(results, dataset, method, measured[row["metric"]]))
                    for _, row in of_method.iterrows()
                ]
    types = {
        "dataset": object, "embedding": object, "method": object, "metric": object, "published": float,
        "published_half_width": float, "ours": float, "ours_half_width": float, "n": "Int64", "difference": float,
        "within": object, "reason": object, "failure": object, "source": object,
        "note": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method, one block for each data set and embedding, headed by what makes it incomparable."""
    metrics = sorted(set(table["metric"]), key=_place)
    names = [("", "Method")]
    names += [(metric_title(metric), name) for metric in metrics for name in ("Paper", "Ours", "Difference")]
    rows, headings = [], []
    for (dataset, embedding), block in table.groupby(["dataset", "embedding"], sort=False):
        lines = _block(block, results, names)
        rows += lines
        headings += [f"{results.datasets[dataset]}, {embedding}"] * len(lines)
    without = [dataset for dataset in results.datasets if dataset not in set(table["dataset"])]
    if results.study["counterpart"]:
        rows += [_spanning(names, "No result of the paper is known for this data set and experiment.") for _ in without]
        headings += [results.datasets[dataset] for dataset in without]
    return presented(rows, headings, names)


def _place(metric: str) -> tuple:
    """As papers order their columns: P@1, R-Precision and MAP@R, then Recall@K by K, then the others by name."""
    at = metric.removeprefix("recall_at_")
    known = HEADLINE_METRICS.index(metric) if metric in HEADLINE_METRICS else len(HEADLINE_METRICS)
    return known, not at.isdecimal(), int(at) if at.isdecimal() else 0, metric


def _block(block: pd.DataFrame, results: Results, names: list) -> list[dict]:
    """The rows of one data set and embedding: why nothing of it is comparable, the methods, what is to say of some."""
    of_all, lines, remarks = _common_reasons(block), [], []
    for method, group in block.groupby("method", sort=False):
        row = dict.fromkeys(names, MISSING) | {("", "Method"): results.methods[method]}
        for _, value in group.iterrows():
            row |= {(metric_title(value["metric"]), name): cell for name, cell in _cells(value).items()}
        lines.append(row)
        own = [reason for reason in _reasons(group.iloc[0]) if reason not in of_all]
        if own:
            remarks.append(_spanning(names, f"{results.methods[method]} is not comparable: {'; '.join(own)}."))
    missing = [title for method, title in results.methods.items() if method not in set(block["method"])]
    if missing:
        remarks.append(_spanning(names, f"Not known from the paper: {', '.join(missing)}."))
    return [_spanning(names, f"Not comparable: {'; '.join(of_all)}.")] * bool(of_all) + lines + remarks


def _ours(results: Results, dataset: str, method: str, values: pd.DataFrame) -> dict:
    if method in values:
        mean, half_width, n = estimate(results, method, values[method])
        return {"ours": mean, "ours_half_width": half_width, "n": n, "failure": ""}
    has_others = method in per_seed(results, dataset, *RANKING)
    failure = NOT_MEASURED if has_others else failure_reason(results, dataset, method)
    return {"ours": math.nan, "ours_half_width": math.nan, "n": 0, "failure": failure}


def _row(published: pd.Series, ours: dict) -> dict:
    row = published[["dataset", "embedding", "method", "metric", "reason", "source", "note"]].to_dict() | ours
    row |= {"published": published["mean"], "published_half_width": published["half_width"]}
    if published["reason"] or math.isnan(ours["ours"]):
        return row | {"difference": math.nan, "within": ""}
    difference = ours["ours"] - published["mean"]
    widths = [width for width in (ours["ours_half_width"], published["half_width"]) if not math.isnan(width)]
    holds = "both" if len(widths) == 2 else "one"
    within = "" if not widths else holds if abs(difference) <= min(widths) else "no"
    return row | {"difference": difference, "within": within}


def _cells(value: pd.Series) -> dict[str, str | Cell]:
    sign = "+" if value["difference"] > 0 else ""
    ours = percent(value["ours"], value["ours_half_width"])
    return {
        "Paper": percent(value["published"], value["published_half_width"]),
        "Ours": ours if value["failure"] in ("", NOT_MEASURED) else "failed",
        "Difference": Cell(sign + percent(value["difference"]), mark=WITHIN[value["within"]]),
    }


def _reasons(value: pd.Series) -> list[str]:
    return value["reason"].split("; ") if value["reason"] else []


def _common_reasons(block: pd.DataFrame) -> list[str]:
    """The reasons that hold for every method."""
    of_methods = [_reasons(group.iloc[0]) for _, group in block.groupby("method", sort=False)]
    return [reason for reason in of_methods[0] if all(reason in others for others in of_methods)]


def _spanning(names: list, text: str) -> dict:
    return dict.fromkeys(names) | {names[0]: Cell(text, span=len(names))}
