"""Uncertainty over seeds: intervals of means, and which methods cannot be told from the best."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

SIGNIFICANCE = 0.05
_ROUNDING = 1e-12


def interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float, int]:
    """Mean, half width of its two-sided Student-t interval, and n, of n independent values.

    Half width = t_(1+level)/2, n-1 * s / sqrt(n), with s the standard deviation of n - 1 degrees of freedom: the
    interval of the Reality Check. It is NaN for n = 1, and 0 for values that are all the same.
    ValueError for no values, NaN values, or a level outside (0, 1).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("values: expected at least one number and no NaN; drop failed runs first, and list them")
    if not 0 < level < 1:
        raise ValueError(f"level: {level}; expected a share between 0 and 1, such as 0.95")
    n = len(values)
    if n == 1:
        return float(values[0]), math.nan, 1
    quantile = stats.t.ppf((1 + level) / 2, n - 1)
    return float(values.mean()), float(quantile * values.std(ddof=1) / math.sqrt(n)), n


def paired_comparison(values: pd.DataFrame, best: str | None = None) -> pd.DataFrame:
    """Every method against the best one, in pairs over the seeds that both have.

    `values` has one row per seed and one column per method, higher is better, NaN where a run is missing. `best`
    defaults to the method with the highest mean over its own seeds (of equals, the first column). The rows of the
    result are the methods in the order of the columns; its columns are

    - `n`: pairs; `difference`: mean of (method - best); `half_width`: of its 95 % Student-t interval (see `interval`),
      which is not corrected for the number of comparisons;
    - `p`: two-sided paired t-test, that is a one-sample t-test of the differences against 0. Where all differences are
      the same number, p is 1 if that number is 0 and 0 otherwise. NaN for fewer than two pairs;
    - `p_holm`: p after Holm's step-down correction (Holm 1979) for all the comparisons that have a p;
    - `tied`: not told from the best: `p_holm` >= 0.05, or fewer than two pairs.

    The best's own row has difference 0, half width 0, p NaN (it is no comparison) and is tied.
    A method without randomness is an ordinary column with the same value in every seed; the test is then the one-sample
    test of the best against that value. ValueError for an empty table, an unknown best, or a method without any value.
    """
    without_values = values.columns[values.isna().all()]
    if values.empty or len(without_values):
        missing = ", ".join(map(str, without_values)) or "any method"
        raise ValueError(f"values: no value for {missing}; expected at least one seed of every method")
    if best is None:
        best = values.mean().idxmax()
    elif best not in values.columns:
        raise ValueError(f"best: unknown method '{best}'; choose from: {', '.join(map(str, values.columns))}")

    others = [method for method in values.columns if method != best]
    compared = {method: paired(values[method], values[best]) for method in others}
    compared[best] = {"n": int(values[best].count()), "difference": 0.0, "half_width": 0.0, "p": math.nan}
    table = pd.DataFrame.from_dict(compared, orient="index").loc[list(values.columns)]

    table["p_holm"] = holm(table["p"])
    table["tied"] = ~(table["p_holm"] < SIGNIFICANCE)
    return table.rename_axis("method")


def holm(p: pd.Series) -> pd.Series:
    """p values after Holm's step-down correction (Holm 1979) for their number; NaN is no test and does not count."""
    corrected, tested = pd.Series(math.nan, index=p.index), p.notna()
    if tested.any():
        corrected[tested] = multipletests(p[tested], alpha=SIGNIFICANCE, method="holm")[1]
    return corrected


def paired(method: pd.Series, best: pd.Series) -> dict[str, float]:
    """`n`, `difference`, `half_width` and `p` of one row of `paired_comparison`; NaN where there are too few pairs."""
    pairs = pd.concat([method, best], axis=1).dropna().to_numpy(dtype=np.float64)
    differences = pairs[:, 0] - pairs[:, 1]
    if len(differences) == 0:
        return {"n": 0, "difference": math.nan, "half_width": math.nan, "p": math.nan}
    mean, half_width, n = interval(differences)
    return {"n": n, "difference": mean, "half_width": half_width, "p": _paired_p(differences, np.abs(pairs).max())}


def _paired_p(differences: np.ndarray, scale: float) -> float:
    if len(differences) < 2:
        return math.nan
    if np.ptp(differences) <= _ROUNDING * scale:
        return 1.0 if abs(differences.mean()) <= _ROUNDING * scale else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)
