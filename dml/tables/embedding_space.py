"""The geometry of training embeddings beside the accuracy on test classes, and how well one goes with the other."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from dml.embedding_space import TITLES
from dml.published import TRAINING
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
    "width of the 95% Student-t interval. In the paper: what it gives, where the study names a paper that has it; what "
    "makes that incomparable stands with the published accuracies. Last rows: Pearson's r of each measure and P@1 over "
    "the n methods that train, with its 95% interval (Fisher's z), and the paper's r for this data set (Roth et al., "
    "ICML 2020) over its methods without rho-regularisation; that of rho@2 over all of its methods was computed from "
    "its numbers. With few methods the interval is wide, whatever r is. The CSV file also has rho@10, without the nine "
    "largest values, and rho@-1, measured from the other side."
)
SEPARATED = ("separated", "precision_at_1")
SHOWN = ("pi_intra", "pi_inter", "pi_ratio", "rho_1", "rho_2")


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, method and measure, and for each data set, measure and correlation with P@1.

    A method's rows have `mean`, `half_width` and `n` seeds, and `published` and `published_half_width`, the paper's;
    P@1 is a share. The rows without a method have `r` with `low` and `high`, the ends of its interval, over `n`
    methods, or `published_r`, the paper's over its `n`. A method without any value has one row more: its `failure`.
    """
    rows = []
    measured = (results.metrics["embedding"] == TRAINING).any()
    for dataset in results.datasets if measured else ():
        values = _values(results, dataset)
        for method in ranked_methods(results, dataset):
            found = {measure: of_methods[method] for measure, of_methods in values.items() if method in of_methods}
            rows += _rows_of_method(results, dataset, method, found)
        place = {"dataset": dataset, "method": ""}
        rows += [place | {"measure": measure} | found for measure, found in correlations(results, dataset).items()]
        rows += [place | row for row in _published_correlations(results, dataset)]
    types = {
        "dataset": object, "method": object, "measure": object, "mean": float, "half_width": float, "n": "Int64",
        "published": float, "published_half_width": float, "r": float, "low": float, "high": float,
        "published_r": float, "failure": object,
    }  # fmt: skip
    return pd.DataFrame(rows, columns=list(types)).astype(types).fillna({"failure": ""})


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method, one more where the paper has it, then the correlations; one block for each data set."""
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
            row |= _cells(group, "mean", "half_width") | {"n": counts(group["n"], planned)}
            failure = group["failure"].max()
            if failure:
                row |= dict.fromkeys(names[1:]) | {names[1]: failed(failure, len(names) - 1)}
            published = _cells(group, "published", "published_half_width")
            lines = [row] + [dict.fromkeys(names, MISSING) | {"Method": "in the paper"} | published] * bool(published)
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


def correlation(*values: float) -> str:
    """A correlation as "−0.80", or an interval of them as "−0.92 to −0.53"."""
    if any(map(math.isnan, values)):
        return MISSING
    return " to ".join(f"{value:.2f}" for value in values).replace("-", MINUS)


def _rows_of_method(results: Results, dataset: str, method: str, found: Mapping[str, pd.Series]) -> list[dict]:
    """`found`: P@1 and every measure -> a value for each seed."""
    place, published, rows = {"dataset": dataset, "method": method}, _published(results, dataset, method), []
    for measure in (SEPARATED[1], *TITLES):
        row = place | {"measure": measure} | published.get(measure, {})
        if measure in found:
            row |= dict(zip(("mean", "half_width", "n"), estimate(results, method, found[measure]), strict=True))
        rows += [row] * (measure in found or measure in published)
    return rows if found else [*rows, place | {"failure": failure_reason(results, dataset, method)}]


def _published(results: Results, dataset: str, method: str) -> dict[str, dict[str, float]]:
    """The paper's P@1 and measures of a method; of one without measures P@1 has no place here."""
    own = results.published[(results.published["dataset"] == dataset) & (results.published["method"] == method)]
    training = own["embedding"] == TRAINING
    own = own[training | ((own["embedding"] == SEPARATED[0]) & (own["metric"] == SEPARATED[1]) & training.any())]
    return {
        row["metric"]: {"published": row["mean"], "published_half_width": row["half_width"]}
        for _, row in own.iterrows()
    }


def _published_correlations(results: Results, dataset: str) -> list[dict]:
    counterpart = results.study["counterpart"]
    return [
        {"measure": row["measure"], "published_r": row["r"], "n": row["methods"]}
        for row in (counterpart["correlations"] if counterpart else ())
        if row["dataset"] == dataset
    ]


def _values(results: Results, dataset: str) -> dict[str, pd.DataFrame]:
    """P@1 and every measure: seeds x methods."""
    found = {measure: per_seed(results, dataset, TRAINING, measure) for measure in TITLES}
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


def _cells(group: pd.DataFrame, value: str, half_width: str) -> dict[str, str]:
    """Column of the page -> what stands in it, of the measures of a method that have a value."""
    cells = {}
    for _, row in group.dropna(subset=[value]).iterrows():
        if row["measure"] == SEPARATED[1]:
            cells[metric_title(SEPARATED[1])] = percent(row[value], row[half_width])
        else:
            cells[TITLES[row["measure"]]] = shown(row[value], row[half_width])
    return cells


def _correlated(group: pd.DataFrame, names: list[str]) -> list[dict]:
    """The rows of r, of its interval, and of the paper's, one for each number of methods that it has one over."""
    published = group["published_r"].notna()
    own = dict.fromkeys(names, MISSING) | {"Method": "r with P@1", "n": counts(group.loc[~published, "n"])}
    interval = dict.fromkeys(names, MISSING) | {"Method": "its 95% interval"}
    for _, row in group[~published].iterrows():
        own[TITLES[row["measure"]]] = correlation(row["r"])
        interval[TITLES[row["measure"]]] = correlation(row["low"], row["high"])
    lines = [own, interval]
    for n, of_paper in group[published].groupby("n"):
        found = {TITLES[row["measure"]]: correlation(row["published_r"]) for _, row in of_paper.iterrows()}
        lines.append(dict.fromkeys(names, MISSING) | {"Method": "published r", "n": str(n)} | found)
    return lines
