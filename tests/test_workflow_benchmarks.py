"""The benchmarks through the real workflow, on their archives in miniature: fetched, split, trained, reported."""

import csv
from collections import Counter
from functools import partial

import miniatures
import pytest
import torch
from project import Project
from server import serve, serve_ranges, serving

from dml import plugins

NAMES = ("cub200", "cars196", "sop", "sop_official", "in_shop", "omniglot")
STUDY = "benchmarks.yaml"
TEXT = """
title: Benchmarks in miniature
datasets: [cub200, cars196, sop, sop_official, in_shop, omniglot]
methods: [contrastive]
hyperparameters: values.yaml
published: {paper: reality_check, setting: batch32}
protocol:
  trunk: convnet
  weights: {file: convnet.pt, urls: [WEIGHTS]}
  pooling: gem
  head_layernorm: true
  embedding_size: 8
  freeze_batchnorm: statistics
  resize: 28
  crop_size: 24
  batch_size: 8
  epoch_steps: 2
  max_epochs: 1
  evaluate_every: 1
  folds: 2
  seeds: 1
"""


@pytest.fixture(scope="module")
def server():
    with serving() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {name: getattr(miniatures, name)(tmp_path_factory.mktemp(name)) for name in NAMES}


@pytest.fixture(scope="module")
def project(tmp_path_factory, server, made):
    """The study in a folder of its own, where the data sets know their miniatures' checksums and addresses.

    The first server cuts the connection, the second has all; Cars196 and In-Shop are copies that the user has.
    """
    project = Project(tmp_path_factory.mktemp("project"))
    for name, miniature in made.items():
        file = project.folder / "dml" / "datasets" / f"{name}.py"
        literals = dict(miniature.literals)
        if "ARCHIVES" in literals:
            literals["ARCHIVES"] = [archive | {"urls": addresses(server, archive)} for archive in literals["ARCHIVES"]]
        file.write_text(miniatures.patch(file.read_text(), literals))
        for path in miniature.files.values():
            server.answers[f"/whole/{path.name}"] = serve_ranges(path.read_bytes())
            server.answers[f"/page/{path.name}"] = serve(b"<!DOCTYPE html><html>quota exceeded</html>")
            server.answers[f"/cut/{path.name}"] = serve_ranges(path.read_bytes(), cut_after=1000)
    weights = project.folder / "weights.pt"
    torch.manual_seed(0)
    torch.save(plugins.load("trunks", "convnet").build(None).state_dict(), weights)
    (project.folder / STUDY).write_text(TEXT.replace("WEIGHTS", str(weights)))
    values = {name: {"contrastive": {"pos_margin": 0.1, "neg_margin": 0.6}} for name in NAMES}
    (project.folder / "values.yaml").write_text(str(values))
    copies = {
        "cars196": made["cars196"].layouts["two sets"],
        "in_shop": made["in_shop"].layouts["the original folders"],
    }
    project.run = partial(project.snakemake, "--cores", "all", study=STUDY)
    project.output = project.run(config=[given(copies)])
    return project


def addresses(server, archive):
    return [f"{server.address}/{kind}/{archive['name']}" for kind in ("page", "cut", "whole")]


def given(copies):
    return f"copies={ {name: str(path) for name, path in copies.items()} }"


def classes(project, dataset):
    with (project.folder / f"results/benchmarks/{dataset}/folds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_data_set_is_halved_by_its_own_rule(project):
    halves = {
        name: [row["class"] for row in classes(project, name) if row["half"] == "trainval"]
        for name in ("cub200", "cars196", "sop", "sop_official", "in_shop")
    }
    assert halves["cub200"] == miniatures.BIRDS[:8]
    assert halves["cars196"] == [f"{i:03d} {name}" for i, name in enumerate(miniatures.CARS[:8], 1)]
    assert [name[:5] for name in halves["sop"]] == [f"{i:05d}" for i in range(1, 9)]
    official = miniatures.FIRST_TEST_PRODUCT - 1
    assert [name[:5] for name in halves["sop_official"]] == [f"{i:05d}" for i in range(1, official + 1)]
    assert len(halves["sop_official"]) != len(halves["sop"])
    assert halves["in_shop"] == [f"id_{7 * i:08d}" for i in range(1, 9)]
    rows = [row for name in NAMES for row in classes(project, name)]
    assert all(row["label"] == str(i % 16) for i, row in enumerate(rows))
    assert {row["images"] for row in rows} == {"4"}


def test_queries_are_every_test_image_or_those_that_the_data_set_names(project):
    rows = project.rows("results/benchmarks/metrics.csv")
    queries = {name: {row["n_queries"] for row in rows if row["dataset"] == name} for name in NAMES}
    of_official = 4 * (16 - miniatures.FIRST_TEST_PRODUCT + 1)
    assert queries.pop("sop_official") == {str(of_official)}
    assert queries.pop("in_shop") == {"16"}  # two of the four photographs of each of 8 items
    assert set(map(frozenset, queries.values())) == {frozenset({"32"})}


def test_broken_downloads_go_on_and_shared_archives_come_once(project, server):
    asked = Counter(path for path, _ in server.requests)
    assert not [path for path in asked if path.startswith("HEAD")]
    assert asked["/whole/Stanford_Online_Products.zip"] == 1 and asked["/whole/CUB_200_2011.tgz"] == 1
    assert not [path for path in asked if "car_ims" in path or "img.zip" in path]
    begun = [headers["Range"] for path, headers in server.requests if path == "/whole/CUB_200_2011.tgz"]
    assert begun[0] is not None  # after what the server that cuts had given
    archives = project.folder / "data" / "sop" / "archives"
    assert [path.name for path in archives.iterdir()] == ["Stanford_Online_Products.zip"]
    assert not (project.folder / "data" / "sop_official" / "archives").exists()


def test_source_and_terms_are_printed(project):
    for name in NAMES:
        for literal in ("TITLE", "SOURCE", "TERMS"):
            assert plugins.literal("datasets", name, literal) in project.output


def test_the_report_says_why_the_papers_numbers_are_not_comparable(project):
    rows = project.rows("results/benchmarks/published.csv")
    assert {row["dataset"] for row in rows} == {"cub200", "cars196", "sop"}
    assert all("trunk is convnet, not bn_inception" in row["reason"] for row in rows)
    assert all("16 classes with 64 images, not 200 with 11788" in r["reason"] for r in rows if r["dataset"] == "cub200")
    page = (project.folder / "reports/benchmarks/index.html").read_text()
    assert "Not comparable: 16 classes with 64 images" in page
    assert "the hyperparameters are of another origin" in page
    assert "Nothing was searched" in page and "values.yaml" in page
    assert "26.53 ± 0.29" in page  # the paper's contrastive on CUB, concatenated MAP@R


def test_nothing_was_searched(project):
    assert not list((project.folder / "results/benchmarks").glob("*/*/search"))
    best = project.rows("results/benchmarks/best.csv")
    assert {(row["origin"], row["trials"], row["score"]) for row in best} == {("values.yaml", "0", "")}
    assert all('"neg_margin": 0.6' in row["parameters"] for row in best)


def test_the_weights_without_a_published_checksum_are_named_by_what_they_are(project):
    (sha256,) = {row["weights"] for row in project.rows("results/benchmarks/runs.csv")}
    assert len(sha256) == 64


def test_where_things_come_from_makes_nothing_again(project, made):
    assert "Nothing to be done" in project.run(config=[given({"cub200": made["cub200"].layouts["the folder"]})])


def test_what_is_only_said_of_given_values_trains_nothing(project, made):
    study = project.folder / STUDY
    ranges = "methods: [{name: contrastive, ranges: {pos_margin: {low: 0.0, high: 1.0}}}]"
    said = {"cite", "collect", "tables", "figures", "gallery", "report"}
    config = [given({"in_shop": made["in_shop"].layouts["two files"]})]
    try:
        study.write_text(study.read_text().replace("methods: [contrastive]", ranges))
        assert {job["rule"] for job in project.plan(study=STUDY, config=config)} == said
    finally:
        study.write_text(study.read_text().replace(ranges, "methods: [contrastive]"))


def test_another_study_with_the_same_images_and_weights_fetches_nothing(project, made):
    text = (project.folder / STUDY).read_text()
    (project.folder / "another.yaml").write_text(text)
    config = [given({"in_shop": made["in_shop"].layouts["two files"]})]
    rules = {job["rule"] for job in project.plan(study="another.yaml", config=config)}
    assert "train_final" in rules and not rules & {"weights", "fetch", "pack"}


def test_an_unknown_experiment_of_the_paper_is_refused_before_any_job(project):
    study = project.folder / STUDY
    text = study.read_text()
    try:
        study.write_text(text.replace("setting: batch32", "setting: batch64"))
        output = project.snakemake("-n", study=STUDY, fails=True)
        assert f"error: {STUDY}: published.setting: reality_check has no 'batch64'; choose from: batch32" in output
    finally:
        study.write_text(text)


def test_a_data_set_that_cannot_be_downloaded_says_which_files_it_wants(project):
    project.snakemake("--cores", "1", "fresh/in_shop/images.csv", study=STUDY, config=["data=fresh"], fails=True)
    log = (project.folder / "logs/benchmarks/in_shop/fetch.log").read_text()
    assert "fresh/in_shop/archives (put both there" in log and "copies: {in_shop: FOLDER}" in log
    assert "expected img.zip" in log and "list_eval_partition.txt" in log
    assert "Traceback" not in log
