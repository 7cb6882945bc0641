import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dml.stats import interval, paired_comparison


def test_interval_by_hand():
    """1, 2, 3, 4: s^2 = 5/3, t(0.975, 3) = 3.182446 from printed tables."""
    mean, half_width, n = interval([1, 2, 3, 4])
    assert (mean, n) == (2.5, 4)
    assert half_width == pytest.approx(3.182446 * math.sqrt(5 / 3 / 4), abs=1e-6)


@pytest.mark.fidelity("Confidence interval", "scipy's t-test", "relative")
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_is_that_of_scipy(level, deviates):
    values = np.random.default_rng(0).normal(20, 3, 10)
    mean, half_width, n = interval(values, level)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (mean - half_width, mean + half_width, n) == pytest.approx((low, high, 10), rel=1e-12)
    deviates(abs((mean + half_width) / high - 1))


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = [
        abs(mean - 5) <= half_width for mean, half_width, _ in (interval(rng.normal(5, 2, 4)) for _ in range(4000))
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_interval_of_one_value_has_no_width():
    mean, half_width, n = interval([0.25])
    assert (mean, n) == (0.25, 1)
    assert math.isnan(half_width)


def test_interval_of_equal_values_is_0_wide():
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.0, 3)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_interval_refuses_what_is_not_a_list_of_numbers(values):
    with pytest.raises(ValueError, match="values: expected at least one number"):
        interval(values)


def test_interval_refuses_a_level_in_percent():
    with pytest.raises(ValueError, match="level: 95"):
        interval([1, 2], 95)


def runs(**columns):
    return pd.DataFrame(columns, index=pd.RangeIndex(len(next(iter(columns.values()))), name="seed"))


def test_comparison_by_scipy_and_holm_by_hand():
    rng = np.random.default_rng(2)
    seed_effect = rng.normal(0, 1, 10)
    table = runs(
        **{
            name: mean + seed_effect + rng.normal(0, 0.3, 10)
            for name, mean in zip("abcd", (20, 21, 20.8, 19), strict=True)
        }
    )
    compared = paired_comparison(table)
    assert list(compared.index) == list("abcd")
    for name in "acd":
        test = stats.ttest_rel(table[name], table["b"])
        low, high = test.confidence_interval(0.95)
        row = compared.loc[name]
        assert row["n"] == 10
        assert row["difference"] == pytest.approx(table[name].mean() - table["b"].mean(), abs=1e-12)
        assert row["difference"] - row["half_width"] == pytest.approx(low, abs=1e-12)
        assert row["difference"] + row["half_width"] == pytest.approx(high, abs=1e-12)
        assert row["p"] == pytest.approx(test.pvalue, rel=1e-9)
    assert compared["p_holm"].to_dict() == pytest.approx(holm(compared["p"].drop("b")) | {"b": math.nan}, nan_ok=True)
    best = compared.loc["b"]
    assert (best["n"], best["difference"], best["half_width"], best["tied"]) == (10, 0, 0, True)
    assert math.isnan(best["p"])


def holm(p):
    """The k-th smallest of m times m - k + 1, never below the one before it, at most 1."""
    corrected, largest = {}, 0.0
    for k, (name, value) in enumerate(p.sort_values().items()):
        largest = max(largest, min(1.0, (len(p) - k) * value))
        corrected[name] = largest
    return corrected


def test_the_correction_decides_what_is_tied():
    """d alone would differ from the best at 5 %; as one of four comparisons it does not."""
    noise = np.array([1, -1, 1, -1, 1, -1, 1, -1, 1, -1.0])
    table = runs(best=np.full(10, 5.0), a=5 - 3 + noise, b=5 - 0.8 + noise, c=5 - 0.1 + noise, d=5 - 0.78 + noise)
    compared = paired_comparison(table)
    assert compared["p"]["d"] < 0.05 < compared["p_holm"]["d"]
    assert compared["tied"].to_dict() == {"best": True, "a": False, "b": True, "c": True, "d": True}


def test_pairs_are_over_the_seeds_that_both_have():
    nan = math.nan
    table = runs(best=[5, 6, 7, nan], few=[4, nan, 6.5, 3], one=[nan, nan, 1, 1], none=[nan, nan, nan, 0])
    compared = paired_comparison(table)
    assert compared["n"].to_dict() == {"best": 3, "few": 2, "one": 1, "none": 0}
    assert compared["difference"]["few"] == pytest.approx(-0.75)
    assert compared["p"]["few"] == pytest.approx(stats.ttest_rel([4, 6.5], [5, 7]).pvalue)
    assert compared["p_holm"]["few"] == compared["p"]["few"]
    assert compared["difference"]["one"] == -6
    assert compared["tied"].tolist() == [True, True, True, True]
    assert compared.loc[["one", "none"], ["half_width", "p", "p_holm"]].isna().all(axis=None)
    assert math.isnan(compared["difference"]["none"])


def test_the_best_has_the_highest_mean_or_is_named():
    table = runs(a=[1, 2.0], b=[2, 3.0], c=[2, 3.0])
    assert paired_comparison(table)["difference"].to_dict() == {"a": -1, "b": 0, "c": 0}
    assert paired_comparison(table, best="a")["difference"].to_dict() == {"a": 0, "b": 1, "c": 1}


def test_differences_without_spread():
    values = np.array([0.71, 0.72, 0.735])
    table = runs(best=values, same=values, rounding=values * (1 - 1e-15), below=values - 0.1)
    compared = paired_comparison(table)
    assert compared["p"].drop("best").to_dict() == {"same": 1, "rounding": 1, "below": 0}
    assert compared["tied"].to_dict() == {"best": True, "same": True, "rounding": True, "below": False}
    assert compared["half_width"]["below"] == pytest.approx(0, abs=1e-12)


def test_a_method_without_randomness_is_tested_as_one_number():
    values = np.array([0.70, 0.72, 0.71, 0.74])
    compared = paired_comparison(runs(best=values, pretrained=np.full(4, 0.69)))
    assert compared["p"]["pretrained"] == pytest.approx(stats.ttest_1samp(values, 0.69).pvalue, rel=1e-9)
    both_fixed = paired_comparison(runs(best=np.full(4, 0.7), pretrained=np.full(4, 0.69)))
    assert (both_fixed["p"]["pretrained"], both_fixed["tied"]["pretrained"]) == (0, False)


def test_one_method_or_one_seed_is_tied_with_the_best():
    assert paired_comparison(runs(a=[1.0, 2.0]))["tied"].tolist() == [True]
    assert paired_comparison(runs(a=[1.0], b=[9.0]))["tied"].tolist() == [True, True]


def test_comparison_refuses_what_it_cannot_compare():
    with pytest.raises(ValueError, match="no value for b"):
        paired_comparison(runs(a=[1.0, 2.0], b=[math.nan, math.nan]))
    with pytest.raises(ValueError, match="any method"):
        paired_comparison(pd.DataFrame())
    with pytest.raises(ValueError, match="unknown method 'z'; choose from: a"):
        paired_comparison(runs(a=[1.0, 2.0]), best="z")
