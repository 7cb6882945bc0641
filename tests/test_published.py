"""The paper's numbers in our names: names, completeness, known cells, and what the recovered scores must satisfy."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from dml import plugins

FOLDER = Path(__file__).parent.parent / "workflow" / "published" / "reality_check"
DATASETS = {"cub200", "cars196", "sop"}
METHODS = set(plugins.names("methods"))


def read(name):
    with open(FOLDER / name, newline="") as file:
        return list(csv.DictReader(file))


def search_of(row):
    return row["dataset"], row["setting"], row["method"]


def grouped(name):
    groups = defaultdict(list)
    for row in read(name):
        groups[search_of(row)].append(row)
    return groups


def test_names_are_ours():
    for name in ("results.csv", "hyperparameters.csv", "trials.csv", "scores.csv", "model.csv"):
        for row in read(name):
            assert row["dataset"] in DATASETS and row["setting"] in {"batch32", "batch256"}, (name, row)
            assert row["method"] in METHODS, (name, row)
    assert {row["metric"] for row in read("results.csv")} == {"precision_at_1", "r_precision", "map_at_r"}


@pytest.mark.parametrize("name", ["hyperparameters.csv", "trials.csv", "model.csv"])
def test_hyperparameters_are_those_of_our_methods(name):
    for search, rows in grouped(name).items():
        ranges = set(plugins.literal("methods", search[2], "RANGES"))
        if search == ("sop", "batch32", "soft_triple"):
            ranges -= {"reg_weight"}  # the paper does not search it there
        assert {row["parameter"] for row in rows} == ranges, search


def test_scales_and_whole_numbers_are_those_of_our_methods():
    for row in read("hyperparameters.csv"):
        own = plugins.literal("methods", row["method"], "RANGES")[row["parameter"]]
        assert row["log"] == str(own.get("log", False)).lower(), row
        assert row["integer"] == str(own.get("integer", False)).lower(), row


def test_files_are_sorted_and_end_lines_as_unix_does():
    for path in sorted(FOLDER.glob("*.csv")):
        assert b"\r" not in path.read_bytes(), path
    for name in ("results.csv", "hyperparameters.csv"):
        rows = [list(row.values()) for row in read(name)]
        assert rows == sorted(rows), name
    for name in ("trials.csv", "scores.csv"):
        rows = [(*search_of(row), int(row["trial"]), row.get("parameter", "")) for row in read(name)]
        assert rows == sorted(rows), name


def test_known_cells_of_the_result_tables():
    cells = {
        (row["dataset"], row["method"], row["embedding"], row["metric"]): (row["mean"], row["half_width"])
        for row in read("results.csv")
    }
    known = {
        ("cub200", "pretrained", "concatenated", "precision_at_1"): ("51.05", ""),
        ("cub200", "contrastive", "concatenated", "precision_at_1"): ("68.13", "0.31"),
        ("cub200", "ntxent", "separated", "map_at_r"): ("19.87", "0.16"),
        ("cub200", "margin", "concatenated", "precision_at_1"): ("63.60", "0.48"),
        ("cub200", "margin_class", "separated", "r_precision"): ("29.32", "0.15"),
        ("cub200", "arcface", "separated", "map_at_r"): ("21.49", "0.16"),
        ("cub200", "snr_contrastive", "concatenated", "map_at_r"): ("25.75", "0.36"),
        ("cub200", "multi_similarity", "concatenated", "r_precision"): ("35.40", "0.12"),
        ("cub200", "multi_similarity_miner", "concatenated", "map_at_r"): ("26.52", "0.18"),
        ("cub200", "soft_triple", "separated", "precision_at_1"): ("59.94", "0.33"),
        ("cars196", "proxy_nca", "separated", "r_precision"): ("28.90", ""),
        ("cars196", "multi_similarity", "concatenated", "map_at_r"): ("28.07", ""),
        ("sop", "arcface", "concatenated", "map_at_r"): ("47.41", ""),
    }
    assert {cell: cells[cell] for cell in known} == known


def test_the_result_tables_are_complete_where_they_are_known():
    rows = read("results.csv")
    assert {row["setting"] for row in rows} == {"batch32"}
    per_dataset = {dataset: [row for row in rows if row["dataset"] == dataset] for dataset in DATASETS}
    assert {dataset: len(own) for dataset, own in per_dataset.items()} == {"cub200": 90, "cars196": 90, "sop": 14}
    for dataset in ("cub200", "cars196"):
        assert set(Counter(row["method"] for row in per_dataset[dataset]).values()) == {6}
        assert len({(row["method"], row["embedding"], row["metric"]) for row in per_dataset[dataset]}) == 90
    assert len({row["method"] for row in per_dataset["sop"]}) == 14
    assert {(row["embedding"], row["metric"]) for row in per_dataset["sop"]} == {("concatenated", "map_at_r")}
    for row in rows:
        assert 0 < float(row["mean"]) < 100 and row["source"], row
        intervals = row["dataset"] == "cub200" and row["method"] != "pretrained"
        assert bool(row["half_width"]) == intervals, row
        assert not intervals or 0 < float(row["half_width"]) < 1, row


def test_best_values_lie_in_their_ranges():
    for row in read("hyperparameters.csv"):
        low, high, best = float(row["low"]), float(row["high"]), float(row["best"])
        assert low <= best <= high, row
        assert low <= float(row["low_initial"]) < float(row["high_initial"]) <= high, row
        widened = (row["low"], row["high"]) != (row["low_initial"], row["high_initial"])
        assert widened == bool(row["widened_at_trial"]), row


def test_best_trials_are_those_of_the_trials_file():
    values = {(*search_of(r), r["trial"], r["parameter"]): r for r in read("trials.csv")}
    for row in read("hyperparameters.csv"):
        if row["method"] == "fastap" and row["setting"] == "batch32":
            continue
        trial = values[(*search_of(row), row["best_trial"], row["parameter"])]
        assert float(trial["value"]) == float(row["best"]), row
        assert trial["best_so_far"] == row["best_validation_map_at_r"], row


def test_fifty_trials_of_53_searches():
    hyperparameters = grouped("hyperparameters.csv")
    assert len(hyperparameters) == 56  # 14 methods, 3 data sets, and CUB with large batches
    searches, scores = grouped("trials.csv"), grouped("scores.csv")
    assert len(searches) == 53
    assert set(hyperparameters) - set(searches) == {(dataset, "batch32", "fastap") for dataset in DATASETS}
    assert set(scores) == set(searches) == set(grouped("model.csv"))
    for search, rows in searches.items():
        assert Counter(row["parameter"] for row in rows) == {row["parameter"]: 50 for row in hyperparameters[search]}
        assert {int(row["trial"]) for row in rows} == set(range(50))
        assert [int(row["trial"]) for row in scores[search]] == list(range(50))
        assert {row["trials"] for row in hyperparameters[search]} == {"50"}


def test_fastap_at_batch_size_32_was_a_grid():
    best = {row["dataset"]: row for row in read("hyperparameters.csv") if search_of(row)[1:] == ("batch32", "fastap")}
    assert {dataset: row["best"] for dataset, row in best.items()} == {"cub200": "17", "cars196": "27", "sop": "16"}
    grid = defaultdict(dict)
    for row in read("fastap_grid.csv"):
        grid[row["dataset"]][int(row["num_bins"])] = float(row["validation_map_at_r"])
    for dataset, values in grid.items():
        assert max(values, key=values.get) == int(best[dataset]["best"])
        missing = {2} if dataset == "sop" else set()  # off the picture
        assert set(values) == set(range(2, 33)) - missing


def test_scores_agree_with_the_best_so_far_that_the_plots_state():
    """Nothing of this entered the recovery: it knows grids of posterior means and standard errors alone."""
    trials, failed = grouped("trials.csv"), 0
    for search, rows in grouped("scores.csv").items():
        scores = np.array([float(row["validation_map_at_r"]) for row in rows])
        stated = np.array([float({r["trial"]: r for r in trials[search]}[str(t)]["best_so_far"]) for t in range(50)])
        assert np.abs(np.maximum.accumulate(scores) - stated).max() < 6e-7, search
        assert scores.min() >= 0 and all(float(row["sem"]) > 0 for row in rows)
        failed += (scores == 0).sum()
        own = {row["trial"]: row["own"] for row in trials[search]}
        one_dimensional = len({row["parameter"] for row in trials[search]}) == 1
        assert {row["origin"] for row in rows} == {"printed" if one_dimensional else "recovered"}
        for row in rows:
            assert bool(own[row["trial"]]) == one_dimensional
            if one_dimensional:
                assert float(own[row["trial"]]) == pytest.approx(float(row["validation_map_at_r"]), abs=6e-7)
    assert failed == 24
