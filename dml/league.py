"""All methods of all studies on one scale: `python -m dml.league results/STUDY ... --output reports/league`.

Studies share a table where they measured the same thing in the same way: the same images, the same protocol, the same
code. How much was searched, and how often a training was repeated, may differ: the table says it of each method.
"""

import argparse
import csv
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from dml import plugins
from dml.protocol import Weights
from dml.results import (
    EMBEDDINGS,
    RANKING,
    Results,
    estimate,
    failure_reason,
    metric_title,
    per_seed,
)
from dml.seeds import generator
from dml.tabulation import (
    MISSING,
    Cell,
    counts,
    failed,
    number,
    percent,
    plain,
    presented,
    write_csv,
    write_latex,
    write_markdown,
)

TITLE = "League"
CAPTION = (
    "Percent, mean over n seeds ± half width of the 95% Student-t interval, sorted by separated MAP@R. Ranks: those "
    "that the method takes in 95% of all repetitions with other seeds, by a bootstrap that keeps together the seeds "
    "that methods share; none with a single seed. Where n is, say, 2 of 3, a seed failed: such a method stands below "
    "the others and has no rank. Claimed: the P@1 that the method's paper reports on this data set, or on CUB-200-2011 "
    "where this is none of the benchmarks, mostly with another trunk, dimension and protocol, often of the epoch that "
    "was best on the test classes; ?: another paper's number of the method as a baseline, or sources disagree. "
    "Setting: where the hyperparameters come from."
)
METRICS = ("map_at_r", "precision_at_1")
FREE = ("trials", "sobol_trials", "trials_per_round", "seeds", "seed", "batch_part")
"""Keys of a protocol that may differ: how much is searched, what is repeated, in which parts a batch is computed."""
CODE = {"code": "training code", "measuring_code": "measuring code"}
IMAGES = {"data": "trainval images", "test": "test images"}
FEW = 3
"""A table's heading names no more keys of its protocol than it takes, but so many."""
DRAWS = 10_000
LEVEL = 0.95
CLAIMS = Path(__file__).parents[1] / "workflow" / "published" / "claims.csv"
AS_IN_CLAIMS = {
    "claimed_as_printed": "precision_at_1", "claimed_backbone": "backbone", "claimed_dimension": "dimension",
    "claim_source": "source", "claim_doubt": "doubt", "claim_note": "note",
}  # fmt: skip
"""Column of the league -> the column of claims.csv whose text it has."""
NEAREST_BENCHMARK = "cub200"
OFFICIAL = {"sop": "sop_official"}
"""Data set -> the split of the same images that papers report."""


@dataclass(frozen=True)
class Entry:
    """A method of a study on a data set."""

    study: str
    method: str
    file: str | None
    """Of dml/methods/; None for a loss of pytorch-metric-learning."""
    title: str
    trains: bool
    setting: str
    root: int
    """The study's seed, from which all its draws derive."""
    seeds: int
    failure: str
    values: dict[tuple[str, str], pd.Series]
    """(embedding, metric) -> the value of each seed."""
    estimates: dict[tuple[str, str], tuple[float, float, int]]
    embedding_size: int | None

    @property
    def complete(self) -> bool:
        """Whether every seed has a value."""
        return RANKING in self.values and len(self.values[RANKING]) == self.seeds

    @property
    def mean(self) -> float:
        """What methods are ranked by."""
        return self.estimates[RANKING][0] if RANKING in self.estimates else -math.inf


@dataclass(frozen=True)
class League:
    """Entries that may stand in one table."""

    dataset: str
    title: str
    heading: str
    """Its title, and what tells it from other leagues of the same title."""
    shared: dict[str, str]
    """What is the same for all entries, in words: protocol, images, code."""
    entries: list[Entry]


def leagues(studies: Sequence[Results]) -> list[League]:
    """One league for each data set and protocol, in the order of the studies; within it, best entry first."""
    groups: dict[tuple, list[tuple[Results, str]]] = {}
    for results in studies:
        for dataset in results.datasets:
            same = _shared(results, dataset)
            groups.setdefault((results.datasets[dataset], *same.items()), []).append((results, dataset))
    described = [(title, dict(same), found) for (title, *same), found in groups.items()]
    found = []
    for title, same, members in described:
        others = [of_other for other, of_other, _ in described if other == title]
        entries = _without_repetitions([e for results, name in members for e in _entries(results, name)])
        heading = ": ".join([title, *_differences(same, others)])
        found.append(League(members[0][1], title, heading, same, sorted(_told_apart(entries), key=_place)))
    return found


def rank_ranges(values: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """The lowest and the highest rank that each column has in 95 % of the repetitions: columns `low` and `high`.

    `values` has a row for each seed, NaN where a method lacks it. A repetition weighs the seeds anew, the same for all
    methods: the Bayesian bootstrap (Rubin 1981). Its means are spread by a factor that depends on the number of seeds,
    so that 95 % of a method's lie within its Student-t interval: with few seeds those of any bootstrap are too close
    together. A method of a single seed has no range; others are ranked with it as it is.
    """
    known = values.notna().to_numpy(dtype=np.float64)
    n = known.sum(axis=0)
    weights = rng.standard_exponential((DRAWS, len(values)))
    filled, centre = values.fillna(0.0).to_numpy(), values.mean().to_numpy()
    spread = np.zeros(len(n))
    several = n > 1
    quantile = stats.t.ppf((1 + LEVEL) / 2, n[several] - 1) / stats.norm.ppf((1 + LEVEL) / 2)
    spread[several] = quantile * np.sqrt((n[several] + 1) / (n[several] - 1))
    means = centre + spread * ((weights @ filled) / (weights @ known) - centre)
    ranks = stats.rankdata(-means, method="min", axis=1)
    low = np.percentile(ranks, 100 * (1 - LEVEL) / 2, axis=0, method="lower")
    high = np.percentile(ranks, 100 * (1 + LEVEL) / 2, axis=0, method="higher")
    found = pd.DataFrame({"low": low, "high": high}, index=values.columns).astype("Int64")
    return found.where(pd.Series(several, found.index), pd.NA)


def build(found: Sequence[League], claims: Path = CLAIMS) -> pd.DataFrame:
    """One row for each entry; values are shares in [0, 1]. `league` counts the leagues from 1."""
    claimed = read_claims(claims)
    rows = []
    for position, league in enumerate(found, 1):
        ranges = _ranges(league)
        for rank, entry in enumerate(league.entries, 1):
            row = {"league": position, "dataset": league.dataset, "study": entry.study, "method": entry.method}
            row |= {"title": entry.title, "trains": entry.trains, "setting": entry.setting}
            row |= {"n": entry.estimates[RANKING][2] if entry.values else 0, "seeds": entry.seeds}
            row |= {"complete": entry.complete}
            if entry.complete:
                own = ranges.loc[rank - 1]
                row |= {"rank": rank, "rank_low": own["low"], "rank_high": own["high"]}
            for (embedding, metric), (mean, half_width, _) in entry.estimates.items():
                row |= {f"{embedding}_{metric}": mean, f"{embedding}_{metric}_half_width": half_width}
            row |= {"embedding_size": entry.embedding_size, "failure": entry.failure}
            rows.append(row | claim_of(claimed, entry.file, league.dataset))
    measured = [f"{e}_{m}{kind}" for e in EMBEDDINGS for m in METRICS for kind in ("", "_half_width")]
    types = {
        "league": "Int64", "dataset": object, "rank": "Int64", "rank_low": "Int64", "rank_high": "Int64",
        "title": object, "study": object, "method": object, "trains": bool, "year": "Int64", "paper": object,
        "claimed": float, "claimed_as_printed": object, "claimed_by": object, "claimed_on": object,
        "claimed_backbone": object, "claimed_dimension": object, "claim_source": object, "claim_doubt": object,
        "claim_note": object, **dict.fromkeys(measured, float), "n": "Int64", "seeds": "Int64",
        "complete": bool, "embedding_size": "Int64", "setting": object, "failure": object,
    }  # fmt: skip
    table = pd.DataFrame(rows, columns=list(types)).astype(types)
    texts = [name for name, kind in types.items() if kind is object]
    return table.fillna(dict.fromkeys(texts, ""))


def present(table: pd.DataFrame, found: Sequence[League]) -> pd.DataFrame:
    """One row for each entry, one block for each league."""
    keys = {(e, m): (e.capitalize(), metric_title(m)) for e in EMBEDDINGS for m in METRICS}
    before = [("", name) for name in ("Method", "Rank", "Ranks", "Year", "Claimed")]
    names = [*before, *keys.values(), ("", "n"), ("", "Setting")]
    rows = []
    for _, entry in table.iterrows():
        row = {("", "Method"): Cell(entry["title"], bold=not pd.isna(entry["rank"]) and entry["rank"] == 1)}
        row |= {("", name.capitalize()): number(entry[name]) for name in ("rank", "year")}
        row |= {("", "Ranks"): _rank_range(entry)}
        row |= {("", "Claimed"): Cell(entry["claimed_as_printed"] or MISSING, mark="?" if is_doubtful(entry) else "")}
        for (embedding, metric), name in keys.items():
            column = f"{embedding}_{metric}"
            row[name] = percent(entry[column], entry[f"{column}_half_width"])
        if not entry["n"]:
            row |= dict.fromkeys(keys.values())
            row[next(iter(keys.values()))] = failed(entry["failure"], len(keys))
        planned = None if entry["complete"] or not entry["n"] else entry["seeds"]
        rows.append(row | {("", "n"): counts(pd.Series([entry["n"]]), planned), ("", "Setting"): entry["setting"]})
    return presented(rows, [found[position - 1].heading for position in table["league"]], names)


def is_doubtful(entry: pd.Series) -> bool:
    """Whether what is claimed is not the method's own paper's, or may not be."""
    return entry["claimed_by"] not in ("", entry["paper"]) or entry["claim_doubt"] != ""


def read_claims(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """(file of dml/methods/, data set) -> what was claimed; the data set is empty where nothing was claimed."""
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["method"], row["dataset"]): row for row in csv.DictReader(file)}


def claim_of(claims: Mapping[tuple[str, str], Mapping[str, str]], file: str | None, dataset: str) -> dict[str, Any]:
    """What was claimed of a method on the data set, or on the nearest benchmark where it is none."""
    papers = [row for (method, _), row in claims.items() if method == file]
    if not papers:
        return {"year": pd.NA}
    paper = f"{papers[0]['title']}, {papers[0]['venue']} {papers[0]['year']}"
    own = benchmark_of(dataset)
    place = own if any(of == own for _, of in claims) else NEAREST_BENCHMARK
    row = claims.get((file, place), {})
    known = {"year": int(papers[0]["year"]), "paper": paper}
    if not row:
        return known
    known |= {"claimed": float(row["precision_at_1"]) / 100, "claimed_on": place, "claimed_by": row["by"] or paper}
    return known | {column: row[of_claims] for column, of_claims in AS_IN_CLAIMS.items()}


def benchmark_of(dataset: str) -> str:
    """What `dataset` in claims.csv is called for the same images."""
    return OFFICIAL.get(dataset, dataset)


def dataset_title(name: str) -> str:
    """The title of a data set of claims.csv."""
    return plugins.literal("datasets", name, "TITLE")


def write(studies: Sequence[Results], output: Path, claims: Path = CLAIMS) -> None:
    """Tables (CSV, Markdown, LaTeX), figures (SVG, PDF) and one page."""
    from dml.league_page import draw, render
    from dml.plotting import save

    found = leagues(studies)
    table = build(found, claims)
    cells = present(table, found)
    for folder in ("tables", "figures"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    write_csv(table, output / "tables" / "league.csv")
    write_markdown(TITLE, CAPTION, cells, output / "tables" / "league.md")
    write_latex(TITLE, CAPTION, cells, output / "tables" / "league.tex")
    drawings = []
    for position, league in enumerate(found, 1):
        stem = output / "figures" / f"{position}_{league.dataset}"
        save(draw(table[table["league"] == position]), stem)
        drawings.append(stem.with_suffix(".svg").read_text(encoding="utf-8"))
    (output / "index.html").write_text(render(studies, found, table, cells, drawings), encoding="utf-8")


def main() -> None:
    """Put the methods of finished studies into one table for each data set and protocol."""
    parser = argparse.ArgumentParser(prog="python -m dml.league", description=main.__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="the studies' folders: results/NAME")
    parser.add_argument("--output", type=Path, default=Path("reports/league"), help="a folder (reports/league)")
    parser.add_argument("--claims", type=Path, default=CLAIMS, help="what the methods' papers claimed (.csv)")
    arguments = parser.parse_args()
    try:
        write(_finished(arguments.results), arguments.output, arguments.claims)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"league: {arguments.output / 'index.html'}")


def _finished(folders: Sequence[Path]) -> list[Results]:
    """The results of the studies that have some. ValueError if none has, or if two folders hold the same study."""
    finished = [folder for folder in dict.fromkeys(folders) if (folder / "metrics.csv").is_file()]
    for folder in folders:
        if folder not in finished:
            print(f"left out: {folder}: no metrics.csv: not finished, or no study's folder", file=sys.stderr)
    if not finished:
        raise ValueError("no finished study among the folders: name them, such as results/*")
    studies = [Results.load(folder) for folder in finished]
    names = [results.study["study"] for results in studies]
    for name, folder in zip(names, finished, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"{folder}: the study '{name}' is named twice: keep one of its folders")
    return studies


def _shared(results: Results, dataset: str) -> dict[str, str]:
    """What entries of one league have in common, in words; where it differs they are not comparable."""
    protocol = dict(results.study["protocol"])
    weights = protocol.get("weights")
    protocol["weights"] = Weights.check(weights, "weights").identity() if weights else None
    r = results.runs
    runs = r[(r["dataset"] == dataset) & r["method"].isin(list(results.methods))]
    facts = {title: _the_only(runs[column]) for column, title in (IMAGES | CODE).items()}
    return {key: plain(value) for key, value in protocol.items() if key not in FREE} | facts


def _the_only(values: pd.Series) -> str:
    return ", ".join(sorted({str(value)[:12] for value in values})) or "none"


def _differences(same: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> list[str]:
    """What tells a league from the others of its data set, in a few words: nothing where there is no other."""
    told = [key for key in same if any(other.get(key) != same[key] for other in others)]
    if not told:
        return []
    few = told if len(told) <= FEW else _telling(same, [other for other in others if other != same], told)
    return [", ".join(f"{key} {same[key]}" for key in few) + (" and more" if len(few) < len(told) else "")]


def _telling(same: Mapping[str, str], others: Sequence[Mapping[str, str]], told: Sequence[str]) -> list[str]:
    """Some of the keys, which are enough to tell a league from all others: each as many as it can."""
    chosen = []
    while others:
        chosen.append(max(told, key=lambda key: sum(other.get(key) != same[key] for other in others)))
        others = [other for other in others if other.get(chosen[-1]) == same[chosen[-1]]]
    return chosen


def _entries(results: Results, dataset: str) -> list[Entry]:
    found = {(e, m): per_seed(results, dataset, e, m) for e in EMBEDDINGS for m in METRICS}
    described = {entry["name"]: entry for entry in results.study["methods"]}
    entries = []
    for method, title in results.methods.items():
        values = {key: of_methods[method].dropna() for key, of_methods in found.items() if method in of_methods}
        values = {key: of_method for key, of_method in values.items() if len(of_method)}
        r = results.runs
        runs = r[(r["dataset"] == dataset) & (r["method"] == method) & (r["failure"] == "")]
        entries.append(
            Entry(
                study=results.study["study"],
                method=method,
                file=described[method].get("file"),
                title=title,
                trains=method in results.trained_methods,
                setting=_setting(results, dataset, method),
                root=results.study["protocol"].get("seed", 0),
                seeds=results.seeds,
                failure="" if values else failure_reason(results, dataset, method),
                values=values,
                estimates={key: estimate(results, method, of_method) for key, of_method in values.items()},
                embedding_size=int(runs["embedding_size"].iloc[0]) if len(runs) else None,
            )
        )
    return entries


def _setting(results: Results, dataset: str, method: str) -> str:
    """Where the hyperparameters of a method come from."""
    b = results.best
    own = b[(b["dataset"] == dataset) & (b["method"] == method)]
    if own.empty or method not in results.trained_methods:
        return MISSING
    trials, origin = own["trials"].iloc[0], own["origin"].iloc[0]
    if origin != "search":
        return origin
    return f"{trials} trials" if own["ranges"].iloc[0] else "nothing to search"


def _without_repetitions(entries: Sequence[Entry]) -> list[Entry]:
    """Each method once where studies have it with the same values: then they are the same runs, or loaded weights.

    The entry with more seeds stays, of equals the first. An entry with other values is another setting, or other draws:
    it stands beside the first.
    """
    kept: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: -entry.seeds):
        if not any(_is_repetition(entry, other) for other in kept):
            kept.append(entry)
    return [entry for entry in entries if entry in kept]


def _is_repetition(entry: Entry, other: Entry) -> bool:
    if (entry.method, entry.file) != (other.method, other.file) or set(entry.values) != set(other.values):
        return False
    return bool(entry.values) and all(
        set(values.index) <= set(other.values[key].index) and (other.values[key].loc[values.index] == values).all()
        for key, values in entry.values.items()
    )


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Entries with the same title are told apart by their studies."""
    titles = [entry.title for entry in entries]
    return [
        entry if titles.count(entry.title) == 1 else replace(entry, title=f"{entry.title} ({entry.study})")
        for entry in entries
    ]


def _place(entry: Entry) -> tuple[bool, bool, float]:
    """Failed seeds must not pay: methods with some follow those with none, and methods without a value are last."""
    return not entry.values, not entry.complete, -entry.mean


def _ranges(league: League) -> pd.DataFrame:
    """Rank ranges of the complete entries, by position: entries of one root share the draws of equal seeds."""
    ranked = [entry for entry in league.entries if entry.complete]
    if not ranked:
        return pd.DataFrame(columns=["low", "high"])
    columns = [entry.values[RANKING].rename(position) for position, entry in enumerate(ranked)]
    for column, entry in zip(columns, ranked, strict=True):
        column.index = pd.MultiIndex.from_product([[entry.root], column.index])
    values = pd.concat(columns, axis=1).sort_index()
    return rank_ranges(values, generator("league", league.title, *league.shared.values()))


def _rank_range(entry: pd.Series) -> str:
    low, high = entry["rank_low"], entry["rank_high"]
    if pd.isna(low):
        return MISSING
    return str(low) if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
