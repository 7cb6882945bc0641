"""What went wrong. Failures are listed, never dropped."""

import pandas as pd

from dml.results import Results
from dml.tabulation import MISSING, presented

TITLE = "Failures"
CAPTION = (
    "Every training that failed, with its reason. A failed fold makes its trial a failed one, which the search scores "
    "worst; a seed with a failed fold is left out of the means, and n counts the others. The CSV file names every "
    "training."
)
SHOWN = 3


def build(results: Results) -> pd.DataFrame:
    """One row for each failed fold of a trial or seed, and for each method whose search failed as a whole."""
    columns = ["dataset", "method", "stage", "trial", "seed", "fold", "failure"]
    tables = {"search": results.trials, "result of the search": results.best, "final run": results.runs}
    parts = [
        table[table["failure"] != ""].assign(stage=stage).reindex(columns=columns) for stage, table in tables.items()
    ]
    parts[1]["trial"] = pd.NA  # a search that failed as a whole has no best trial
    table = pd.concat([part.astype(object) for part in parts], ignore_index=True)
    order = {name: position for position, name in enumerate([*results.datasets, *results.titles])}
    table = table.sort_values(["dataset", "method"], key=lambda names: names.map(order), kind="stable")
    return table.astype(dict.fromkeys(("trial", "seed", "fold"), "Int64")).reset_index(drop=True)


def present(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """One row for each reason of a method and stage, one block for each data set."""
    rows, headings = [], []
    for (dataset, method, stage, reason), group in table.groupby(["dataset", "method", "stage", "failure"], sort=False):
        trainings = group["fold"].count()
        row = {"Method": results.titles[method], "Stage": stage, "Trainings": str(trainings) if trainings else MISSING}
        rows.append(row | {"Which": _which(group), "Reason": reason})
        headings.append(results.datasets[dataset])
    return presented(rows, headings, ["Method", "Stage", "Trainings", "Which", "Reason"])


def _which(group: pd.DataFrame) -> str:
    """Trials or seeds with their folds; of many the first few."""
    kind = "seed" if group["seed"].notna().any() else "trial"
    folds = group.dropna(subset=[kind]).groupby(kind)["fold"].agg(lambda numbers: ", ".join(map(str, numbers)))
    shown = [f"{kind} {number}: fold {of_run}" for number, of_run in folds.head(SHOWN).items()]
    return "; ".join(shown + [f"and {len(folds) - SHOWN} more"] * (len(folds) > SHOWN)) or MISSING
