"""Where every number comes from: one row for each final model."""

import json

import pandas as pd

from dml.results import RANKING, Results
from dml.tabulation import MISSING, Cell, failed, percent, presented

TITLE = "What made every number"
CAPTION = (
    "One row for each method and seed, its folds from the first to the last: separated MAP@R of each model on the test "
    "classes in percent, seconds of its training, and how often that went on after an interruption. The CSV file has "
    "one row for each model, and also its setting, random seed, versions, threads, memory, and the fingerprints of "
    "search, data, weights, code, model and embeddings."
)
COLUMNS = [
    "dataset", "method", "seed", "fold", "map_at_r", "trial", "search", "parameters", "random_seed", "commit", "code",
    "measuring_code", "versions", "python", "device_type", "device", "host", "threads", "seconds", "resumed",
    "embedding_seconds", "measuring_seconds", "peak_memory_mb", "peak_gpu_memory_mb", "data", "test", "weights",
    "model", "embeddings", "embedded_by", "measured_by", "failure",
]  # fmt: skip


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, method, seed and fold; `measuring_seconds` are those of all folds of the seed."""
    embedding, metric = RANKING
    m = results.metrics
    values = m[(m["embedding"] == embedding) & (m["metric"] == metric) & (m["retrieval"] == "")].rename(
        columns={"value": metric}
    )
    keys = ["dataset", "method", "seed", "fold"]
    table = results.runs.merge(values[[*keys, metric]], on=keys, how="left", validate="one_to_one")
    order = {name: n for n, name in enumerate([*results.datasets, *results.titles])}
    table = table.sort_values(keys, key=lambda c: c.map(order) if c.name in ("dataset", "method") else c, kind="stable")
    texts = [json.dumps(parameters, sort_keys=True) for parameters in table["parameters"]]
    return table.assign(parameters=texts)[COLUMNS].reset_index(drop=True)


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method and seed, one block for each data set."""
    names = ["Method", "Seed", "Trial", "MAP@R", "Seconds", "Resumed", "Commit", "Device", "Host"]
    rows, headings = [], []
    for (dataset, method, seed), folds in table.groupby(["dataset", "method", "seed"], sort=False):
        row = {"Method": results.titles[method], "Seed": str(seed), "MAP@R": _values(folds)}
        row |= {title: _distinct(folds[title.lower()]) for title in ("Trial", "Commit", "Device")}
        row |= {"Seconds": ", ".join(f"{seconds:.0f}" for seconds in folds["seconds"])}
        row |= {"Resumed": str(folds["resumed"].sum() or MISSING)}
        row |= {"Host": _distinct(folds["host"].str.split(".").str[0])}
        rows.append(row)
        headings.append(results.datasets[dataset])
    return presented(rows, headings, names)


def _values(folds: pd.DataFrame) -> str | Cell:
    reasons = folds.loc[folds["failure"] != "", "failure"]
    if len(reasons):
        return failed(reasons.iloc[0], 1)
    return ", ".join(percent(value) for value in folds["map_at_r"])


def _distinct(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(values.astype(str)))
