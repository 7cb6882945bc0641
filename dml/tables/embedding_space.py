"""The geometry of training embeddings beside the accuracy on test classes, and how well one goes with the other."""

import math

import numpy as np
import pandas as pd
from scipy import stats

from dml.embedding_space import TITLES
from dml.results import (
    Results,
    estimate,
    failure_reason,
    incomplete_methods,
    metric_title,
    per_seed,
    ranked_methods,
)
from dml.tabulation import MINUS, MISSING, counts, failed, number, percent, presented

NEEDS = "embedding_space"
TITLE = "Geometry of embeddings and accuracy"
CAPTION = (
    "Embeddings of the classes that each model was trained on, beside P@1 on the test classes (separated, percent). "
    "Pi intra: mean cosine distance within a class, lower is tighter; pi inter: between the mean embeddings of "
    "classes, higher is further apart; pi ratio: their quotient. Rho: spectral decay, how far the singular values are "
    "from being all equal, in nats; 0 is a flat spectrum. rho@2 leaves out the largest value. Mean over n seeds ± half "
    "width of the 95% Student-t interval. Last rows: Pearson's r of each measure and P@1 over the n methods that "
    "train, with its 95% interval (Fisher's z), and the r that Roth et al. (ICML 2020) have over theirs. With few "
    "methods the interval is wide, whatever r is. The CSV file also has rho@10, without the nine largest values, and "
    "rho@-1, measured from the other side."
)
SEPARATED = ("separated", "precision_at_1")
SHOWN = ("pi_intra", "pi_inter", "pi_ratio", "rho_1", "rho_2")
PUBLISHED = {
    "CUB200-2011": {"pi_intra": 0.25, "pi_inter": -0.16, "pi_ratio": 0.79, "rho_2": -0.80},
    "CARS196": {"pi_intra": 0.39, "pi_inter": -0.08, "pi_ratio": 0.65, "rho_2": -0.85},
    "SOP": {"pi_intra": 0.36, "pi_inter": 0.17, "pi_ratio": 0.22, "rho_2": -0.63},
}
"""Pearson's r of Recall@1 (P@1) and a measure of training embeddings over 18, 18 and 16 methods without their
regularisation: Roth et al., the figure that compares metrics; their rho leaves out the largest singular value."""
DATASETS = {"cub200": "CUB200-2011", "cars196": "CARS196", "sop": "SOP", "sop_official": "SOP"}
ELSEWHERE = "CUB200-2011"
"""Whose r stands beside data sets that the paper does not have."""


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, method and measure, and one for each data set, measure and correlation with P@1.

    A method's rows have `mean`, `half_width` and `n` seeds; P@1 is a share. The rows without a method have `r` with
    `low` and `high`, the ends of its interval, over `n` methods, and `published_r`, that of `published_of`. A method
    without any value has a single row that gives its `failure`.
    """
    rows = []
    measured = (results.metrics["embedding"] == "training").any()
    for dataset in results.datasets if measured else ():
        values = _values(results, dataset)
        for method in ranked_methods(results, dataset):
            place = {"dataset": dataset, "method": method}
            found = {measure: of_methods[method] for measure, of_methods in values.items() if method in of_methods}
            for measure, of_seeds in found.items():
                mean, half_width, n = estimate(results, method, of_seeds)
                rows.append(place | {"measure": measure, "mean": mean, "half_width": half_width, "n": n})
            if not found:
                rows.append(place | {"failure": failure_reason(results, dataset, method)})
        of = DATASETS.get(dataset, ELSEWHERE)
        for measure, found in correlations(results, dataset).items():
            published = {"published_r": PUBLISHED[of].get(measure, math.nan), "published_of": of}
            rows.append({"dataset": dataset, "method": "", "measure": measure} | found | published)
    types = {
        "dataset": object, "method": object, "measure": object, "mean": float, "half_width": float, "n": "Int64",
        "r": float, "low": float, "high": float, "published_r": float, "published_of": object, "failure": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"published_of": "", "failure": ""})


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method and three for the correlations, one block for each data set."""
    measures = [measure for measure in SHOWN if measure in set(table["measure"])]
    names = ["Method", metric_title(SEPARATED[1]), *(TITLES[measure] for measure in measures), "n"]
    incomplete = {dataset: incomplete_methods(results, dataset) for dataset in results.datasets}
    rows, headings = [], []
    of_page = table[~table["measure"].isin(set(TITLES) - set(SHOWN))]
    for (dataset, method), group in of_page.groupby(["dataset", "method"], sort=False):
        if not method:
            lines = _correlated(group, names)
        else:
            planned = results.seeds if method in incomplete[dataset] else None
            row = dict.fromkeys(names, MISSING) | {"Method": results.methods[method]}
            row |= dict(_cell(measured) for _, measured in group.dropna(subset=["measure"]).iterrows())
            row |= {"n": counts(group["n"], planned)}
            if group["failure"].iloc[0]:
                row |= dict.fromkeys(names[1:]) | {names[1]: failed(group["failure"].iloc[0], len(names) - 1)}
            lines = [row]
        rows += lines
        headings += [results.datasets[dataset]] * len(lines)
    return presented(rows, headings, names)


def correlations(results: Results, dataset: str) -> dict[str, dict[str, float]]:
    """Measure -> Pearson's r with P@1 over the means of the methods that train, its 95% interval and their number n.

    By Fisher's z. Of fewer than three methods, and of a measure that is the same for all, there is no r (NaN).
    """
    values = _values(results, dataset)
    means = {name: of_methods.mean().reindex(list(results.trained_methods)) for name, of_methods in values.items()}
    accuracy = means.pop(SEPARATED[1], pd.Series(dtype=float))
    return {measure: _correlation(of_methods, accuracy) for measure, of_methods in means.items()}


def shown(mean: float, half_width: float = math.nan) -> str:
    """A measure of geometry, with its interval where there is one."""
    if math.isnan(mean):
        return MISSING
    text = number(float(f"{mean:.3f}")) if abs(mean) >= 1000 else f"{mean:.3f}".replace("-", MINUS)
    return text if math.isnan(half_width) else f"{text} ± {half_width:.3f}"


def _values(results: Results, dataset: str) -> dict[str, pd.DataFrame]:
    """P@1 and every measure: seeds x methods."""
    found = {measure: per_seed(results, dataset, "training", measure) for measure in TITLES}
    values = {SEPARATED[1]: per_seed(results, dataset, *SEPARATED)} | found
    return {measure: of_methods for measure, of_methods in values.items() if not of_methods.empty}


def _correlation(measure: pd.Series, accuracy: pd.Series) -> dict[str, float]:
    pairs = pd.concat([measure, accuracy], axis=1).dropna().to_numpy(dtype=float)
    if len(pairs) < 3 or any(np.ptp(column) <= 1e-9 * np.abs(column).max() for column in pairs.T):
        return {"r": math.nan, "low": math.nan, "high": math.nan, "n": len(pairs)}
    found = stats.pearsonr(*pairs.T)
    # Fisher's z of three pairs has an infinite standard error.
    low, high = found.confidence_interval(0.95) if len(pairs) > 3 else (-1.0, 1.0)
    return {"r": float(found.statistic), "low": float(low), "high": float(high), "n": len(pairs)}


def _cell(measured: pd.Series) -> tuple[str, str]:
    """The column of a measure of a method, and what stands in it."""
    if measured["measure"] == SEPARATED[1]:
        return metric_title(SEPARATED[1]), percent(measured["mean"], measured["half_width"])
    return TITLES[measured["measure"]], shown(measured["mean"], measured["half_width"])


def _correlated(group: pd.DataFrame, names: list[str]) -> list[dict]:
    """The rows of r, of its interval, and of the published one."""
    of = group["published_of"].iloc[0]
    titles = {"ours": "r with P@1", "interval": "its 95% interval", "published": f"published r, {of}"}
    rows = {key: dict.fromkeys(names, MISSING) | {"Method": title} for key, title in titles.items()}
    for _, row in group.iterrows():
        column = TITLES[row["measure"]]
        rows["ours"][column] = correlation(row["r"])
        rows["interval"][column] = correlation(row["low"], row["high"])
        rows["published"][column] = correlation(row["published_r"])
    rows["ours"]["n"] = counts(group["n"])
    return list(rows.values())


def correlation(*values: float) -> str:
    """A correlation as "−0.80", or an interval of them as "−0.92 to −0.53"."""
    if any(map(math.isnan, values)):
        return MISSING
    return " to ".join(f"{value:.2f}" for value in values).replace("-", MINUS)
