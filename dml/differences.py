"""How far runs of a study are from those that they are put beside, in pairs over seeds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from dml.results import Results, estimate
from dml.stats import SIGNIFICANCE, holm, paired


class Compared(NamedTuple):
    """Two runs to be compared: what tells this row from others, the values of both over seeds, and their methods."""

    place: dict[str, str]
    values: pd.Series
    base: pd.Series
    methods: tuple[str, str]


def compared(results: Results, rows: Sequence[Compared], keys: Sequence[str], families: Sequence[str]) -> pd.DataFrame:
    """Each row's place (its `keys`), and what it differs from its base: difference, half_width, n, p, p_holm, tied.

    In pairs over seeds, as in `dml.stats.paired_comparison`, but corrected after Holm among the rows that are equal in
    `families`, some of the keys. Rows without a seed in common are left out. Two runs of which each is one evaluation
    (see `dml.results.estimate`) have no interval and no test; `tied` is empty where there is no test.
    """
    rows = [row for row in rows if (row.values - row.base).notna().any()]
    found = [paired(row.values, row.base) for row in rows]
    found = pd.DataFrame(found, columns=["difference", "half_width", "n", "p"], dtype=float)
    found.loc[[_is_one_evaluation(results, row) for row in rows], ["half_width", "p"]] = math.nan
    places = pd.DataFrame([row.place for row in rows], columns=list(keys), dtype=object)
    table = pd.concat([places, found], axis=1)
    table["p_holm"] = table.groupby(list(families))["p"].transform(holm)
    table["tied"] = (table["p_holm"] >= SIGNIFICANCE).astype("boolean").where(table["p_holm"].notna())
    return table


def _is_one_evaluation(results: Results, row: Compared) -> bool:
    of_both = zip(row.methods, (row.values, row.base), strict=True)
    return all(math.isnan(estimate(results, method, values)[1]) for method, values in of_both)
