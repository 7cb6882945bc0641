"""Every metric that was measured."""

from collections.abc import Sequence

import pandas as pd

from dml.results import (
    EMBEDDINGS,
    Results,
    estimate,
    failure_reason,
    incomplete_methods,
    metric_title,
    per_seed,
    ranked_methods,
)
from dml.tabulation import MISSING, Cell, counts, failed, percent, presented

TITLE = "All metrics"
CAPTION = (
    "Percent, mean over n seeds ± half width of the 95% Student-t interval. Loaded weights that do not train are one "
    "evaluation, without an interval; only metrics that cluster (NMI, AMI, F1) draw anew with every seed, and n is "
    "then, say, 3 / 1. Methods are sorted by separated MAP@R, those with a failed seed (n is, say, 2 of 3) after the "
    "others. Queries: test images with at least one image of their class in their gallery. Recall@K is the share of "
    "queries with an image of their class among the K nearest; the CSV file has it for more K."
)


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, embedding, method and metric; values are shares, `n` counts seeds.

    A method without any value has a single row for each embedding that gives its `failure`.
    """
    rows = []
    measured = list(dict.fromkeys(results.metrics.loc[results.metrics["embedding"].isin(EMBEDDINGS), "metric"]))
    queries = results.metrics.groupby(["dataset", "method"])["n_queries"].max()
    for dataset in results.datasets:
        ranking = ranked_methods(results, dataset)
        for embedding in EMBEDDINGS:
            frames = {metric: per_seed(results, dataset, embedding, metric) for metric in measured}
            for method in ranking:
                place = {"dataset": dataset, "embedding": embedding, "method": method}
                found = {metric: values[method] for metric, values in frames.items() if method in values}
                for metric, values in found.items():
                    mean, half_width, n = estimate(results, method, values)
                    numbers = {"mean": mean, "half_width": half_width, "n": n}
                    rows.append(place | {"metric": metric} | numbers | {"n_queries": queries[dataset, method]})
                if not found:
                    rows.append(place | {"failure": failure_reason(results, dataset, method)})
    types = {
        "dataset": object, "embedding": object, "method": object, "metric": object, "mean": float, "half_width": float,
        "n": "Int64", "n_queries": "Int64", "failure": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"failure": ""})


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method, one block for each data set and embedding, one column for each metric."""
    measured = dict.fromkeys(table["metric"].dropna())
    names = {metric: metric_title(metric) for metric in measured if _is_shown(metric, results)}
    incomplete = {dataset: incomplete_methods(results, dataset) for dataset in results.datasets}
    rows, headings = [], []
    for (dataset, embedding, method), group in table.groupby(["dataset", "embedding", "method"], sort=False):
        values = {
            names[e["metric"]]: percent(e["mean"], e["half_width"]) for _, e in group.iterrows() if e["metric"] in names
        }
        planned = results.seeds if method in incomplete[dataset] else None
        values |= {"n": counts(group["n"], planned), "Queries": counts(group["n_queries"])}
        if group["failure"].iloc[0]:
            values = _failed(group["failure"].iloc[0], [*names.values(), "n", "Queries"])
        rows.append({"Method": results.methods[method]} | dict.fromkeys(names.values(), MISSING) | values)
        headings.append(f"{results.datasets[dataset]}, {embedding}")
    return presented(rows, headings, ["Method", *names.values(), "n", "Queries"])


def _failed(reason: str, names: Sequence[str]) -> dict[str, Cell | None]:
    """A failed method has its reason in the place of all its numbers."""
    return dict.fromkeys(names) | {names[0]: failed(reason, len(names))}


def _is_shown(metric: str, results: Results) -> bool:
    """Of Recall@K only the K that papers give for one of the data sets; the CSV file has all."""
    at = metric.removeprefix("recall_at_")
    return not at.isdecimal() or any(int(at) in entry["recall_at"] for entry in results.study["datasets"])
