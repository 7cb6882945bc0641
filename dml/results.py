"""The results of a study as tables: what the `collect` stage wrote into results/<study>/, read back and checked."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from dml import plugins
from dml.stats import interval

COLUMNS = {
    "metrics": {
        "study": str, "dataset": str, "method": str, "seed": int, "fold": int, "embedding": str, "retrieval": str,
        "metric": str, "value": float, "n_queries": int,
    },
    "trials": {
        "dataset": str, "method": str, "trial": int, "parameters": dict, "fold": int, "score": float, "best_step": int,
        "steps": int, "failure": str, "seconds": float, "device_type": str, "threads": int,
    },
    "curves": {
        "dataset": str, "method": str, "stage": str, "number": int, "fold": int, "step": int, "loss": float,
        "map_at_r": float,
    },
    "runs": {
        "dataset": str, "method": str, "seed": int, "fold": int, "trial": int, "search": str, "parameters": dict,
        "random_seed": int, "embedding_size": int, "steps": int, "best_step": int, "best_map_at_r": float,
        "seconds": float, "resumed": int, "failure": str, "commit": str, "code": str, "device_type": str, "device": str,
        "host": str, "threads": int, "peak_memory_mb": float, "peak_gpu_memory_mb": float, "python": str, "torch": str,
        "versions": str, "data": str, "test": str, "weights": str, "model": str, "embeddings": str,
        "embedding_seconds": float, "embedded_by": str, "measuring_seconds": float, "measuring_code": str,
        "measured_by": str,
    },
    "selection": {
        "dataset": str, "method": str, "seed": int, "fold": int, "step": int, "validation": float, "chosen": bool,
        "precision_at_1": float, "map_at_r": float,
    },
    "best": {
        "dataset": str, "method": str, "trial": int, "score": float, "sem": float, "parameters": dict, "edges": dict,
        "failed_trials": int, "trials": int, "ranges": dict, "failure": str, "origin": str,
    },
    "costs": {
        "dataset": str, "method": str, "stage": str, "device_type": str, "jobs": int, "hours": float,
    },
    "published": {
        "dataset": str, "embedding": str, "method": str, "metric": str, "mean": float, "half_width": float,
        "source": str, "note": str, "reason": str,
    },
}  # fmt: skip
"""Table -> column -> type of its cells. An empty cell is a missing number, an empty text or dict."""

EMBEDDINGS = ("separated", "concatenated")
HEADLINE_METRICS = ("precision_at_1", "r_precision", "map_at_r")
RANKING = ("separated", "map_at_r")
"""Methods are ranked by the mean over seeds of this embedding and metric."""


@dataclass(frozen=True)
class Results:
    """One study. The frames have the columns of `COLUMNS`; dict cells are Python values."""

    metrics: pd.DataFrame
    trials: pd.DataFrame
    curves: pd.DataFrame
    runs: pd.DataFrame
    selection: pd.DataFrame
    best: pd.DataFrame
    costs: pd.DataFrame
    published: pd.DataFrame
    study: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read results/<study>/. ValueError with one line if a file is missing or does not hold what it should."""
        frames = {name: _read_table(Path(folder) / f"{name}.csv", types) for name, types in COLUMNS.items()}
        return cls(**frames, study=_read_study(Path(folder) / "study.json"))

    @cached_property
    def datasets(self) -> dict[str, str]:
        """Name -> title, in the study's order."""
        return {entry["name"]: entry.get("title") or entry["name"] for entry in self.study["datasets"]}

    @cached_property
    def methods(self) -> dict[str, str]:
        """Name -> title, in the study's order."""
        return {entry["name"]: entry.get("title") or entry["name"] for entry in self.study["methods"]}

    @cached_property
    def runs_of_levels(self) -> dict[str, str]:
        """Name -> title of the runs of methods on the levels of factors."""
        levels = [level for factor in self.study["factors"] for level in factor["levels"]]
        return {run["name"]: run["title"] for level in levels for run in level["runs"].values()}

    @cached_property
    def titles(self) -> dict[str, str]:
        """Name -> title of everything that was run: the methods, then those on levels of factors."""
        return self.methods | self.runs_of_levels

    @cached_property
    def trained_methods(self) -> dict[str, str]:
        """Name -> title of the methods that train; the others show the trunk as it is."""
        untrained = {entry["name"] for entry in self.study["methods"] if not entry.get("trains", True)}
        return {name: title for name, title in self.methods.items() if name not in untrained}

    @cached_property
    def seeds(self) -> int:
        """How many seeds the study has; a method with a failed fold has a value for fewer."""
        return self.runs["seed"].nunique()


def per_seed(
    results: Results,
    dataset: str,
    embedding: str,
    metric: str,
    names: Sequence[str] | None = None,
    retrieval: str = "",
) -> pd.DataFrame:
    """One value for each seed (index) and method (columns, in the study's order; those without a value are left out).

    `names` are other runs, such as those on the levels of a factor; `retrieval` is one of the study's other ways.

    Separated: the mean over the seed's folds. A seed of which any fold failed has no value: the mean of the remaining
    folds would be one over other classes.
    """
    m = results.metrics
    wanted = {"dataset": dataset, "embedding": embedding, "metric": metric, "retrieval": retrieval}
    chosen = m[np.logical_and.reduce([m[key] == value for key, value in wanted.items()])]
    failed = results.runs[(results.runs["dataset"] == dataset) & (results.runs["failure"] != "")]
    incomplete = set(zip(failed["method"], failed["seed"], strict=True))
    complete = [run not in incomplete for run in zip(chosen["method"], chosen["seed"], strict=True)]
    chosen = chosen.loc[pd.Series(complete, chosen.index, dtype=bool)]
    values = chosen.groupby(["seed", "method"])["value"].mean().unstack("method")
    return values.reindex(columns=[name for name in names or results.methods if name in values.columns]).sort_index()


def ranked_methods(results: Results, dataset: str) -> list[str]:
    """The study's methods, best first by `RANKING`, equals in the study's order.

    Methods of which a seed failed follow those with all seeds: which seeds are left is chance, and failures must not
    pay. Those without a value are last.
    """
    means = per_seed(results, dataset, *RANKING).mean()
    incomplete = incomplete_methods(results, dataset)
    return sorted(
        results.methods, key=lambda name: (name not in means, name in incomplete, -means.get(name, -math.inf))
    )


def incomplete_methods(results: Results, dataset: str) -> dict[str, int]:
    """The methods with a value for some but not all of the study's seeds, and for how many."""
    counts = per_seed(results, dataset, *RANKING).count()
    return {method: int(count) for method, count in counts.items() if count < results.seeds}


def best_method(results: Results, dataset: str, values: pd.DataFrame) -> str:
    """The column of `per_seed` with the highest mean; an incomplete method only where all are."""
    complete = values.drop(columns=list(incomplete_methods(results, dataset)), errors="ignore")
    return (values if complete.empty else complete).mean().idxmax()


def estimate(results: Results, method: str, values: pd.Series) -> tuple[float, float, int]:
    """Mean, half width of the 95% interval (see `dml.stats.interval`) and n of a method's values, one for each seed.

    A method that does not train and has exactly the same value in all seeds shows loaded weights: that is one
    evaluation, not several independent ones, so n is 1 and there is no interval (NaN).
    """
    values = values.dropna()
    untrained = method not in results.trained_methods
    deterministic = untrained and results.study["protocol"]["weights"] and values.nunique() == 1
    return interval(values.iloc[:1] if deterministic else values)


def failure_reason(results: Results, dataset: str, method: str) -> str:
    """Why a method has no value on a data set."""
    for table in (results.best, results.runs, results.trials):
        failed = table[(table["dataset"] == dataset) & (table["method"] == method) & (table["failure"] != "")]
        if len(failed):
            return failed["failure"].iloc[0]
    return "no result"


def metric_title(metric: str) -> str:
    """The name of a metric as papers print it."""
    if metric.startswith("recall_at_"):
        return f"Recall@{metric.removeprefix('recall_at_')}"
    return plugins.literal("metrics", metric, "TITLE", metric) if metric in plugins.names("metrics") else metric


def _read_table(path: Path, types: dict[str, type]) -> pd.DataFrame:
    try:
        text = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file: run the study's `collect` first") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path}: not a CSV table: {' '.join(str(error).split())}") from None
    missing = [column for column in types if column not in text.columns]
    if missing:
        raise ValueError(f"{path}: the column '{missing[0]}' is missing; expected: {', '.join(types)}")
    return pd.DataFrame({column: _parsed(text[column], kind, path) for column, kind in types.items()})


def _parsed(cells: pd.Series, kind: type, path: Path) -> pd.Series:
    if kind is str:
        return cells.astype(object)
    parse = {int: int, float: float, bool: {"True": True, "False": False}.__getitem__, dict: json.loads}[kind]
    empty = {int: pd.NA, float: math.nan, bool: False, dict: {}}[kind]
    try:
        values = [parse(cell) if cell else empty for cell in cells]
    except (ValueError, KeyError):
        wrong = next(cell for cell in cells if cell and not _parses(parse, cell))
        raise ValueError(f"{path}: {cells.name}: expected {kind.__name__}, not '{wrong}'") from None
    return pd.Series(values, index=cells.index, dtype={int: "Int64", float: "float64", bool: bool}.get(kind, object))


def _parses(parse: Any, cell: str) -> bool:
    try:
        parse(cell)
    except (ValueError, KeyError):
        return False
    return True


def _read_study(path: Path) -> dict[str, Any]:
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file: run the study's `collect` first") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    for key in ("study", "datasets", "methods", "factors", "retrieval", "pairs", "protocol"):
        if key not in study:
            raise ValueError(f"{path}: the key '{key}' is missing: run `collect` again")
    return study
