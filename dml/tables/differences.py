"""How far each method is from the best one, and whether that could be chance."""

import pandas as pd

from dml.results import EMBEDDINGS, Results, best_method, failure_reason, per_seed, ranked_methods
from dml.stats import paired_comparison
from dml.tabulation import MISSING, Cell, failed, p_value, percent, presented

TITLE = "Differences from the best method"
CAPTION = (
    "Method minus the best method in MAP@R, percentage points: mean of the differences in pairs over seeds ± half "
    "width of their 95% Student-t interval. p: two-sided paired t-test, corrected for the number of methods after "
    "Holm; from 0.05 on, the method is not told from the best. n: pairs of seeds. A method with a failed seed is "
    "compared over its other seeds, and is not the best. The best was chosen by the same numbers, which makes the "
    "differences look a little larger than they are."
)
METRIC = "map_at_r"


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, embedding and method; differences of shares in [0, 1].

    `tied` and the p values are empty where there is no test: for the best itself, and with fewer than two pairs. A
    method without any value has a single row that gives its `failure`.
    """
    rows = []
    for dataset in results.datasets:
        ranking = ranked_methods(results, dataset)
        compared = set()
        for embedding in EMBEDDINGS:
            values = per_seed(results, dataset, embedding, METRIC)
            if values.empty:
                continue
            best = best_method(results, dataset, values)
            comparison = paired_comparison(values, best)
            for method in filter(comparison.index.__contains__, ranking):
                place = {"dataset": dataset, "embedding": embedding, "metric": METRIC, "method": method, "best": best}
                rows.append(place | comparison.loc[method].to_dict())
                compared.add(method)
        for method in filter(lambda name: name not in compared, ranking):
            rows.append({"dataset": dataset, "method": method, "failure": failure_reason(results, dataset, method)})
    types = {
        "dataset": object, "embedding": object, "metric": object, "method": object, "best": object, "difference": float,
        "half_width": float, "n": "Int64", "p": float, "p_holm": float, "tied": "boolean",
        "failure": object,
    }  # fmt: skip
    table = pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"failure": ""})
    table["tied"] = table["tied"].where(table["p_holm"].notna())
    return table


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method, one block for each data set."""
    names = [("", "Method")]
    names += [(embedding.capitalize(), name) for embedding in EMBEDDINGS for name in ("Difference", "p (Holm)", "n")]
    rows, headings = [], []
    for (dataset, method), group in table.groupby(["dataset", "method"], sort=False):
        row = dict.fromkeys(names, MISSING) | {("", "Method"): results.methods[method]}
        if group["failure"].iloc[0]:
            row |= dict.fromkeys(names[1:]) | {names[1]: failed(group["failure"].iloc[0], len(names) - 1)}
            group = group.iloc[:0]
        for _, comparison in group.iterrows():
            row |= {(comparison["embedding"].capitalize(), name): cell for name, cell in _cells(comparison).items()}
        rows.append(row)
        headings.append(results.datasets[dataset])
    return presented(rows, headings, names)


def _cells(comparison: pd.Series) -> dict[str, str | Cell]:
    if comparison["method"] == comparison["best"]:
        return {"Difference": Cell("best", bold=True), "p (Holm)": MISSING, "n": str(comparison["n"])}
    difference = percent(comparison["difference"], comparison["half_width"])
    return {"Difference": difference, "p (Holm)": p_value(comparison["p_holm"]), "n": str(comparison["n"])}
