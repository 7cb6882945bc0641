"""What a study may have beside its methods, in the real workflow: factors, teachers, ways of retrieval, geometry."""

import json
import re
from collections import Counter

import pytest
from project import Project

FIELD = "tests/studies/field.yaml"
RUNS = [
    "pretrained", "contrastive_distance_weighted", "r_contrastive", "triplet_distance_weighted", "rkd", "few",
    "triplet_distance_weighted-d8", "rkd-d8", "few-large",
]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("field"))
    project.snakemake("--cores", "all", study=FIELD)
    return project


def test_everything_is_run_once_for_each_method_and_level(project):
    rows = project.rows("results/field/metrics.csv")
    keys = ("method", "seed", "fold", "embedding", "retrieval", "metric")
    counted = Counter(tuple(row[key] for key in keys) for row in rows)
    assert set(counted.values()) == {1} and {row["method"] for row in rows} == set(RUNS)
    plain = {row["metric"] for row in rows if row["embedding"] == "separated" and not row["retrieval"]}
    for way in ("binary", "max", "reranked"):
        own = [row for row in rows if row["retrieval"] == way]
        assert {row["metric"] for row in own} == plain - {"nmi", "ami", "f1"}
        assert len(own) == len(RUNS) * (2 + 1) * (len(plain) - 3)
    of_training = [row for row in rows if row["embedding"] == "training"]
    assert Counter(row["method"] for row in of_training if row["metric"] == "pi_ratio") == dict.fromkeys(RUNS, 2)


def test_levels_have_their_protocols(project):
    sizes = {row["method"]: row["embedding_size"] for row in project.rows("results/field/runs.csv")}
    assert sizes == dict.fromkeys(RUNS, "12") | {
        "pretrained": "128",
        "rkd-d8": "8",
        "triplet_distance_weighted-d8": "8",
    }
    sides = {path.parent.name for path in (project.folder / "data/glyphs").glob("side*/test.pixels")}
    assert sides == {"side24", "side28"}


def test_a_student_learns_from_the_teacher_of_its_level_and_fold(project):
    folder = project.folder / "results/field/glyphs"
    for level in ("", "-d8"):
        for k in range(2):
            of = [
                folder / f"{name}{level}/seeds/0/fold{k}/record.json" for name in ("rkd", "triplet_distance_weighted")
            ]
            student, teacher = (json.loads(path.read_text()) for path in of)
            assert student["teacher"] == teacher["model"] and teacher["teacher"] is None


def test_models_of_all_validations_are_measured_and_the_chosen_one_is_the_final_one(project):
    rows = project.rows("results/field/selection.csv")
    trained = [name for name in RUNS if name != "pretrained"]
    assert Counter(row["method"] for row in rows) == dict.fromkeys(trained, 2 * 3)
    final = {
        (row["method"], row["fold"]): float(row["value"])
        for row in project.rows("results/field/metrics.csv")
        if (row["embedding"], row["retrieval"], row["metric"]) == ("separated", "", "map_at_r")
    }
    chosen = {(row["method"], row["fold"]): float(row["map_at_r"]) for row in rows if row["chosen"] == "True"}
    assert len(chosen) == 2 * len(trained)
    assert chosen == pytest.approx({key: final[key] for key in chosen}, abs=1e-6)


def test_the_page_shows_what_the_study_has(project):
    page = (project.folder / "reports/field/index.html").read_text()
    for kind, names in {
        "table": ("factors", "retrieval", "pairs", "embedding_space", "selection"),
        "figure": ("factors", "retrieval", "pairs", "embedding_space", "diagonal_lines"),
    }.items():
        for name in names:
            assert f'id="{kind}-{name}"' in page, (kind, name)
    files = re.findall(r'href="((?:tables|figures)/[^"]+)"', page)
    assert len(files) > 40 and all((project.folder / "reports/field" / file).exists() for file in files)


def test_nothing_before_the_final_models_reads_the_test_half(project):
    jobs = project.plan("--forceall", study=FIELD)
    readers = {job["rule"] for job in jobs if any(file.endswith("/test.pixels") for file in job["input"])}
    assert readers == {"embed", "gallery", "selection"}
    for job in jobs:
        if job["rule"] in ("train_trial", "train_final", "space"):
            assert not [file for file in job["input"] if "/test." in file]
        if job["rule"] in readers - {"gallery"}:
            assert any(file.endswith("model.safetensors") for file in job["input"])


def test_a_second_run_does_nothing(project):
    assert "Nothing to be done" in project.snakemake("--cores", "all", study=FIELD)


@pytest.mark.parametrize(
    "file, again",
    [("space.json", {"space"}), ("selection.json", {"selection"}), ("fold1/max.npy", {"embed", "measure"})],
)
def test_whichever_file_is_deleted_is_made_again(project, tmp_path, file, again):
    copied = project.copy(tmp_path / "copy")
    (copied.folder / "results/field/glyphs/few/seeds/0" / file).unlink()
    rules = {job["rule"] for job in copied.plan(study=FIELD)}
    assert rules - {"all", "collect", "tables", "figures", "gallery", "report"} == again


def test_another_level_runs_only_itself(project, tmp_path):
    copied = project.copy(tmp_path / "copy")
    study = copied.folder / FIELD
    level = "      d8: {title"
    study.write_text(
        study.read_text().replace(level, '      d6: {title: "6", at: 6, protocol: {embedding_size: 6}}\n' + level)
    )
    jobs = copied.plan(study=FIELD)
    trained = {job["wildcards"]["method"] for job in jobs if job["rule"] == "train_final"}
    assert trained == {"rkd-d6", "triplet_distance_weighted-d6"}
    assert not [job for job in jobs if job["rule"] in ("fetch", "pack", "split")]
