"""The same models, their images compared in other ways."""

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
from dml.tables.pairs import compared, marked
from dml.tabulation import MISSING, counts, failed, percent, presented

NEEDS = "retrieval"
TITLE = "Other ways of retrieval"
CAPTION = (
    "The test images of the same models, compared in other ways; nothing was trained for them. Percent, mean over n "
    "seeds ± half width of the 95% Student-t interval; difference: the way minus the plain comparison of embeddings, "
    "in percentage points, in pairs over seeds. †: not told from the plain one (paired t-test over seeds, corrected "
    "for the number of a method's ways after Holm, 5%). Methods are sorted by separated MAP@R of the plain comparison. "
    "A re-ranking looks at all test images at once, and is not to be compared with what looks at one query at a time."
)
METRICS = ("precision_at_1", "map_at_r")
PLAIN = "Plain"


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, method, way (empty: the plain one), embedding and metric; shares in [0, 1].

    `difference` is the way minus the plain one, in pairs over seeds. A method without any value has a single row that
    gives its `failure`.
    """
    rows = []
    ways = ["", *results.study["retrieval"]]
    for dataset in results.datasets if len(ways) > 1 else ():
        for method in ranked_methods(results, dataset):
            before = len(rows)
            found = {(e, m): _estimates(results, dataset, method, e, m) for e in EMBEDDINGS for m in METRICS}
            for way in ways:
                for (embedding, metric), of_ways in found.items():
                    if way in of_ways:
                        place = {"dataset": dataset, "method": method, "retrieval": way, "embedding": embedding}
                        rows.append(place | {"metric": metric} | of_ways[way])
            if len(rows) == before:
                rows.append({"dataset": dataset, "method": method, "failure": failure_reason(results, dataset, method)})
    types = {
        "dataset": object, "method": object, "retrieval": object, "embedding": object, "metric": object, "mean": float,
        "half_width": float, "n": "Int64", "difference": float, "difference_half_width": float, "p": float,
        "p_holm": float, "tied": "boolean", "failure": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"retrieval": "", "failure": ""})


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method and way, one block for each data set."""
    metrics = [(embedding, metric) for embedding in EMBEDDINGS for metric in METRICS]
    groups = {(e, m): f"{metric_title(m)}, {e}" for e, m in metrics}
    names = [("", "Method"), ("", "Way")]
    names += [(group, name) for group in groups.values() for name in ("Mean", "Difference")] + [("", "n")]
    titles = {"": PLAIN} | {name: way["title"] for name, way in results.study["retrieval"].items()}
    incomplete = {dataset: incomplete_methods(results, dataset) for dataset in results.datasets}
    rows, headings = [], []
    for (dataset, method, way), group in table.groupby(["dataset", "method", "retrieval"], sort=False):
        planned = results.seeds if method in incomplete[dataset] else None
        row = dict.fromkeys(names, MISSING) | {("", "Way"): titles[way], ("", "n"): counts(group["n"], planned)}
        row |= {("", "Method"): "" if way else results.methods[method]}
        if group["failure"].iloc[0]:
            row |= dict.fromkeys(names[1:]) | {names[1]: failed(group["failure"].iloc[0], len(names) - 1)}
            group = group.iloc[:0]
        for _, estimated in group.iterrows():
            above = groups[estimated["embedding"], estimated["metric"]]
            row[above, "Mean"] = percent(estimated["mean"], estimated["half_width"])
            row[above, "Difference"] = marked(*estimated[["difference", "difference_half_width", "tied"]])
        rows.append(row)
        headings.append(results.datasets[dataset])
    return presented(rows, headings, names)


def _estimates(results: Results, dataset: str, method: str, embedding: str, metric: str) -> dict[str, dict]:
    """Way -> mean, half width and n, and what differs from the plain way, of the ways that have a value."""
    ways = ["", *results.study["retrieval"]]
    parts = {way: per_seed(results, dataset, embedding, metric, names=[method], retrieval=way) for way in ways}
    values = pd.DataFrame({way: part[method] for way, part in parts.items() if method in part})
    found = {}
    for way in values:
        found[way] = dict(zip(("mean", "half_width", "n"), estimate(results, method, values[way]), strict=True))
    if "" in values:
        differences = compared(results, values, "", dict.fromkeys(values, method)).drop("")
        for way, row in (
            differences.drop(columns="n").rename(columns={"half_width": "difference_half_width"}).iterrows()
        ):
            found[way] |= row.to_dict()
    return found
