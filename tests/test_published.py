"""Papers' numbers in our names: names, completeness, known cells, and what the recovered scores must satisfy."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dml import embedding_space, plugins
from dml.collecting import _counterpart
from dml.metrics.recall_at_k import KS
from dml.published import Paper, correlations, given_hyperparameters, results
from dml.study import Counterpart, Study

PAPERS = Path(__file__).parent.parent / "workflow" / "published"
FOLDER = PAPERS / "reality_check"
DATASETS = {"cub200", "cars196", "sop"}
METHODS = set(plugins.names("methods"))
OF_TEST_IMAGES = (set(plugins.names("metrics")) - {"recall_at_k"}) | {f"recall_at_{k}" for k in KS}


def read(name, folder=FOLDER):
    with open(folder / name, newline="", encoding="utf-8") as file:
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


@pytest.mark.parametrize("name", ["revisiting", "strong_baseline"])
def test_rows_of_a_paper_are_of_its_settings_data_sets_and_methods(name):
    paper, rows = Paper.load(PAPERS / name / "paper.yaml"), read("results.csv", PAPERS / name)
    assert [list(row.values()) for row in rows] == sorted(list(row.values()) for row in rows)
    cells = [(row["dataset"], row["setting"], row["embedding"], row["method"], row["metric"]) for row in rows]
    assert len(set(cells)) == len(cells)
    for row in rows:
        assert row["dataset"] in paper.settings[row["setting"]].datasets and row["method"] in paper.methods, row
        own = set(embedding_space.TITLES) if row["embedding"] == "training" else OF_TEST_IMAGES
        assert row["metric"] in own and row["embedding"] in {"separated", "binary", "training"}, row
        assert 0 < float(row["mean"]) < (1.1 if row["embedding"] == "training" else 100) and row["source"], row
    for method, known in paper.methods.items():
        assert (known.file is None) == (method in METHODS), method
        settings = [(s, d) for s, setting in paper.settings.items() for d in setting.datasets]
        given = {key for place in settings for key in paper.constants_of(*place, method)}
        taken = set(plugins.constructor_arguments("methods", known.file or method))
        assert given <= taken | {"loss_lr", "loss_weight_decay"}, method


def test_known_cells_of_revisiting():
    rows = read("results.csv", PAPERS / "revisiting")
    cells = {(r["dataset"], r["method"], r["metric"]): (r["mean"], r["half_width"]) for r in rows}
    assert cells["cub200", "margin_12", "precision_at_1"] == ("63.09", "0.64")
    assert cells["cub200", "r_margin_06", "precision_at_1"] == ("64.93", "0.58")
    assert cells["cars196", "multi_similarity_miner", "precision_at_1"] == ("81.68", "0.26")
    assert cells["sop_official", "triplet_random", "precision_at_1"] == ("67.86", "0.19")
    assert cells["sop_official", "multi_similarity_miner", "nmi"] == ("90.00", "0.03")
    assert cells["cub200", "margin_12", "rho_2"] == ("0.1795", "")
    assert cells["cub200", "margin_12", "pi_ratio"] == ("0.3904", "")
    standard = [r for r in rows if r["setting"] == "standard" and r["metric"] == "precision_at_1"]
    assert Counter(r["dataset"] for r in standard) == {"cub200": 24, "cars196": 24, "sop_official": 22}
    for row in rows:
        deviation = row["note"].partition("five seeds: ")[2].partition(";")[0]
        assert bool(row["half_width"]) == bool(deviation), row
        if deviation:  # with the divisor n
            half_width = stats.t.ppf(0.975, 4) * float(deviation) * (5 / 4) ** 0.5 / 5**0.5
            assert float(row["half_width"]) == pytest.approx(half_width, abs=0.0051), row


def test_correlations_of_revisiting_are_those_of_its_numbers():
    values = defaultdict(dict)
    for row in read("results.csv", PAPERS / "revisiting"):
        if row["setting"] == "standard":
            values[row["dataset"], row["metric"]][row["method"]] = float(row["mean"])
    compared = 0
    for row in read("correlations.csv", PAPERS / "revisiting"):
        assert -1 <= float(row["correlation"]) <= 1, row
        assert {row["metric"], row["with_metric"]} <= OF_TEST_IMAGES | set(embedding_space.TITLES), row
        if row["methods"]:
            of_metric = values[row["dataset"], row["metric"]]
            of_other = values[row["dataset"], row["with_metric"]]
            regularised = int(row["methods"]) > 18
            both = sorted(set(of_metric) & set(of_other))
            names = [name for name in both if regularised or not name.startswith("r_")]
            assert len(names) == int(row["methods"]), row
            found = np.corrcoef([of_metric[n] for n in names], [of_other[n] for n in names])[0, 1]
            assert found == pytest.approx(float(row["correlation"]), abs=0.0051), row
            compared += 1
    assert compared == 15


def test_known_cells_of_strong_baseline():
    rows = read("results.csv", PAPERS / "strong_baseline")
    cells = {(r["dataset"], r["setting"], r["embedding"], r["metric"]): r["mean"] for r in rows}
    assert cells["cub200", "resnet50_512", "separated", "precision_at_1"] == "61.3"
    assert cells["cars196", "resnet50_128", "separated", "recall_at_8"] == "96.3"
    assert cells["sop_official", "bn_inception_512", "separated", "nmi"] == "89.8"
    assert cells["cub200", "googlenet_512", "separated", "recall_at_4"] == "77.6"
    assert cells["in_shop", "resnet50_2048", "binary", "recall_at_40"] == "98.94"
    assert cells["sop_official", "resnet50_2048", "separated", "recall_at_1000"] == "98.95"
    best = max(read("class_balance.csv", PAPERS / "strong_baseline"), key=lambda row: float(row["precision_at_1"]))
    assert best == {"images_per_class": "25", "classes": "3", "precision_at_1": "61.3"}


def test_claims_are_of_our_methods_and_data_sets():
    rows = read("claims.csv", PAPERS)
    assert [list(row.values()) for row in rows] == sorted(list(row.values()) for row in rows)
    places = [(row["method"], row["dataset"]) for row in rows]
    assert len(set(places)) == len(places)
    for row in rows:
        assert row["method"] in METHODS and row["title"] and 2000 < int(row["year"]) < 2030 and row["venue"], row
        assert bool(row["dataset"]) == bool(row["precision_at_1"]) == bool(row["source"]), row
        if row["dataset"]:
            assert row["dataset"] in {"cub200", "cars196", "sop_official", "in_shop"}, row
            assert 0 < float(row["precision_at_1"]) < 100, row
    claimed = {(row["method"], row["dataset"]): row["precision_at_1"] for row in rows}
    assert claimed["proxy_anchor", "cub200"] == "68.4" and claimed["margin_distance_weighted", "cars196"] == "79.6"
    assert claimed["proxy_nca_pp", "cub200"] == "72.2" and claimed["fastap", "in_shop"] == "90.9"
    papers = defaultdict(set)
    for row in rows:
        papers[row["method"]].add((row["title"], row["year"], row["venue"], row["by"]))
    assert {len(of_method) for of_method in papers.values()} == {1}


def test_claims_on_data_sets_younger_than_the_paper_are_another_papers():
    appeared = {"cub200": 2011, "cars196": 2013, "sop_official": 2016, "in_shop": 2016}
    rows = [row for row in read("claims.csv", PAPERS) if row["dataset"]]
    older = {row["method"] for row in rows if int(row["year"]) < appeared[row["dataset"]]}
    assert older == {row["method"] for row in rows if row["by"]} == {"contrastive", "triplet", "triplet_semihard"}


def test_doubts_are_of_a_number_and_not_of_a_file():
    doubts = defaultdict(set)
    for row in read("claims.csv", PAPERS):
        doubts[row["title"], row["by"], row["dataset"], row["precision_at_1"]].add(row["doubt"])
        assert row["precision_at_1"] or not row["doubt"], row
        assert "test classes" not in row["doubt"], row  # true of most papers: said once, beside the definition
        assert "doubtful" not in row["note"], row
        named = [word for word in row["note"].split() if word.endswith(".py")]
        assert named in ([], [f"{row['method']}.py"]), row
    assert {len(of_number) for of_number in doubts.values()} == {1}
    assert {title.split(":")[0] for (title, *_), of_number in doubts.items() if any(of_number)} == {
        "Deep Metric Learning to Rank",
        "Improved Deep Metric Learning with Multi-class N-pair Loss Objective",
        "Improved Embeddings with Easy Positive Triplet Mining",
        "Proxy Anchor Loss for Deep Metric Learning",
    }


def test_claims_that_stand_in_other_tables_are_the_same_there():
    revisiting = Paper.load(PAPERS / "revisiting" / "paper.yaml")
    values = defaultdict(list)
    for row in read("results.csv", PAPERS / "revisiting"):
        if row["setting"] == "standard" and row["metric"] == "precision_at_1":
            file = revisiting.methods[row["method"]].file or row["method"]
            values[file, row["dataset"]].append(row["mean"])
    taken = [row for row in read("claims.csv", PAPERS) if row["source"] == "revisiting/results.csv"]
    for row in taken:
        assert row["precision_at_1"] == max(values[row["method"], row["dataset"]], key=float), row
        assert (row["backbone"], row["dimension"]) == ("ResNet-50", "128"), row
    drawn = {f"triplet_{way}" for way in ("distance_weighted", "random", "semihard", "softhard")}
    drawn |= {"contrastive_distance_weighted", "snr_distance_weighted"}
    assert {row["method"] for row in taken} == drawn | {"r_contrastive", "r_margin", "r_snr", "r_triplet"}
    assert Counter(row["dataset"] for row in taken) == dict.fromkeys(("cub200", "cars196", "sop_official"), 10)
    softmax = {
        (row["dataset"], row["setting"]): row["mean"]
        for row in read("results.csv", PAPERS / "strong_baseline")
        if row["embedding"] == "separated" and row["metric"] == "precision_at_1"
    }
    own = {row["dataset"]: row for row in read("claims.csv", PAPERS) if row["method"] == "normalized_softmax"}
    assert len(own) == 4
    for dataset, row in own.items():
        assert row["precision_at_1"] == softmax[dataset, f"resnet50_{row['dimension']}"], row


def beside_revisiting(*methods, hyperparameters="defaults", **protocol):
    paper = Paper.load(PAPERS / "revisiting" / "paper.yaml")
    protocol = paper.protocol_of("standard", "cub200") | {"weights": None} | protocol
    values = {"title": "A study", "datasets": ["cub200"], "methods": list(methods), "protocol": protocol}
    beside = {"published": {"paper": "revisiting", "setting": "standard"}, "hyperparameters": hyperparameters}
    return Study.check(values | beside, "study.yaml")


def test_a_study_is_described_with_the_correlations_of_its_paper_and_data_sets():
    study = beside_revisiting({"name": "triplet_random"})
    found = _counterpart(study, PAPERS)["correlations"]
    assert {row["dataset"] for row in found} == {"cub200"}
    assert [(row["measure"], row["methods"], row["r"]) for row in found] == [
        ("pi_inter", 18, -0.16), ("pi_intra", 18, 0.25), ("pi_ratio", 18, 0.79), ("rho_2", 18, -0.80),
        ("rho_2", 23, -0.81),
    ]  # fmt: skip
    for paper, setting in (("revisiting", "googlenet"), ("strong_baseline", "resnet50_512")):
        other = study.model_copy(update={"published": Counterpart(paper=paper, setting=setting)})
        assert correlations(other, PAPERS) == []
    assert correlations(study.model_copy(update={"published": None}), PAPERS) == []


def reasons(study):
    """Method -> why it is not comparable, without what is true of all."""
    found = results(study, PAPERS, {"cub200": (200, 11788)})
    of_all = Paper.load(PAPERS / "revisiting" / "paper.yaml").unlike
    assert all(row["reason"].startswith(f"{of_all}; weights is none") for row in found)
    return {row["method"]: row["reason"].split("; ")[2:] for row in found}


def test_where_nothing_was_searched_constants_are_compared_wherever_a_study_has_them_from():
    margin = {"name": "margin_06", "file": "margin_distance_weighted", "images_per_class": 2}
    fixed = {"margin": 0.2, "beta": 0.6, "loss_lr": 5e-4}
    assert reasons(beside_revisiting(margin | {"fixed": fixed})) == {"margin_06": []}
    assert reasons(beside_revisiting(margin)) == {"margin_06": ["beta is 1.2, not 0.6"]}  # the default of the file
    assert reasons(beside_revisiting(margin, hyperparameters="published")) == {"margin_06": []}
    assert reasons(beside_revisiting(margin, hyperparameters="mine.yaml")) == {
        "margin_06": ["the hyperparameters are of another origin"]
    }
    assert reasons(beside_revisiting(margin | {"fixed": fixed}, hyperparameters="mine.yaml")) == {"margin_06": []}
    searched = reasons(beside_revisiting(margin, hyperparameters="search"))["margin_06"]
    assert searched == [f"{name} is searched, in the paper it was not" for name in ("beta", "loss_lr", "margin")]
    other = {"name": "margin_06", "file": "margin_class", "images_per_class": 2}
    assert reasons(beside_revisiting(other)) == {"margin_06": ["it is another method than margin_distance_weighted"]}
    pml = {"name": "margin_06", "pml_loss": {"MarginLoss": {}}, "images_per_class": 2}
    assert reasons(beside_revisiting(pml)) == {"margin_06": ["it is another method than margin_distance_weighted"]}
    assert reasons(beside_revisiting({"name": "triplet_random"})) == {
        "triplet_random": ["images_per_class is 4, not 2"]
    }


def test_the_papers_constants_can_be_taken():
    methods = [{"name": name, "images_per_class": 2} for name in ("histogram", "r_snr", "proxy_nca_classic")]
    taken = beside_revisiting(*methods, hyperparameters="published")
    assert given_hyperparameters(taken, Path("study.yaml"), PAPERS) == {
        ("cub200", "histogram"): {"num_bins": 64},
        ("cub200", "r_snr"): {"margin": 0.2, "rho": 0.3},
        ("cub200", "proxy_nca_classic"): {"loss_lr": 4e-3, "softmax_scale": 9.0},
    }
    unknown = beside_revisiting({"name": "soft_triple", "images_per_class": 2}, hyperparameters="published")
    with pytest.raises(ValueError, match="revisiting: soft_triple on cub200: no value for 'loss_lr'"):
        given_hyperparameters(unknown, Path("study.yaml"), PAPERS)


def test_measures_of_training_images_are_no_percent():
    found = results(beside_revisiting("n_pairs"), PAPERS, {"cub200": (200, 11788)})
    values = {(row["embedding"], row["metric"]): row["mean"] for row in found}
    assert values["separated", "precision_at_1"] == pytest.approx(0.6163)
    assert values["training", "rho_2"] == 0.3172


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("file: r_margin\n", "file: r_margins\n", "unknown name 'r_margins' in methods"),
        ("r_snr: {rho: 0.3}", "r_snrs: {rho: 0.3}", "constants: 'r_snrs' is none of the paper's methods"),
    ],
)
def test_slips_in_a_papers_methods_are_refused(old, new, message, tmp_path):
    text = (PAPERS / "revisiting" / "paper.yaml").read_text()
    assert old in text
    (tmp_path / "paper.yaml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        Paper.load(tmp_path / "paper.yaml")
