"""What the study cost, by stage and method."""

import math

import pandas as pd

from dml.results import Results
from dml.tabulation import MISSING, Cell, presented

TITLE = "Cost"
CAPTION = (
    "GPU-hours are the hours of the jobs that ran on a GPU (of one that several jobs shared, each counts all of its "
    "own); core-hours are hours times threads of the jobs that ran on a CPU. Counted are training and validation, "
    "embedding and measuring; proposals of the search, packing, start-up and waiting are not, nor what a training lost "
    "when it was killed. The CSV file also has the number of jobs."
)
UNITS = {"cuda": "GPU-hours", "cpu": "Core-hours"}
STAGES = {
    "search": "Search",
    "final": "Final runs",
    "embedding": "Embedding",
    "measuring": "Measuring",
    "geometry": "Geometry",
    "checkpoints": "Checkpoints",
}
ALL = "All"


def build(results: Results) -> pd.DataFrame:
    """One row for each data set, method, stage and unit: the hours, and the number of jobs that they add up.

    The jobs of the search and of the final runs are trainings of one fold.
    """
    table = results.costs.assign(unit=results.costs["device_type"].map(UNITS))
    order = {name: n for n, name in enumerate([*results.datasets, *results.titles, *STAGES, *UNITS.values()])}
    keys = ["dataset", "method", "stage", "unit"]
    table = table.sort_values(keys, key=lambda names: names.map(order), kind="stable")
    return table[[*keys, "jobs", "hours"]].reset_index(drop=True)


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each method and one for all, one block for each data set and one for all."""
    blocks = {title: table[table["dataset"] == name] for name, title in results.datasets.items()}
    if len(blocks) > 1:
        blocks["All data sets"] = table
    names = [("", "Method"), *_columns(table)]
    rows, headings = [], []
    for heading, block in blocks.items():
        for title, own in [(title, block[block["method"] == name]) for name, title in results.titles.items()]:
            rows.append({("", "Method"): title} | _hours(own, block, names[1:]))
            headings.append(heading)
        rows.append({("", "Method"): Cell("All methods", bold=True)} | _hours(block, block, names[1:]))
        headings.append(heading)
    return presented(rows, headings, names)


def _columns(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Unit and stage, where anything ran; a sum where a unit has several stages."""
    columns = []
    for unit in UNITS.values():
        ran = set(table.loc[table["unit"] == unit, "stage"])
        stages = [title for stage, title in STAGES.items() if stage in ran]
        columns += [(unit, stage) for stage in stages] + [(unit, ALL)] * (len(stages) > 1)
    return columns


def _hours(own: pd.DataFrame, block: pd.DataFrame, columns: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The sums of one row, with as many decimals as give the block's sum four digits."""
    cells = {}
    for unit, stage in columns:
        of_unit = own[own["unit"] == unit]
        chosen = of_unit if stage == ALL else of_unit[of_unit["stage"].map(STAGES) == stage]
        total = block.loc[block["unit"] == unit, "hours"].sum()
        cells[unit, stage] = _rounded(chosen["hours"].sum(), total) if len(chosen) else MISSING
    return cells


def _rounded(hours: float, total: float) -> str:
    decimals = min(max(3 - math.floor(math.log10(total)), 0), 5)
    least = 10.0**-decimals
    return f"< {least:.{decimals}f}" if 0 < hours < least / 2 else f"{hours:.{decimals}f}"
