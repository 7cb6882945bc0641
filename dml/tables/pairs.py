"""What an addition gains: a method beside the one that it adds something to, in pairs over seeds."""

import math
from itertools import product

import pandas as pd

from dml.differences import Compared, compared
from dml.embedding_space import TITLES
from dml.results import Results, failure_reason, metric_title, per_seed
from dml.tabulation import MINUS, MISSING, failed, p_value, presented, signed

NEEDS = "pairs"
TITLE = "What an addition gains"
CAPTION = (
    "Each method minus the one that it adds something to, on the test classes, separated: mean of the differences in "
    "pairs over seeds ± half width of their 95% Student-t interval, in percentage points. p: two-sided paired t-test, "
    "corrected for the number of pairs after Holm; from 0.05 on, the gain may be chance. n: pairs of seeds. Where the "
    "geometry of embeddings was measured, also the change of rho@2, the spectral decay on the training classes in "
    "nats: below 0, the embedding uses its directions more evenly than without the addition."
)
MEASURED = (("separated", "precision_at_1"), ("separated", "map_at_r"), ("training", "rho_2"))


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, pair and measure; differences of shares in [0, 1], those of rho@2 in nats.

    A pair of which one run has no value has a single row that gives its `failure`.
    """
    keys = ["dataset", "method", "base", "embedding", "metric"]
    found = compared(results, _values(results), keys, ["dataset", "embedding", "metric"])
    rows = []
    for dataset in results.datasets:
        for method, base in results.study["pairs"].items():
            own = found[(found["dataset"] == dataset) & (found["method"] == method)]
            rows += own.to_dict("records")
            if own.empty:
                failure = _why_none(results, dataset, method, base)
                rows.append({"dataset": dataset, "method": method, "base": base, "failure": failure})
    types = {
        "dataset": object, "method": object, "base": object, "embedding": object, "metric": object,
        "difference": float, "half_width": float, "n": "Int64", "p": float, "p_holm": float, "tied": "boolean",
        "failure": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"failure": ""})


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each pair, one block for each data set."""
    groups = {metric: TITLES.get(metric) or metric_title(metric) for metric in dict.fromkeys(table["metric"].dropna())}
    names = [("", "Method"), ("", "Beside")]
    names += [(group, name) for group in groups.values() for name in ("Difference", "p (Holm)")] + [("", "n")]
    rows, headings = [], []
    for (dataset, method, base), group in table.groupby(["dataset", "method", "base"], sort=False):
        row = dict.fromkeys(names, MISSING)
        row |= {("", "Method"): results.titles[method], ("", "Beside"): results.titles[base]}
        if group["failure"].iloc[0]:
            row |= dict.fromkeys(names[2:]) | {names[2]: failed(group["failure"].iloc[0], len(names) - 2)}
            group = group.iloc[:0]
        for _, difference in group.iterrows():
            show = signed if difference["embedding"] == "separated" else in_nats
            row |= {
                (groups[difference["metric"]], "Difference"): show(difference["difference"], difference["half_width"]),
                (groups[difference["metric"]], "p (Holm)"): p_value(difference["p_holm"]),
                ("", "n"): str(difference["n"]),
            }
        rows.append(row)
        headings.append(results.datasets[dataset])
    return presented(rows, headings, names)


def in_nats(difference: float, half_width: float = math.nan) -> str:
    """A difference of rho as "−0.120 ± 0.030"."""
    if math.isnan(difference):
        return MISSING
    text = "0.000" if abs(difference) < 0.0005 else f"{difference:+.3f}".replace("-", MINUS)
    return text if math.isnan(half_width) else f"{text} ± {half_width:.3f}"


def _values(results: Results) -> list[Compared]:
    """Both runs of every pair by every measure, where both have a value."""
    methods = _methods_of_runs(results)
    rows = []
    for dataset, (method, base) in product(results.datasets, results.study["pairs"].items()):
        for embedding, metric in MEASURED:
            values = per_seed(results, dataset, embedding, metric, names=[base, method])
            if {method, base} <= set(values):
                place = {"dataset": dataset, "method": method, "base": base, "embedding": embedding, "metric": metric}
                rows.append(Compared(place, values[method], values[base], (methods[method], methods[base])))
    return rows


def _methods_of_runs(results: Results) -> dict[str, str]:
    """Run -> method, of the methods themselves and of those on the levels of factors."""
    levels = [level for factor in results.study["factors"] for level in factor["levels"]]
    return {name: name for name in results.methods} | {
        run["name"]: method for level in levels for method, run in level["runs"].items()
    }


def _why_none(results: Results, dataset: str, method: str, base: str) -> str:
    for run in (method, base):
        if per_seed(results, dataset, "separated", "map_at_r", names=[run]).empty:
            return f"{results.titles[run]}: {failure_reason(results, dataset, run)}"
    return "no seed in which both succeeded"
