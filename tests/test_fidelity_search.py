"""The check of our search against the paper's response surfaces: its surfaces, regrets and table are right."""

import numpy as np
import pytest

from dml.search import Range
from dml.seeds import generator
from fidelity.search import (
    Outcome,
    Search,
    arrived_at,
    chosen_so_far,
    compare,
    extremes,
    load_searches,
    our_searches,
    papers_surface,
    random_searches,
    refitted_surface,
    summary,
    surface_of,
    to_unit,
    whole_steps,
)

LIMIT = 0.01
"""Below this regret, a point of MAP@R, a search has found the best setting for every practical purpose."""


@pytest.fixture(scope="module")
def searches():
    return {search.names: search for search in load_searches()}


def made_up(score, dimensions=2, trials=50, noise=0.0, **range_options):
    """A search of random trials with known scores."""
    rng = generator("made up", dimensions)
    points = rng.random((trials, dimensions))
    low_high = {"low": 0, "high": 1} | range_options
    return Search(
        "d", "s", "m", {f"h{k}": Range(**low_high) for k in range(dimensions)}, points,
        score(points) + rng.normal(0, noise, trials), np.full(trials, 0.01), np.full(dimensions, 0.4), 0.1, 0.3,
    )  # fmt: skip


def hill(points):
    return 0.4 - 0.3 * ((points - 0.6) ** 2).sum(axis=1)


def test_all_searches_load_with_trials_in_their_ranges(searches):
    assert len(searches) == 53
    for names, search in searches.items():
        assert search.points.shape == (50, len(search.ranges)), names
        assert search.points.min() >= 0 and search.points.max() <= 1, names
        assert search.scores.shape == search.sems.shape == (50,) and search.scores.max() < 0.5, names


@pytest.mark.parametrize(
    "names, values, mean, sd",
    [
        (("cub200", "batch32", "contrastive"), {"pos_margin": -0.2, "neg_margin": -0.2}, 0.0397438527, 0.0649867681),
        (("cub200", "batch32", "contrastive"), {"pos_margin": 1.1469387755102043, "neg_margin": 0.6979591836734695},
         0.2299961051, 0.0482161821),
        (("sop", "batch32", "soft_triple"), {"loss_lr": 0.004714866363457394, "la": 81.63857142857144},
         0.3539336957, 0.0236143664),
        (("sop", "batch32", "soft_triple"), {"loss_lr": 1.67683293681101e-05, "gamma": 100.0},
         0.3639690443, 0.0419075580),
    ],
)  # fmt: skip
def test_the_papers_surface_is_that_of_its_plots(searches, names, values, mean, sd):
    """Values read from the plots' grids. The hyperparameters that are not named are at the mean of their trials."""
    search = searches[names]
    trials = {
        name: from_unit(searched, search.points[:, k]).mean()
        for k, (name, searched) in enumerate(search.ranges.items())
    }
    point = np.array([to_unit(search.ranges, trials | values)])
    surface = papers_surface(search)
    assert surface(point)[0] == pytest.approx(mean, abs=1e-7)
    across = kernel(point, search)
    covariance = kernel(search.points, search) + np.diag((search.sems / search.signal) ** 2)
    variance = search.signal**2 * (1 - across @ np.linalg.solve(covariance, across.T))
    assert variance[0, 0] ** 0.5 == pytest.approx(sd, abs=1e-7)


def from_unit(searched, shares):
    low, high = (np.log10([searched.low, searched.high])) if searched.log else (searched.low, searched.high)
    values = low + shares * (high - low)
    return 10**values if searched.log else values


def kernel(points, search):
    """Matern 5/2, written another way."""
    from sklearn.gaussian_process.kernels import Matern

    return Matern(search.lengthscales, nu=2.5)(points, search.points)


def test_a_refitted_surface_is_the_function_behind_the_scores():
    surface = refitted_surface(made_up(hill, noise=0.002))
    points = generator("between").uniform(0.1, 0.9, (200, 2))
    assert np.abs(surface(points) - hill(points)).max() < 0.005
    assert surface.noise == pytest.approx(0.002, rel=0.5)
    assert surface.error == pytest.approx(0.002, rel=1)


def test_left_out_errors_are_those_of_fits_without_the_trial(searches):
    search = searches["cub200", "batch32", "proxy_nca"]
    errors = []
    for trial in np.argsort(-search.scores)[:15]:
        kept = np.arange(50) != trial
        fields = {"points": search.points[kept], "scores": search.scores[kept], "sems": search.sems[kept]}
        without = papers_surface(Search(**(vars(search) | fields)))
        errors.append(search.scores[trial] - without(search.points[trial][None])[0])
    assert papers_surface(search).error == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)


def test_extremes_are_found_also_between_candidates_and_on_an_edge():
    search = made_up(lambda points: points.sum(axis=1))
    low, high = extremes(lambda points: -(((points - [0.123456, 1.2]) ** 2).sum(axis=1)), search, candidates=64)
    assert high == pytest.approx(-0.04, abs=1e-6)
    assert low < -1


def test_whole_numbers_are_equally_likely():
    ranges = {"bins": Range(low=2, high=5, integer=True)}
    shares = whole_steps(ranges, np.linspace(0, 1, 4001)[:, None])
    values, counts = np.unique(shares, return_counts=True)
    assert values == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert np.abs(counts - 1000).max() <= 1


def test_choosing_is_by_what_was_seen():
    values, seen = np.array([[0.3, 0.2, 0.5, 0.4]]), np.array([[0.2, 0.3, 0.3, 0.6]])
    assert chosen_so_far(values).chosen.tolist() == [[0.3, 0.3, 0.5, 0.5]]
    assert chosen_so_far(values, seen).chosen.tolist() == [[0.3, 0.2, 0.2, 0.4]]


def test_arriving_means_staying():
    regrets = np.array([[0.0, 0.5, 0.1, 0.0], [0.5, 0.5, 0.5, 0.5]])
    assert arrived_at(regrets, 0.1) == 3
    assert arrived_at(regrets[1:], 0.1) is None


@pytest.mark.parametrize("names", [("cub200", "batch32", "triplet"), ("cars196", "batch32", "normalized_softmax")])
def test_our_search_beats_random_search(searches, names):
    search = searches[names]
    surface = refitted_surface(search)
    _, high = extremes(surface, search)
    short = Search(**(vars(search) | {"scores": search.scores[:20]}))  # 20 trials
    ours = high - our_searches(surface, short, "refitted", 0.0, 1).chosen[:, -1].mean()
    random = high - random_searches(surface, short, "refitted", 0.0).chosen[:, -1].mean()
    assert -1e-6 <= ours <= min(random, LIMIT)


@pytest.mark.parametrize("kind", ["noisy", "paper's"])
def test_a_row_of_the_table(searches, kind):
    search = searches["sop", "batch32", "triplet"]
    row = compare(search, kind, 1)
    assert (row["dataset"], row["hyperparameters"], row["records"]) == ("sop", 1, 6)
    for who in ("ours", "random", "paper"):
        assert 0 <= row[f"{who}_relative_regret"] <= 1
        assert 0 <= row[f"{who}_regret"] <= row["highest"] - row["lowest"]
    assert 0 <= row["ours_repeats"] < 50
    surface = surface_of(search, kind)
    assert row["highest"] >= surface(search.points).max() - 1e-6
    text = summary([row], seeds=1)
    assert f"## Each surface: {kind}" in text and "| sop | batch32 | triplet |" in text
    assert isinstance(chosen_so_far(surface(search.points)[None]), Outcome)
