"""The same models, their images compared in other ways."""

from itertools import product

import pandas as pd

from dml.differences import Compared, compared
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
from dml.tabulation import MISSING, counts, failed, marked, percent, presented

NEEDS = "retrieval"
TITLE = "Other ways of retrieval"
CAPTION = (
    "The test images of the same models, compared in other ways; nothing was trained for them. Percent, mean over n "
    "seeds ± half width of the 95% Student-t interval; difference: the way minus the plain comparison of embeddings, "
    "in percentage points, in pairs over seeds. †: not told from the plain one (paired t-test over seeds, corrected "
    "for the number of a method's ways after Holm, 5%). A difference without ± was not tested: there is a single seed, "
    "or the weights were loaded and not trained. Methods are sorted by separated MAP@R of the plain comparison. "
    "A re-ranking looks at all test images at once, and is not to be compared with what looks at one query at a time."
)
METRICS = ("precision_at_1", "map_at_r")
PLAIN = "Plain"


KEYS = ["dataset", "method", "retrieval", "embedding", "metric"]


def build(results: Results) -> pd.DataFrame:
    """The rows of `measured`, with the differences from the plain way, in pairs over seeds."""
    found = compared(results, _values_beside_plain(results), KEYS, ["dataset", "method", "embedding", "metric"])
    found = found.drop(columns="n").rename(columns={"half_width": "difference_half_width"})
    table = measured(results).merge(found, on=KEYS, how="left")
    return table[[*table.columns.drop("failure"), "failure"]]


def measured(results: Results) -> pd.DataFrame:
    """One row for each data set, method, way (empty: the plain one), embedding and metric; shares in [0, 1].

    A method without any value has a single row that gives its `failure`.
    """
    rows = []
    for dataset in results.datasets if results.study["retrieval"] else ():
        for method in ranked_methods(results, dataset):
            before = len(rows)
            found = {(e, m): _values(results, dataset, method, e, m) for e in EMBEDDINGS for m in METRICS}
            for way in ["", *results.study["retrieval"]]:
                place = {"dataset": dataset, "method": method, "retrieval": way}
                for (embedding, metric), of_ways in found.items():
                    if way in of_ways:
                        mean, half_width, n = estimate(results, method, of_ways[way])
                        numbers = {"mean": mean, "half_width": half_width, "n": n}
                        rows.append(place | {"embedding": embedding, "metric": metric} | numbers)
            if len(rows) == before:
                rows.append({"dataset": dataset, "method": method, "failure": failure_reason(results, dataset, method)})
    types = {
        "dataset": object, "method": object, "retrieval": object, "embedding": object, "metric": object, "mean": float,
        "half_width": float, "n": "Int64", "failure": object,
    }  # fmt: skip
    return (
        pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"retrieval": "", "embedding": "", "failure": ""})
    )


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method and way, one block for each data set and embedding."""
    names = [("", "Method"), ("", "Way")]
    names += [(metric_title(metric), name) for metric in METRICS for name in ("Mean", "Difference")] + [("", "n")]
    titles = {"": PLAIN} | {name: way["title"] for name, way in results.study["retrieval"].items()}
    incomplete = {dataset: incomplete_methods(results, dataset) for dataset in results.datasets}
    rows, headings = [], []
    for dataset, embedding in product(results.datasets, EMBEDDINGS):
        own = table[(table["dataset"] == dataset) & table["embedding"].isin([embedding, ""])]
        for (method, way), group in own.groupby(["method", "retrieval"], sort=False):
            planned = results.seeds if method in incomplete[dataset] else None
            row = dict.fromkeys(names, MISSING) | {("", "Way"): titles[way], ("", "n"): counts(group["n"], planned)}
            row |= {("", "Method"): "" if way else results.methods[method]}
            if group["failure"].iloc[0]:
                row |= dict.fromkeys(names[1:]) | {names[1]: failed(group["failure"].iloc[0], len(names) - 1)}
                group = group.iloc[:0]
            for _, estimated in group.iterrows():
                title = metric_title(estimated["metric"])
                row[title, "Mean"] = percent(estimated["mean"], estimated["half_width"])
                row[title, "Difference"] = marked(*estimated[["difference", "difference_half_width", "tied"]])
            rows.append(row)
            headings.append(f"{results.datasets[dataset]}, {embedding}")
    return presented(rows, headings, names)


def _values(results: Results, dataset: str, method: str, embedding: str, metric: str) -> pd.DataFrame:
    """Seeds x ways, of the ways that have a value."""
    ways = ["", *results.study["retrieval"]]
    parts = {way: per_seed(results, dataset, embedding, metric, names=[method], retrieval=way) for way in ways}
    return pd.DataFrame({way: part[method] for way, part in parts.items() if method in part})


def _values_beside_plain(results: Results) -> list[Compared]:
    """Every other way of each method beside the plain one."""
    rows = []
    for dataset, method, embedding, metric in product(results.datasets, results.methods, EMBEDDINGS, METRICS):
        values = _values(results, dataset, method, embedding, metric)
        place = {"dataset": dataset, "method": method, "embedding": embedding, "metric": metric}
        rows += [
            Compared(place | {"retrieval": way}, values[way], values[""], (method, method))
            for way in values
            if "" in values and way
        ]
    return rows
