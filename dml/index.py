"""One page over all studies: `python -m dml.index reports --results results` writes reports/index.html.

A study is a folder of results/, or one of reports/ with a study's tables; every other folder of reports/ that has a
page (league, benchmarks, comparisons) is linked too. Whatever is wrong with a study is said beside its name.
"""

import argparse
import html
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from dml.files import whole
from dml.page import laid_out, template
from dml.results import Results
from dml.tables import accuracy
from dml.tabulation import Cell, listed, percent, presented

PAGE = "index.html"
OF_STUDIES = Path("tables", "accuracy.csv")
"""What the report of every study has, and no other page."""
FEW = 4
"""So many names stand in a cell; of more their number."""


@dataclass(frozen=True)
class Study:
    """What the page says of a study that has results."""

    name: str
    title: str
    description: str
    link: str
    """To its report, from the page; empty where there is none."""
    methods: list[str]
    seeds: int
    commits: str
    written: str
    """The day on which its results were written (UTC)."""
    best: pd.DataFrame
    """A row for each data set, for reading (see `dml.tabulation`)."""


@dataclass(frozen=True)
class Other:
    """A page of another kind, or a study without results that could be read, and why."""

    name: str
    title: str
    link: str
    why: str = ""


def write(reports: Path, results: Path) -> Path:
    """Write `<reports>/index.html` and give it. ValueError if there is neither folder."""
    if not reports.is_dir() and not results.is_dir():
        raise ValueError(f"{reports} and {results}: no such folders: run a study first, or name the folders")
    reports.mkdir(parents=True, exist_ok=True)
    described = [describe(name, reports, results) for name in study_names(reports, results)]
    text = template("index").render(
        studies=[
            {"about": study, "best": laid_out(study.best)}
            for study in sorted(described, key=lambda study: (study.title.casefold(), study.name))
            if isinstance(study, Study)
        ],
        unfinished=[study for study in described if isinstance(study, Other)],
        pages=other_pages(reports, results),
    )
    with whole(reports / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return reports / PAGE


def study_names(reports: Path, results: Path) -> list[str]:
    """The studies that have results, be they unfinished, or a report."""
    of_reports = [folder.name for folder in _folders(reports) if (folder / OF_STUDIES).is_file()]
    return sorted({*of_reports, *(folder.name for folder in _folders(results))})


def describe(name: str, reports: Path, results: Path) -> Study | Other:
    """A study as the page shows it; an `Other` that says why where its results cannot be read."""
    folder = results / name
    try:
        if not folder.is_dir():
            raise ValueError(f"only its report is here: there are no results in {folder}")
        if not (folder / "metrics.csv").is_file():
            raise ValueError(_unfinished(folder))
        return _study(name, _link(reports, name), Results.load(folder), folder)
    # Whatever is in a folder, the other studies are to be found: what is wrong with it stands on the page.
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"its results could not be read: {type(error).__name__}: "
        return Other(name, _title(reports, name), _link(reports, name), kind + " ".join(str(error).split()))


def other_pages(reports: Path, results: Path) -> list[Other]:
    """The pages in folders of `reports` that are no study's."""
    studies = study_names(reports, results)
    names = [folder.name for folder in _folders(reports) if folder.name not in studies]
    return [Other(name, _title(reports, name), link) for name in names if (link := _link(reports, name))]


def main() -> None:
    """List all studies, with what was found and where their reports are, in one page."""
    parser = argparse.ArgumentParser(prog="python -m dml.index", description=main.__doc__)
    parser.add_argument("reports", nargs="?", type=Path, default=Path("reports"), help="the reports' folder (reports)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results' folder (results)")
    arguments = parser.parse_args()
    try:
        page = write(arguments.reports, arguments.results)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"index: {page}")


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(folder for folder in parent.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _unfinished(folder: Path) -> str:
    if not (folder / "plan.json").is_file():
        return f"{folder}: neither metrics.csv nor plan.json: no study's folder"
    return "not finished: it goes on with the command that began it"


def _study(name: str, link: str, results: Results, folder: Path) -> Study:
    written = datetime.fromtimestamp((folder / "metrics.csv").stat().st_mtime, UTC)
    return Study(
        name=name,
        title=results.study.get("title") or name,
        description=results.study.get("description") or "",
        link=link,
        methods=list(results.methods.values()),
        seeds=results.seeds,
        commits=listed(sorted(set(results.runs["commit"]))),
        written=f"{written:%Y-%m-%d}",
        best=_best(results),
    )


def _best(results: Results) -> pd.DataFrame:
    """The best method of each data set by separated MAP@R, and those that are not told from it."""
    table = accuracy.build(results)
    ranked = table[(table["embedding"] == "separated") & (table["metric"] == "map_at_r")]
    names = ["Data set", "Best method", "MAP@R", "n", "Not told from it"]
    rows = []
    for dataset, title in results.datasets.items():
        own = ranked[ranked["dataset"] == dataset]
        row = dict.fromkeys(names) | {"Data set": title}
        if own.empty:
            rows.append(row | {"Best method": Cell("no method has a result", span=len(names) - 1)})
            continue
        best, others = own[own["best"].fillna(False)].iloc[0], own[~own["best"].fillna(False)]
        row |= {"Best method": Cell(results.methods[best["method"]], bold=True), "n": str(best["n"])}
        row |= {"MAP@R": percent(best["mean"], best["half_width"])}
        rows.append(row | {"Not told from it": _rivals(results, others)})
    return presented(rows, [""] * len(rows), names)


def _rivals(results: Results, others: pd.DataFrame) -> str:
    if len(others) and others["tied"].isna().all():
        return "not tested: a single seed"
    tied = [results.methods[name] for name in others.loc[others["tied"].fillna(False), "method"]]
    return _counted(tied) or "none"


def _counted(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= FEW else f"{len(names)} others"


def _link(reports: Path, name: str) -> str:
    return f"{quote(name)}/{PAGE}" if (reports / name / PAGE).is_file() else ""


def _title(reports: Path, name: str) -> str:
    """What a page calls itself; the name of its folder where it does not, or where there is none."""
    page = reports / name / PAGE
    found = re.search(r"<title>(.*?)</title>", page.read_text("utf-8", "replace"), re.S) if page.is_file() else None
    return html.unescape(" ".join(found[1].split())) if found and found[1].strip() else name


if __name__ == "__main__":
    main()
