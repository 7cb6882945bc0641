"""Search: proposals that depend on the history alone, and the choice of the best."""

import json
import os
import subprocess
import sys

import pytest
from scipy.stats import qmc

from dml.search import Range, Tried, best, close, edges, extend_history, from_json, propose, to_json, tried

RANGES = {"margin": Range(low=-0.2, high=2), "loss_lr": Range(low=1e-6, high=1, log=True)}


def history(n, score=lambda p: -((p["margin"] - 0.7) ** 2), ranges=RANGES, **options):
    known = []
    for number in range(n):
        parameters = propose(ranges, known, number, **{"sobol_trials": 5, "per_round": 1, "seed": 1, **options})
        known.append(Tried(number, parameters, score(parameters), None, [], None))
    return known


def test_the_first_trials_are_scrambled_sobol_points():
    from dml.seeds import derive_seed

    points = qmc.Sobol(2, scramble=True, seed=derive_seed(1, "sobol") % 2**32).random(8)[:5]
    for point, t in zip(points, history(5), strict=True):
        low, high = RANGES["margin"].low, RANGES["margin"].high
        assert t.parameters["margin"] == pytest.approx(low + point[1] * (high - low))
        assert t.parameters["loss_lr"] == pytest.approx(10 ** (-6 + 6 * point[0]))


def test_the_gaussian_process_finds_a_simple_maximum():
    found = best(history(12))
    assert found.number >= 5
    assert found.parameters["margin"] == pytest.approx(0.7, abs=0.05)


def test_a_proposal_is_the_same_in_any_process_and_with_any_threads(tmp_path):
    known = history(7)
    expected = propose(RANGES, known, 7, sobol_trials=5, per_round=1, seed=1)
    script = (
        "import json, sys; from dml.search import *; import sys\n"
        "known = from_json(json.load(open(sys.argv[1])))\n"
        "r = {'margin': Range(low=-0.2, high=2), 'loss_lr': Range(low=1e-6, high=1, log=True)}\n"
        "print(json.dumps(propose(r, known[::-1], 7, sobol_trials=5, per_round=1, seed=1)))"
    )
    file = tmp_path / "history.json"
    file.write_text(json.dumps(to_json(known)))
    for threads in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", script, str(file)],
            capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": threads},
        )  # fmt: skip
        assert json.loads(answer.stdout) == expected


def test_seed_method_and_history_change_a_proposal():
    known = history(6)
    options = {"sobol_trials": 5, "per_round": 1}
    first = propose(RANGES, known, 6, seed=1, **options)
    assert propose(RANGES, known, 6, seed=1, names=("cub", "triplet"), **options) != first
    shifted = [Tried(t.number, t.parameters, 1 - t.score, None, [], None) for t in known]
    assert propose(RANGES, shifted, 6, seed=1, **options) != first
    assert propose(RANGES, [], 0, seed=2, **options) != propose(RANGES, [], 0, seed=1, **options)


def test_trials_of_a_round_differ_and_do_not_see_each_other():
    known = history(8)
    options = {"sobol_trials": 5, "per_round": 4, "seed": 1}
    eighth, ninth, eleventh = (propose(RANGES, known, n, **options) for n in (8, 9, 11))
    assert eighth != ninth != eleventh
    with_scores = [*known, Tried(8, eighth, 0.9, None, [], None)]
    assert propose(RANGES, with_scores, 9, **options) == ninth
    with pytest.raises(AssertionError):
        propose(RANGES, known[:5], 8, **options)


def test_a_round_may_straddle_the_sobol_trials():
    options = {"sobol_trials": 5, "per_round": 4, "seed": 1}
    known = history(4)
    proposals = [propose(RANGES, known, number, **options) for number in range(4, 8)]
    assert proposals[0] == history(5)[4].parameters
    assert len({tuple(p.values()) for p in proposals}) == 4


def test_whole_numbers_and_choices():
    ranges = {"bins": Range(low=2, high=32, integer=True), "pooling": Range(choices=["avg", "max"])}
    found = history(7, score=lambda p: -abs(p["bins"] - 9), ranges=ranges)
    assert all(isinstance(t.parameters["bins"], int) and 2 <= t.parameters["bins"] <= 32 for t in found)
    assert {t.parameters["pooling"] for t in found} == {"avg", "max"}


def test_nothing_to_search_is_one_empty_setting():
    assert propose({}, [], 0, sobol_trials=5, per_round=1, seed=1) == {}


def fold(k, score, failure=None, trial=0, parameters=None, code="c0de"):
    return {"fold": k, "score": score, "best_step": 10, "steps": 20, "failure": failure, "seconds": 1.0,
            "trial": trial, "parameters": parameters or {"margin": 0.5}, "curve": [],
            "made_by": {"code": code, "data": "d"},
            "provenance": {"device_type": "cpu", "threads": 2, "host": "h"}}  # fmt: skip


def test_a_trial_scores_the_mean_of_its_folds():
    t = tried(3, {}, [fold(k, s) for k, s in enumerate([0.1, 0.2, 0.3, 0.4])])
    assert t.score == pytest.approx(0.25)
    assert t.sem == pytest.approx(0.0645497, abs=1e-6)


def test_a_failed_fold_fails_the_trial_and_scores_worst():
    t = tried(3, {}, [fold(0, 0.9), fold(1, None, "diverged: loss nan")])
    assert (t.score, t.failure) == (0.0, "fold 1: diverged: loss nan")


def test_the_best_is_the_highest_and_earliest_and_never_a_failed_one():
    rows = [Tried(0, {}, 0.5, None, [], None), Tried(1, {}, 0.7, None, [], None), Tried(2, {}, 0.7, None, [], None)]
    assert best(rows).number == 1
    assert best([Tried(0, {}, 0.0, None, [], "nan"), Tried(1, {}, 0.0, None, [], None)]).number == 1
    assert best([Tried(0, {}, 0.0, None, [], "nan"), Tried(1, {}, 0.0, None, [], "nan")]).failure == "nan"


def test_history_grows_by_rounds_in_order_of_trial_and_fold():
    records = [fold(1, 0.4, trial=1), fold(0, 0.2, trial=1), fold(0, 0.1, trial=0), fold(1, 0.3, trial=0)]
    known = extend_history([], records)
    assert [(t.number, [f["fold"] for f in t.folds]) for t in known] == [(0, [0, 1]), (1, [0, 1])]
    assert from_json(json.loads(json.dumps(to_json(known)))) == known
    assert "curve" not in known[0].folds[0] and "provenance" not in known[0].folds[0]
    assert (known[0].folds[0]["device_type"], known[0].folds[0]["threads"]) == ("cpu", 2)


def test_a_closed_search_flags_edges_and_names_its_history():
    known = extend_history([], [fold(0, 0.4, parameters={"margin": 1.99, "loss_lr": 1e-3}), fold(1, 0.5)])
    closed = close("cub", "triplet", RANGES, known)
    assert closed.edges == {"margin": "high"}
    changed = extend_history([], [fold(0, 0.41, parameters={"margin": 1.99, "loss_lr": 1e-3}), fold(1, 0.5)])
    assert close("cub", "triplet", RANGES, changed).fingerprint != closed.fingerprint
    failed = close("cub", "triplet", RANGES, extend_history([], [fold(0, None, "loss nan")]))
    assert failed.failure == "every trial failed; trial 0: fold 0: loss nan"


def test_a_search_of_mixed_code_is_refused():
    known = extend_history([], [fold(0, 0.4), fold(0, 0.5, trial=1, code="other")])
    with pytest.raises(
        ValueError, match="search of triplet on cub: trial 1 was trained with other code than trial 0: delete"
    ):
        close("cub", "triplet", RANGES, known)


def test_edges_are_measured_on_the_scale_of_the_range():
    assert edges(RANGES, {"loss_lr": 1.01e-6, "margin": 0.0}) == {"loss_lr": "low"}
    assert edges(RANGES, {"loss_lr": 0.5, "margin": -0.19}) == {"margin": "low"}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"low": 1, "high": 0}, "low 1 must be below high 0"),
        ({"low": 0, "high": 1, "log": True}, "above 0"),
        ({"low": 0}, "needs low and high"),
        ({"low": 0, "high": 1, "choices": [1]}, "not both"),
        ({"low": 0.5, "high": 3, "integer": True}, "whole numbers"),
        ({"low": "0", "high": 1}, "not '0'"),
        ({"low": 0, "hihg": 1}, "unknown key 'hihg'; known keys here: low, high, log, integer, choices"),
    ],
)
def test_ranges_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        Range.check(values, "margin")
