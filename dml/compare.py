"""Two studies side by side: `python -m dml.compare results/A results/B --output reports/A_vs_B`.

What differs in protocol, methods, images and code, and how far the methods that both have are apart on the data sets
that both have: in pairs over seeds where the draws of both were the same, else by Welch's test.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from dml.protocol import Weights
from dml.report import PROVENANCE
from dml.results import (
    EMBEDDINGS,
    RANKING,
    Results,
    estimate,
    failure_reason,
    incomplete_methods,
    metric_title,
    per_seed,
    ranked_methods,
)
from dml.stats import SIGNIFICANCE, holm, paired
from dml.tabulation import (
    MINUS,
    MISSING,
    Cell,
    listed,
    number,
    p_value,
    percent,
    plain,
    presented,
    signed,
    write_csv,
    write_latex,
    write_markdown,
)

METRICS = ("map_at_r", "precision_at_1")
PROTOCOL, METHODS, DATA, CODE = "Protocol", "Methods", "Data sets", "Code and machines"
"""The parts of what may differ."""
OF_METHODS = {
    "file": "file", "trains": "trains", "images_per_class": "images per class", "ranges": "searched",
    "fixed": "constant",
}  # fmt: skip
OF_DATASETS = {
    "classes_trainval": "trainval classes", "images_trainval": "trainval images", "classes_test": "test classes",
    "images_test": "test images",
}  # fmt: skip
FINGERPRINTS = {"data": "trainval fingerprint", "test": "test fingerprint"}
DIGITS = 12
"""So many digits of a fingerprint are shown."""
SAME = 1e-12
"""Values that differ by less, relative to their size, are the same but for rounding."""
TABLES = {
    "numbers": (
        "What changed in the numbers",
        "Percent, mean over n seeds ± half width of the 95% Student-t interval; B − A in percentage points, with its "
        "95% interval. Bold: p below 0.05. p: two-sided test, corrected for the number of methods after Holm. Test: "
        "in pairs over the seeds that both have, where every fold of them had the same random seed in both; else "
        "Welch's, of two independent samples. In pairs, the difference is that of these seeds alone. None where one "
        "of them has a single seed, or both are loaded weights that do not train. Rank: by separated MAP@R among the "
        "methods with all seeds in both.",
    ),
    "changes": (
        "What changed in the study",
        "Every setting of the common methods and data sets, and every fact about what made the numbers, that differs. "
        "Where the runs of a study differ among themselves, all values stand there. Fingerprints are shortened.",
    ),
    "agreement": (
        "Agreement of the orders",
        "Kendall's tau-b of the orders by separated MAP@R, over the methods with all seeds in both: 1 for the same "
        "order, −1 for the reverse. With few methods it may be large by chance.",
    ),
}
"""Table -> title, caption."""


@dataclass(frozen=True)
class Comparison:
    """Two studies, A and B, and the tables of `TABLES`; values are shares in [0, 1]."""

    a: Results
    b: Results
    changes: pd.DataFrame
    numbers: pd.DataFrame
    agreement: pd.DataFrame

    @property
    def both(self) -> tuple[Results, Results]:
        return self.a, self.b


def compare(a: Results, b: Results) -> Comparison:
    """Everything that differs. ValueError if the studies have no data set or no method in common."""
    for what, of_a, of_b in (("data set", a.datasets, b.datasets), ("method", a.methods, b.methods)):
        if not set(of_a) & set(of_b):
            raise ValueError(
                f"the studies have no {what} in common: {', '.join(of_a)} in A, {', '.join(of_b)} in B: name others"
            )
    return Comparison(a, b, changes(a, b), numbers(a, b), agreement(a, b))


def common(of_a: Mapping[str, str], of_b: Mapping[str, str]) -> dict[str, str]:
    """What both have, name -> title, as A has it."""
    return {name: title for name, title in of_a.items() if name in of_b}


def changes(a: Results, b: Results) -> pd.DataFrame:
    """One row for each fact that differs: `part`, `of` (a method or data set), `key`, and what A and B have, in words.

    An empty cell: the study does not have that key. Weights are the same if their checksums are.
    """
    of_a, of_b = _facts(a, b, a), _facts(a, b, b)
    absent = object()
    rows = [
        [*place, *(plain(facts[place]) if place in facts else "" for facts in (of_a, of_b))]
        for place in of_a | of_b
        if of_a.get(place, absent) != of_b.get(place, absent)
    ]
    order = [PROTOCOL, METHODS, DATA, CODE]
    rows.sort(key=lambda row: order.index(row[0]))
    return pd.DataFrame(rows, columns=["part", "of", "key", "a", "b"], dtype=object)


def numbers(a: Results, b: Results) -> pd.DataFrame:
    """One row for each common data set, method, embedding and metric; methods in A's order, best first.

    `difference` is B - A (see `difference`); `p_holm` is corrected among the methods of a data set, embedding and
    metric; `tied` is empty where there is no test; ranks are those of `ranks`. Where a study has no value of a method,
    its `failure` says why.
    """
    rows = []
    for dataset in common(a.datasets, b.datasets):
        methods = [method for method in ranked_methods(a, dataset) if method in b.methods]
        ranked = ranks(a, b, dataset)
        shared = {method: shared_seeds(a, b, dataset, method) for method in methods}
        for embedding, metric in product(EMBEDDINGS, METRICS):
            found = [per_seed(results, dataset, embedding, metric) for results in (a, b)]
            for method in methods:
                row = {"dataset": dataset, "method": method, "embedding": embedding, "metric": metric}
                row |= {f"rank_{side}": ranked[side].get(method, pd.NA) for side in "ab"}
                values = [of_study[method].dropna() if method in of_study else None for of_study in found]
                for side, results, of_side in zip("ab", (a, b), values, strict=True):
                    row |= _of_side(results, dataset, method, of_side, side)
                if all(of_side is not None for of_side in values):
                    single = all(math.isnan(row[f"half_width_{side}"]) for side in "ab")
                    row |= difference(*values, shared[method], tested=not single)
                rows.append(row)
    types = {
        "dataset": object, "method": object, "embedding": object, "metric": object, "rank_a": "Int64",
        "rank_b": "Int64", "mean_a": float, "half_width_a": float, "n_a": "Int64", "mean_b": float,
        "half_width_b": float, "n_b": "Int64", "difference": float, "half_width": float, "test": object,
        "pairs": "Int64", "p": float, "failure_a": object, "failure_b": object,
    }  # fmt: skip
    texts = [name for name, kind in types.items() if kind is object]
    table = pd.DataFrame(rows, columns=list(types)).astype(types).fillna(dict.fromkeys(texts, ""))
    p_holm = table.groupby(["dataset", "embedding", "metric"])["p"].transform(holm)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", p_holm)
    tied = (p_holm >= SIGNIFICANCE).astype("boolean").where(p_holm.notna())
    table.insert(table.columns.get_loc("p_holm") + 1, "tied", tied)
    return table


def difference(a: pd.Series, b: pd.Series, shared: list[int], tested: bool = True) -> dict[str, Any]:
    """B - A of a method's values, one for each seed (the index): difference, half_width, test, pairs, p.

    Over the `shared` seeds in pairs if there are two or more (see `dml.stats.paired`), else the difference of the means
    by Welch (1947), with the Welch-Satterthwaite degrees of freedom. Without an interval or p where it is not to be
    `tested`, or where one of the samples has a single value.
    """
    pairs = [seed for seed in shared if seed in a.index and seed in b.index]
    if len(pairs) > 1:
        found = paired(b.loc[pairs], a.loc[pairs]) | {"test": "paired", "pairs": len(pairs)}
    else:
        found = welch(a.to_numpy(np.float64), b.to_numpy(np.float64)) | {"test": "Welch", "pairs": pd.NA}
    if not tested or math.isnan(found["p"]):
        found |= {"half_width": math.nan, "p": math.nan, "test": "", "pairs": pd.NA}
    return {key: found[key] for key in ("difference", "half_width", "test", "pairs", "p")}


def welch(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """`difference` of the means, `half_width` of its 95 % interval and two-sided `p`, of two independent samples.

    Two samples that do not vary differ with p = 0 or not at all with p = 1, as in `dml.stats.paired_comparison`.
    """
    found = float(b.mean() - a.mean())
    if min(len(a), len(b)) < 2:
        return {"difference": found, "half_width": math.nan, "p": math.nan}
    rounding = SAME * max(np.abs(a).max(), np.abs(b).max())
    if max(np.ptp(a), np.ptp(b)) <= rounding:
        return {"difference": found, "half_width": 0.0, "p": 1.0 if abs(found) <= rounding else 0.0}
    means = CompareMeans(DescrStatsW(b), DescrStatsW(a))
    low, high = means.tconfint_diff(alpha=SIGNIFICANCE, usevar="unequal")
    return {"difference": found, "half_width": float(high - low) / 2, "p": float(means.ttest_ind(usevar="unequal")[1])}


def shared_seeds(a: Results, b: Results, dataset: str, method: str) -> list[int]:
    """The seeds whose every fold had the same random seed in both studies."""
    of_a, of_b = (_random_seeds(results, dataset, method) for results in (a, b))
    return [seed for seed, of_folds in of_a.items() if of_folds == of_b.get(seed)]


def ranks(a: Results, b: Results, dataset: str) -> dict[str, dict[str, int]]:
    """Side (a, b) -> method -> rank by `RANKING`, equals alike, among the common methods with all seeds in both."""
    means = _means(a, b, dataset)
    return {side: means[side].rank(ascending=False, method="min").astype(int).to_dict() for side in "ab"}


def agreement(a: Results, b: Results) -> pd.DataFrame:
    """One row for each common data set: how many `methods` are ranked, and `tau`, Kendall's tau-b of their orders.

    NaN for fewer than two methods, or where all of them are equal in one study.
    """
    rows = []
    for dataset in common(a.datasets, b.datasets):
        means = _means(a, b, dataset)
        tau = float(kendalltau(means["a"], means["b"]).statistic) if len(means) > 1 else math.nan
        rows.append({"dataset": dataset, "methods": len(means), "tau": tau})
    return pd.DataFrame(rows, columns=["dataset", "methods", "tau"])


def present_numbers(comparison: Comparison) -> pd.DataFrame:
    """One row for each method, one block for each data set and embedding."""
    minus = f"B {MINUS} A"
    names = [("", "Method"), *product(("Rank", "n"), ("A", "B"))]
    names += [(metric_title(metric), name) for metric in METRICS for name in ("A", "B", minus, "p")] + [("", "Test")]
    rows, headings = [], []
    keys = ["dataset", "embedding", "method"]
    for (dataset, embedding, method), group in comparison.numbers.groupby(keys, sort=False):
        first = group.iloc[0]
        row = {("", "Method"): comparison.a.methods[method]}
        for side in "ab":
            row |= {(above, side.upper()): number(first[f"{above.lower()}_{side}"]) for above in ("Rank", "n")}
        for _, found in group.iterrows():
            above = metric_title(found["metric"])
            row |= {(above, s.upper()): percent(found[f"mean_{s}"], found[f"half_width_{s}"]) for s in "ab"}
            row |= {(above, minus): _difference_cell(found), (above, "p"): p_value(found["p_holm"])}
        rows.append(row | {("", "Test"): _test_in_words(first)})
        headings.append(f"{comparison.a.datasets[dataset]}, {embedding}")
    return presented(rows, headings, names)


def present_changes(comparison: Comparison) -> pd.DataFrame:
    """One row for each fact that differs, one block for each part of a study."""
    rows = [
        {"What": f"{row['of']}: {row['key']}" if row["of"] else row["key"]}
        | {side.upper(): row[side] or MISSING for side in "ab"}
        for _, row in comparison.changes.iterrows()
    ]
    return presented(rows, list(comparison.changes["part"]), ["What", "A", "B"])


def present_agreement(comparison: Comparison) -> pd.DataFrame:
    """One row for each data set."""
    rows = [
        {
            "Data set": comparison.a.datasets[row["dataset"]],
            "Methods": str(row["methods"]),
            "Kendall's tau": MISSING if math.isnan(row["tau"]) else f"{row['tau']:.2f}".replace("-", MINUS),
        }
        for _, row in comparison.agreement.iterrows()
    ]
    return presented(rows, [""] * len(rows), ["Data set", "Methods", "Kendall's tau"])


PRESENT = {"numbers": present_numbers, "changes": present_changes, "agreement": present_agreement}


def write(a: Results, b: Results, output: Path) -> None:
    """Tables (CSV, Markdown, LaTeX), a figure (SVG, PDF) and one page. ValueError as `compare`."""
    from dml.compare_page import draw, render
    from dml.plotting import save

    comparison = compare(a, b)
    for folder in ("tables", "figures"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    cells = {name: present(comparison) for name, present in PRESENT.items()}
    for name, (title, caption) in TABLES.items():
        stem = output / "tables" / name
        write_csv(getattr(comparison, name), stem.with_suffix(".csv"))
        write_markdown(title, caption, cells[name], stem.with_suffix(".md"))
        write_latex(title, caption, cells[name], stem.with_suffix(".tex"))
    stem = output / "figures" / "numbers"
    save(draw(comparison), stem)
    page = render(comparison, cells, stem.with_suffix(".svg").read_text(encoding="utf-8"))
    (output / "index.html").write_text(page, encoding="utf-8", newline="\n")


def main() -> None:
    """Compare two finished studies: what changed in the protocol, and what changed in the numbers."""
    parser = argparse.ArgumentParser(prog="python -m dml.compare", description=main.__doc__)
    parser.add_argument("a", type=Path, help="the folder of the first study: results/A")
    parser.add_argument("b", type=Path, help="the folder of the second: results/B")
    parser.add_argument("--output", type=Path, help="a folder (reports/A_vs_B)")
    arguments = parser.parse_args()
    output = arguments.output or Path("reports") / f"{arguments.a.name}_vs_{arguments.b.name}"
    try:
        write(Results.load(arguments.a), Results.load(arguments.b), output)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"comparison: {output / 'index.html'}")


def _facts(a: Results, b: Results, own: Results) -> dict[tuple[str, str, str], Any]:
    """(part, of, key) -> value: all that `own`, one of the two, says of the data sets and methods that both have."""
    datasets, methods = common(a.datasets, b.datasets), common(a.methods, b.methods)
    r = own.runs
    runs = r[r["dataset"].isin(list(datasets)) & r["method"].isin(list(methods))]
    facts = {(PROTOCOL, "", key): value for key, value in _protocol(own).items()}
    for entry in own.study["methods"]:
        if entry["name"] in methods:
            facts |= {(METHODS, methods[entry["name"]], key): value for key, value in _settings(entry).items()}
    for entry in own.study["datasets"]:
        if (dataset := entry["name"]) in datasets:
            of_dataset = {words: entry[key] for key, words in OF_DATASETS.items() if key in entry}
            for column, words in FINGERPRINTS.items():
                of_dataset[words] = _values(runs.loc[runs["dataset"] == dataset, column])
            facts |= {(DATA, datasets[dataset], key): value for key, value in of_dataset.items()}
    return facts | {(CODE, "", key): value for key, value in _made_by(runs).items()}


def _protocol(results: Results) -> dict[str, Any]:
    protocol = dict(results.study["protocol"])
    if weights := protocol.get("weights"):
        protocol["weights"] = Weights.check(weights, "weights").identity()
    return protocol | {"hyperparameters": results.study.get("hyperparameters", "search")}


def _settings(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to a method, each hyperparameter for itself."""
    settings = {}
    for key, words in OF_METHODS.items():
        value = entry.get(key, {})
        if isinstance(value, Mapping):
            settings |= {f"{name} ({words})": setting for name, setting in value.items()}
        else:
            settings[words] = value
    return settings


def _made_by(runs: pd.DataFrame) -> dict[str, list[str]]:
    facts = {
        title: _values(runs[column]) for column, title in PROVENANCE.items() if column not in ("versions", "torch")
    }
    # each for itself: most of them are the same, and PyTorch is one of them
    libraries = {library for versions in set(runs["versions"]) for library in versions.split(", ")}
    for name, _, version in map(lambda library: library.partition(" "), sorted(libraries)):
        facts.setdefault(name, []).append(version)
    return facts


def _values(column: pd.Series) -> list[str]:
    """What stands in a column of runs, fingerprints shortened."""
    return sorted({str(value)[:DIGITS] if _is_fingerprint(value) else str(value) for value in column.dropna()} - {""})


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, str) and len(value) > DIGITS and set(value) <= set("0123456789abcdef")


def _random_seeds(results: Results, dataset: str, method: str) -> dict[int, dict[int, int]]:
    r = results.runs
    runs = r[(r["dataset"] == dataset) & (r["method"] == method)]
    return {
        int(seed): dict(zip(of_seed["fold"], of_seed["random_seed"], strict=True))
        for seed, of_seed in runs.groupby("seed")
    }


def _means(a: Results, b: Results, dataset: str) -> pd.DataFrame:
    """By `RANKING`, columns a and b, of the common methods with all seeds in both: failures must not pay."""
    complete = {
        side: per_seed(results, dataset, *RANKING).mean().drop(list(incomplete_methods(results, dataset)))
        for side, results in (("a", a), ("b", b))
    }
    return pd.DataFrame(complete).dropna()


def _of_side(results: Results, dataset: str, method: str, values: pd.Series | None, side: str) -> dict[str, Any]:
    if values is None:
        return {f"n_{side}": 0, f"failure_{side}": failure_reason(results, dataset, method)}
    mean, half_width, n = estimate(results, method, values)
    return {f"mean_{side}": mean, f"half_width_{side}": half_width, f"n_{side}": n}


def _difference_cell(found: pd.Series) -> Cell:
    if math.isnan(found["difference"]):
        return Cell(MISSING)
    told = not pd.isna(found["tied"]) and not found["tied"]
    return Cell(signed(found["difference"], found["half_width"]), bold=told)


def _test_in_words(found: pd.Series) -> str:
    failed = [side.upper() for side in "ab" if found[f"failure_{side}"]]
    if failed:
        return f"failed in {listed(failed)}"
    return f"{found['pairs']} pairs" if found["test"] == "paired" else found["test"] or MISSING


if __name__ == "__main__":
    main()
