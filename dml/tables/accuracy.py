"""The main table: how well each method retrieves images of classes it has never seen."""

import math

import pandas as pd

from dml.results import (
    EMBEDDINGS,
    HEADLINE_METRICS,
    Results,
    best_method,
    estimate,
    failure_reason,
    incomplete_methods,
    metric_title,
    per_seed,
    ranked_methods,
)
from dml.stats import paired_comparison
from dml.tabulation import MISSING, TIED, Cell, counts, failed, percent, presented

TITLE = "Accuracy on the test classes"
CAPTION = (
    "Percent, mean over n seeds ± half width of the 95% Student-t interval. A value without ± comes from a single "
    "seed, or from loaded weights that do not train: the same in every seed, they are one evaluation. Methods are "
    "sorted by separated MAP@R. Where n is, say, 2 of 3, a seed failed: such a method stands after those with all "
    "seeds and is not the best. Bold: best of its column. †: not told from the best of its column (paired t-test "
    "over seeds, corrected for the number of methods after Holm, 5%). Dim.: length of the separated and of the "
    "concatenated embedding."
)


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, method, embedding and headline metric; values are shares in [0, 1].

    `tied` is empty where there is no test: for the best itself, and with fewer than two seeds in common. A method
    without any value has a single row that gives its `failure`.
    """
    rows = []
    for dataset in results.datasets:
        estimates = {
            (embedding, metric): _estimates(results, dataset, embedding, metric)
            for embedding in EMBEDDINGS
            for metric in HEADLINE_METRICS
        }
        for rank, method in enumerate(ranked_methods(results, dataset), 1):
            found = {key: of_methods[method] for key, of_methods in estimates.items() if method in of_methods}
            sizes = _embedding_sizes(results, dataset, method)
            for (embedding, metric), found_estimate in found.items():
                kind = {"embedding": embedding, "metric": metric, "embedding_size": sizes.get(embedding)}
                rows.append({"dataset": dataset, "method": method, "rank": rank, **kind, **found_estimate})
            if not found:
                rows.append({"dataset": dataset, "method": method, "failure": failure_reason(results, dataset, method)})
    types = {
        "dataset": object, "method": object, "rank": "Int64", "embedding": object, "metric": object, "mean": float,
        "half_width": float, "n": "Int64", "embedding_size": "Int64", "best": "boolean", "tied": "boolean",
        "failure": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"failure": ""})


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method, one block for each data set."""
    metrics = [(embedding, metric) for embedding in EMBEDDINGS for metric in HEADLINE_METRICS]
    names = {key: (key[0].capitalize(), metric_title(key[1])) for key in metrics}
    incomplete = {dataset: incomplete_methods(results, dataset) for dataset in results.datasets}
    rows, headings = [], []
    for (dataset, method), group in table.groupby(["dataset", "method"], sort=False):
        estimates = {(e["embedding"], e["metric"]): e for _, e in group.iterrows()}
        row = {("", "Method"): Cell(results.methods[method], bold=_is_best(estimates.get(("separated", "map_at_r"))))}
        row |= {name: _cell(estimates.get(key)) for key, name in names.items()}
        if group["failure"].iloc[0]:
            row |= dict.fromkeys(names.values())
            row[next(iter(names.values()))] = failed(group["failure"].iloc[0], len(names))
        planned = results.seeds if method in incomplete[dataset] else None
        rows.append(row | {("", "n"): counts(group["n"], planned), ("", "Dim."): counts(group["embedding_size"])})
        headings.append(results.datasets[dataset])
    return presented(rows, headings, [("", "Method"), *names.values(), ("", "n"), ("", "Dim.")])


def _estimates(results: Results, dataset: str, embedding: str, metric: str) -> dict[str, dict]:
    """Mean, half width, n, best and tied of each method."""
    values = per_seed(results, dataset, embedding, metric)
    if values.empty:
        return {}
    best = best_method(results, dataset, values)
    comparison = paired_comparison(values, best)
    found = {}
    for method in values:
        mean, half_width, n = estimate(results, method, values[method])
        tied = pd.NA if math.isnan(comparison.at[method, "p_holm"]) else bool(comparison.at[method, "tied"])
        found[method] = {"mean": mean, "half_width": half_width, "n": n, "best": method == best, "tied": tied}
    return found


def _embedding_sizes(results: Results, dataset: str, method: str) -> dict[str, int]:
    """Length of one fold's embedding, and of all folds' embeddings of a seed joined."""
    r = results.runs
    runs = r[(r["dataset"] == dataset) & (r["method"] == method) & (r["failure"] == "")]
    if runs.empty:
        return {}
    joined = runs.groupby("seed")["embedding_size"].sum()
    return {"separated": int(runs["embedding_size"].iloc[0]), "concatenated": int(joined.max())}


def _is_best(row: pd.Series | None) -> bool:
    return row is not None and bool(row["best"])


def _cell(row: pd.Series | None) -> Cell:
    if row is None or math.isnan(row["mean"]):
        return Cell(MISSING)
    tied = not pd.isna(row["tied"]) and bool(row["tied"])
    return Cell(percent(row["mean"], row["half_width"]), bool(row["best"]), TIED if tied else "")
