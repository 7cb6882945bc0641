"""Collecting the results of a study: the tables' columns and rows, and what never stands in one table."""

import copy
import csv
import json
from pathlib import Path

import pytest

from dml.collecting import collect
from dml.images import Image
from dml.protocol import Protocol
from dml.results import Results
from dml.runs import Data, run_fold
from dml.search import Range, Selected, close, to_json, tried
from dml.splits import write_folds
from dml.study import Study
from dml.trial import Trial

PAPERS = Path(__file__).parents[1] / "workflow" / "published"

COLUMNS = {
    "metrics": "study,dataset,method,seed,fold,embedding,retrieval,metric,value,n_queries",
    "trials": "dataset,method,trial,parameters,fold,score,best_step,steps,failure,seconds,device_type,threads",
    "curves": "dataset,method,stage,number,fold,step,loss,map_at_r",
    "runs": "dataset,method,seed,fold,trial,search,parameters,random_seed,embedding_size,steps,best_step,best_map_at_r,"
    "seconds,resumed,failure,commit,code,device_type,device,host,threads,peak_memory_mb,peak_gpu_memory_mb,python,torch,"
    "versions,data,test,weights,model,embeddings,embedding_seconds,embedded_by,measuring_seconds,"
    "measuring_code,measured_by",
    "selection": "dataset,method,seed,fold,step,validation,chosen,precision_at_1,map_at_r",
    "best": "dataset,method,trial,score,sem,parameters,edges,ranges,trials,failed_trials,failure,origin",
    "costs": "dataset,method,stage,device_type,jobs,hours",
    "published": "dataset,embedding,method,metric,mean,half_width,source,note,reason",
}
METHODS = ("contrastive", "pretrained")
SEEDS = 2
RANGE = {"low": -0.2, "high": 2.0}


@pytest.fixture(scope="module")
def blank(stripes_data):
    """A record as a run writes it, before anything was trained."""
    small = Protocol(trunk="convnet", resize=20, crop_size=16, embedding_size=8)
    data = Data("stripes", stripes_data.trainval, stripes_data.folds, None)
    trial = Trial(method="contrastive", images_per_class=4, parameters={})
    return run_fold(trial, small, data, 0, ("final", 0), "cpu", 1, failure="not trained yet")[1]


@pytest.fixture
def study(tmp_path):
    (tmp_path / "photos").mkdir()
    return Study.check(
        {
            "title": "A title",
            "description": "what, and why",
            "datasets": ["glyphs", {"name": "photos", "folder": str(tmp_path / "photos")}],
            "methods": [{"name": "contrastive", "fixed": {"neg_margin": 0.8}}, "pretrained"],
            "protocol": {"trunk": "convnet", "folds": 2, "seeds": SEEDS},
        },
        "study.yaml",
    )


class Made:
    """The files of a study: two data sets, two methods, two folds, two seeds, three trials, some of which fail."""

    def __init__(self, folder, blank, study):
        self.folder, self.study, self.output = folder / "results" / "s", study, folder / "collected"
        self.output.mkdir()
        self.measured, self.histories, self.best, self.folds = [], [], [], []
        for dataset in study.datasets:
            self.folds.append(self.folder / dataset.name / "folds.csv")
            self.folds[-1].parent.mkdir(parents=True)
            names = ["a"] * 2 + ["b"] * 3 + ["c"] * 4 + ["d"] * 5 + ["e"] * 6 + ["f", "g", "h", "i"]
            images = [Image("f", f"{i}.png", name) for i, name in enumerate(names)]
            write_folds(dataset.name, images, 2, self.folds[-1])
            for method in METHODS:
                self.search(dataset.name, method, blank)
                for seed in range(SEEDS):
                    self.seed(dataset.name, method, seed, blank)

    def search(self, dataset, method, blank):
        own = self.folder / dataset / method
        own.mkdir(parents=True)
        ranges = {"pos_margin": Range(**RANGE)} if method == "contrastive" else {}
        history = []
        for trial in range(3):
            folds = [
                {
                    "fold": k,
                    "score": 0.25 + 0.1 * trial + 0.02 * k,
                    "best_step": 4,
                    "steps": 8,
                    "failure": None,
                    "seconds": 1.5,
                    "made_by": blank["made_by"],
                    "provenance": {"device_type": "cuda", "threads": 2},
                }
                for k in range(2)
            ]
            if (dataset, trial) == ("photos", 2):
                folds[1] |= {"failure": 'diverged: "loss", nan', "score": None}
            history.append(tried(trial, {"pos_margin": -0.2 + trial} if ranges else {}, folds))
        self.histories.append(own / "history.json")
        self.histories[-1].write_text(json.dumps({"dataset": dataset, "method": method, "trials": to_json(history)}))
        self.best.append(own / "best.yaml")
        close(dataset, method, ranges, history).save(self.best[-1])

    def seed(self, dataset, method, seed, blank):
        trains = method == "contrastive"
        chosen = Selected.load(self.best[-1])
        failed = (dataset, method, seed) == ("photos", "contrastive", 1)
        records = []
        for k in range(2):
            record = copy.deepcopy(blank) | {
                "dataset": dataset, "method": method, "seed": seed, "fold": k, "failure": None, "seconds": 2.5,
                "resumed": [{"step": 4, "host": "another", "device": "another"}] * (k == 1),
                "trial": chosen.trial, "parameters": chosen.parameters,
                "score": 0.5 + 0.1 * k, "steps": 8 * trains, "best_step": 4 * trains,
                "curve": [
                    {"step": 0, "loss": None, "map_at_r": 0.1}, {"step": 4, "loss": 2.0, "map_at_r": 0.5 + 0.1 * k}
                ],
            }  # fmt: skip
            records.append(record)
        if failed:
            records[1] |= {"failure": "diverged", "score": None, "steps": 0, "seconds": 0.0}
        metrics = [] if failed else [
            {"embedding": kind, "fold": fold, "metric": "map_at_r", "value": value, "n_queries": 50}
            for kind, fold, value in (("separated", 0, 0.25), ("separated", 1, 0.5), ("concatenated", None, 0.75))
        ]  # fmt: skip
        values = {"dataset": dataset, "method": method, "seed": seed, "metrics": metrics, "records": records}
        values |= {"failure": "fold 1: diverged" if failed else None, "test": f"test of {dataset}", "code": "c0de"}
        provenance = blank["provenance"] | {"device_type": "cpu", "host": "other"}
        made = {"code": "c0de", "test": values["test"], "provenance": provenance | {"threads": 2}}
        values["embedded"] = [made | {"sha256": f"e{k}", "model": f"m{k}", "seconds": 4.5} for k in range(2)]
        values |= {"seconds": 18.0, "provenance": provenance | {"threads": 1, "commit": "c0ffee"}}
        values["models"] = [f"m{k}" for k in range(2)]
        file = self.folder / dataset / method / "seeds" / str(seed) / "metrics.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
        self.measured.append(file)
        others = {key: values[key] for key in ("dataset", "method", "seed", "models", "provenance")}
        training = {"embedding": "training", "fold": 0, "metric": "rho_1", "value": 0.125, "n_queries": 30}
        space = others | {"data": blank["made_by"]["data"], "code": "5pace", "seconds": 9.0, "metrics": [training]}
        row = {"dataset": dataset, "method": method, "seed": seed, "fold": 0, "step": 4, "validation": 0.5}
        row |= {"chosen": True, "precision_at_1": 0.75, "map_at_r": 0.5}
        selection = others | {"test": values["test"], "code": "5e1ec7", "seconds": 36.0, "rows": [row]}
        for name, made in (("space", space), ("selection", selection)):
            file.with_name(f"{name}.json").write_text(json.dumps(made))

    def change_search(self, file, **made_by):
        """Edit what made one search."""
        found = Selected.load(file)
        found.model_copy(update={"made_by": found.made_by | made_by}).save(file)

    def change(self, number, edit):
        """Edit what one seed's file says."""
        values = json.loads(self.measured[number].read_text())
        edit(values)
        self.measured[number].write_text(json.dumps(values))

    def collect(self, *others):
        """With the files `others` of every seed: space, selection."""
        beside = {f"{name}s": [file.with_name(f"{name}.json") for file in self.measured] for name in others}
        collect(self.study, "s", self.measured, self.histories, self.best, self.folds, PAPERS, self.output, **beside)

    def rows(self, table):
        with (self.output / f"{table}.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def made(tmp_path, blank, study):
    return Made(tmp_path, blank, study)


@pytest.fixture
def collected(made):
    made.collect()
    return made


# ---------------------------------------------------------------------------------------------------------- the tables


def test_tables_have_the_columns_that_others_read(collected):
    assert sorted(path.name for path in collected.output.iterdir()) == sorted(
        [*(f"{name}.csv" for name in COLUMNS), "study.json"]
    )
    for name, columns in COLUMNS.items():
        assert (collected.output / f"{name}.csv").read_text().splitlines()[0] == columns


def test_metrics_hold_a_row_for_every_value(collected):
    rows = collected.rows("metrics")
    assert len(rows) == 3 * (2 * 2 * SEEDS - 1)  # one seed failed
    assert {row["study"] for row in rows} == {"s"}
    own = [row for row in rows if (row["dataset"], row["method"], row["seed"]) == ("glyphs", "contrastive", "1")]
    assert [(row["embedding"], row["fold"], row["metric"], row["value"], row["n_queries"]) for row in own] == [
        ("separated", "0", "map_at_r", "0.25", "50"),
        ("separated", "1", "map_at_r", "0.5", "50"),
        ("concatenated", "", "map_at_r", "0.75", "50"),
    ]


def test_runs_hold_a_row_for_every_model(collected, blank):
    rows = collected.rows("runs")
    keys = [(row["dataset"], row["method"], row["seed"], row["fold"]) for row in rows]
    assert len(set(keys)) == len(rows) == 2 * 2 * SEEDS * 2
    row = rows[keys.index(("photos", "contrastive", "0", "1"))]
    provenance = blank["provenance"]
    expected = {
        "trial": "1", "search": Selected.load(collected.best[2]).fingerprint, "parameters": '{"pos_margin": 0.8}',
        "best_map_at_r": "0.6", "failure": "",
        "steps": "8", "best_step": "4", "seconds": "2.5", "embedding_size": "8", "commit": provenance["commit"],
        "code": blank["made_by"]["code"], "device": provenance["device"], "host": provenance["host"],
        "threads": str(provenance["threads"]), "python": provenance["python"],
        "torch": provenance["versions"]["torch"], "data": blank["made_by"]["data"],
        "test": "test of photos", "weights": "",
        "random_seed": str(blank["random_seed"]), "device_type": "cpu", "resumed": "1",
        "peak_memory_mb": str(provenance["peak_memory_mb"]), "peak_gpu_memory_mb": "",
        "model": "m1", "embeddings": "e1", "embedding_seconds": "4.5", "measuring_seconds": "18.0",
        "measuring_code": "c0de",
    }  # fmt: skip
    assert expected.items() <= row.items()
    failed = rows[keys.index(("photos", "contrastive", "1", "1"))]
    assert (failed["failure"], failed["best_map_at_r"]) == ("diverged", "")


def test_curves_hold_a_row_for_every_validation_of_a_final_run(collected):
    rows = collected.rows("curves")
    assert len(rows) == 2 * 2 * SEEDS * 2 * 2
    own = [row for row in rows if (row["dataset"], row["method"], row["number"]) == ("glyphs", "contrastive", "1")]
    assert [(row["stage"], row["fold"], row["step"], row["loss"], row["map_at_r"]) for row in own] == [
        ("final", "0", "0", "", "0.1"),
        ("final", "0", "4", "2.0", "0.5"),
        ("final", "1", "0", "", "0.1"),
        ("final", "1", "4", "2.0", "0.6"),
    ]


def test_trials_hold_a_row_for_every_fold_of_every_trial(collected):
    rows = collected.rows("trials")
    assert len(rows) == 2 * 2 * 3 * 2
    own = [row for row in rows if (row["dataset"], row["method"]) == ("photos", "contrastive")]
    assert [(row["trial"], row["fold"], row["score"], row["failure"]) for row in own] == [
        ("0", "0", "0.25", ""), ("0", "1", "0.27", ""), ("1", "0", "0.35", ""), ("1", "1", "0.37", ""),
        ("2", "0", "0.45", ""), ("2", "1", "", 'diverged: "loss", nan'),
    ]  # fmt: skip
    assert json.loads(own[2]["parameters"]) == {"pos_margin": 0.8}
    assert (own[0]["best_step"], own[0]["steps"], own[0]["seconds"]) == ("4", "8", "1.5")
    assert (own[0]["device_type"], own[0]["threads"]) == ("cuda", "2")


def test_costs_hold_a_row_for_every_stage_and_kind_of_device(collected):
    rows = [tuple(row.values())[1:] for row in collected.rows("costs") if row["dataset"] == "photos"]
    own = [(stage, kind, int(jobs), float(hours)) for method, stage, kind, jobs, hours in rows if method == METHODS[0]]
    assert own == [
        ("search", "cuda", 6, pytest.approx(6 * 1.5 / 3600)),
        ("final", "cpu", 3, pytest.approx(3 * 2.5 / 3600)),  # on one thread; the one of no seconds did not run
        ("embedding", "cpu", 4, pytest.approx(2 * 4 * 4.5 / 3600)),
        ("measuring", "cpu", 2, pytest.approx(2 * 18 / 3600)),
    ]


def test_geometry_and_checkpoints_are_collected_and_cost_something(made):
    made.collect("space", "selection")
    geometry = [row for row in made.rows("metrics") if row["embedding"] == "training"]
    assert len(geometry) == len(made.measured) and {row["value"] for row in geometry} == {"0.125"}
    assert [row["precision_at_1"] for row in made.rows("selection")] == ["0.75"] * len(made.measured)
    costs = [row for row in made.rows("costs") if row["method"] == "pretrained"]
    jobs = [(row["stage"], row["jobs"], float(row["hours"])) for row in costs]
    assert ("geometry", "2", pytest.approx(2 * 9 / 3600)) in jobs
    assert ("checkpoints", "2", pytest.approx(2 * 36 / 3600)) in jobs


def test_best_holds_a_row_for_every_search(collected):
    rows = {(row["dataset"], row["method"]): row for row in collected.rows("best")}
    assert len(rows) == 4
    glyphs, photos = rows["glyphs", "contrastive"], rows["photos", "contrastive"]
    assert (glyphs["trial"], glyphs["trials"], glyphs["failed_trials"]) == ("2", "3", "0")
    assert (photos["trial"], photos["trials"], photos["failed_trials"]) == ("1", "3", "1")
    assert float(photos["score"]) == pytest.approx(0.36) and float(photos["sem"]) == pytest.approx(0.01)
    assert json.loads(glyphs["ranges"]) == {"pos_margin": RANGE}
    assert json.loads(glyphs["edges"]) == {}
    assert json.loads(rows["glyphs", "pretrained"]["ranges"]) == {}


def test_parameters_on_an_edge_are_named(made):
    number = [path.parent.name for path in made.best].index("contrastive")
    low = [
        {
            "fold": k,
            "score": 0.9,
            "best_step": 1,
            "steps": 2,
            "failure": None,
            "seconds": 0.1,
            "made_by": {},
            "provenance": {"device_type": "cpu", "threads": 1},
        }
        for k in range(2)
    ]
    history = [tried(0, {"pos_margin": -0.2, "neg_margin": 1.0}, low)]
    ranges = {"pos_margin": Range(**RANGE), "neg_margin": Range(**RANGE)}
    close("glyphs", "contrastive", ranges, history).save(made.best[number])

    def trained_with_it(values):
        for record in values["records"]:
            record |= {"trial": 0, "parameters": history[0].parameters}

    for seed, file in enumerate(made.measured):
        if "glyphs" in file.parts and "contrastive" in file.parts:
            made.change(seed, trained_with_it)
    made.collect()
    assert json.loads(made.rows("best")[number]["edges"]) == {"pos_margin": "low"}


def test_the_study_is_described(collected, tmp_path):
    found = json.loads((collected.output / "study.json").read_text())
    assert (found["study"], found["title"], found["description"]) == ("s", "A title", "what, and why")
    glyphs, photos = found["datasets"]
    counts = {"classes_trainval": 4, "images_trainval": 14, "classes_test": 5, "images_test": 10}
    assert counts.items() <= glyphs.items() and counts.items() <= photos.items()
    assert glyphs["name"] == "glyphs" and glyphs["title"] and glyphs["source"] and glyphs["terms"]
    assert (photos["name"], photos["title"], photos["source"]) == ("photos", "photos", str(tmp_path / "photos"))
    contrastive, pretrained = found["methods"]
    assert contrastive == {
        "name": "contrastive", "file": "contrastive", "title": "Contrastive", "ranges": {"pos_margin": RANGE},
        "fixed": {"neg_margin": 0.8}, "images_per_class": 4, "trains": True,
    }  # fmt: skip
    assert pretrained["trains"] is False and pretrained["ranges"] == {}
    assert found["protocol"] == collected.study.protocol.model_dump()
    assert found["protocol_help"].keys() == found["protocol"].keys()
    assert all(found["protocol_help"].values())


def test_a_method_of_which_everything_failed_still_trains(made):
    def fail(values):
        for record in values["records"]:
            record |= {"failure": "every trial failed", "steps": 0, "score": None, "curve": []}
        values |= {"metrics": [], "failure": "fold 0: every trial failed; fold 1: every trial failed"}

    for number, file in enumerate(made.measured):
        if "contrastive" in file.parts:
            made.change(number, fail)
    made.collect()
    trains = [method["trains"] for method in json.loads((made.output / "study.json").read_text())["methods"]]
    assert trains == [True, False]
    assert {row["method"] for row in made.rows("metrics")} == {"pretrained"}


def test_what_is_collected_can_be_read_back(collected):
    found = Results.load(collected.output)
    assert [len(getattr(found, name)) for name in COLUMNS] == [len(collected.rows(name)) for name in COLUMNS]
    assert found.trials["parameters"].iloc[0] == {"pos_margin": -0.2}
    assert list(found.trained_methods) == ["contrastive"]
    assert list(found.datasets) == ["glyphs", "photos"]


def test_collecting_again_gives_equal_bytes(collected):
    first = {path.name: path.read_bytes() for path in collected.output.iterdir()}
    collected.collect()
    assert {path.name: path.read_bytes() for path in collected.output.iterdir()} == first


# ------------------------------------------------------------------------------------------------------------- mixtures

CHANGES = {
    "code": lambda values: values["records"][1]["made_by"].update(code="other"),
    "trunk": lambda values: values["records"][1]["made_by"].update(trunk="other"),
    "method": lambda values: values["records"][1]["made_by"].update(method="other"),
    "metrics": lambda values: values.update(code="other"),
    "embeddings": lambda values: values["embedded"][1].update(code="other"),
    "data": lambda values: values["records"][1]["made_by"].update(data="other"),
    "weights": lambda values: values["records"][1]["made_by"].update(weights="other"),
    "protocol": lambda values: values["records"][1]["made_by"].update(protocol="other"),
    "setting": lambda values: values["records"][1].update(trial_fingerprint="other"),
    "test": lambda values: values.update(test="other"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_results_of_different_origin_are_refused_and_named(made, what):
    number = 3  # glyphs, pretrained, seed 1
    made.change(number, CHANGES[what])
    with pytest.raises(ValueError) as raised:
        made.collect()
    message = str(raised.value)
    first = made.measured[2 if what in ("setting", "method") else 0]  # these are compared within a method
    assert "\n" not in message
    assert message.startswith(f"{made.measured[number]}: made with other {what} than {first}; ")
    for file in (made.measured[number], first):
        assert str(file.parent) in message
    assert list(made.output.iterdir()) == []


@pytest.mark.parametrize("what", ["code", "weights", "protocol"])
def test_what_all_data_sets_share_is_compared_across_them(made, what):
    def everywhere(values):
        for record in values["records"]:
            record["made_by"][what] = "other"

    for number, file in enumerate(made.measured):
        if "photos" in file.parts:
            made.change(number, everywhere)
    with pytest.raises(ValueError, match=f"other {what} than"):
        made.collect()


def test_a_mixture_within_one_seed_is_refused(made):
    made.change(0, CHANGES["code"])
    with pytest.raises(ValueError, match="other code"):
        made.collect()


@pytest.mark.parametrize(
    "name, what, value",
    [("space", "models", ["m0", "m2"]), ("space", "data", "other"), ("space", "code", "other"),
     ("selection", "models", ["m0", "m2"]), ("selection", "test", "other"), ("selection", "code", "other")],
)  # fmt: skip
def test_what_was_measured_of_other_models_or_pixels_is_refused(made, name, what, value):
    file = made.measured[3].with_name(f"{name}.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {what: value}))
    with pytest.raises(ValueError, match=f"^{file}: of other {what} than the metrics beside it: delete it and run"):
        made.collect("space", "selection")
    assert list(made.output.iterdir()) == []


def test_a_model_and_its_search_are_of_one_origin(made):
    made.change_search(made.best[1], code="other")
    with pytest.raises(ValueError, match="other code than"):
        made.collect()


@pytest.mark.parametrize("change", [{"trial": 0}, {"parameters": {"pos_margin": 0.1}}])
def test_a_model_of_another_setting_than_the_chosen_one_is_refused(made, change):
    made.change(0, lambda values: values["records"][1].update(change))
    with pytest.raises(ValueError, match="trained with trial .* its search chose trial 2 {'pos_margin': 1.8}: delete"):
        made.collect()


def test_data_sets_have_each_their_own_data(made):
    def of_photos(values):
        for record in values["records"]:
            record["made_by"]["data"] = "of photos"

    for number, file in enumerate(made.measured):
        if "photos" in file.parts:
            made.change(number, of_photos)
    for file in made.best[2:]:
        made.change_search(file, data="of photos")
    made.collect()
    assert {(row["dataset"], row["data"]) for row in made.rows("runs") if row["dataset"] == "photos"} == {
        ("photos", "of photos")
    }


def test_other_devices_threads_and_commits_may_stand_together(made):
    def elsewhere(values):
        for record in values["records"]:
            record["provenance"] |= {"device": "another", "threads": 99, "commit": "another", "host": "another"}

    made.change(1, elsewhere)
    made.collect()
    assert {row["threads"] for row in made.rows("runs")} >= {"99"}
