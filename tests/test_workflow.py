"""The real workflow: plans, a whole study from empty folder to report, what is made again when, and no early look."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from project import ROOT, SMOKE, Project

from dml.study import Study

STUDIES = sorted((ROOT / "workflow" / "studies").glob("*.yaml"))


def photographs(folder, classes=16, images=2):
    """Files with the names of pictures, in class folders: enough for a plan."""
    for c in range(classes):
        for n in range(images):
            image = folder / f"class{c:02d}" / f"{n}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The smoke study, in two steps: the search, after which we look around, then everything."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.snakemake("--cores", "all", "search")
    project.after_search = [str(path.relative_to(project.folder)) for path in project.folder.rglob("*")]
    project.output = project.snakemake("--cores", "all")
    return project


def test_progress_names_the_remaining_time(project):
    before, after = project.output.split("(Rule: train_final)", 1)
    assert " left" not in before  # the steps before a training say nothing of its time
    line = r"trainings: (\d+) of 24, [\d.]+ an? \w+, about \d+ (?:s|min) left"
    told = [int(done) for done in re.findall(r"\d+ of \d+ steps \(\d+%\) done\n" + line, after)]
    assert told[0] == 4 and told == sorted(told)  # a job trains the 4 folds of one of 2 seeds of 3 methods
    assert "trainings: 24 of 24, about " in after


def test_a_finished_study_says_that_it_is_complete(project):
    command = [sys.executable, "-m", "dml.progress", "results/smoke"]
    answer = subprocess.run(command, cwd=project.folder, capture_output=True, text=True)
    assert [" ".join(line.split()) for line in answer.stdout.splitlines()] == [
        "data set method search final failed",
        "glyphs pretrained 4 of 4 8 of 8",
        "glyphs contrastive 8 of 8 8 of 8",
        "glyphs circle 8 of 8 8 of 8",
        "in all 20 of 20 24 of 24",
        "",
        "complete: all 44 trainings are done and measured",
    ]


def test_the_targets_files_are_not_listed(project):
    assert "rule report:" in project.output and "rule all:" not in project.output
    assert max(map(len, project.output.splitlines())) < 4000


def test_the_search_closes_without_any_test_file(project):
    assert [f for f in project.after_search if f.endswith("best.yaml")]
    packed = sorted(Path(f).name for f in project.after_search if "/side" in f and Path(f).suffix)
    assert packed == ["trainval.npz", "trainval.pixels", "trainval.sha256"]
    assert not [f for f in project.after_search if Path(f).name.startswith("test.")]


def ancestors(jobs, targets):
    made_by = {file: job for job in jobs for file in job["output"]}
    waiting, found = list(targets), {}
    while waiting:
        job = made_by.get(waiting.pop())
        if job is not None and id(job) not in found:
            found[id(job)] = job
            waiting += job["input"]
    return list(found.values())


def test_nothing_behind_the_winners_or_the_models_reads_the_test_half(tmp_path):
    jobs = Project(tmp_path).plan("--forceall")
    winners = [file for job in jobs for file in job["output"] if file.endswith("best.yaml")]
    models = [file for job in jobs for file in job["output"] if file.endswith("model.safetensors")]
    assert len(winners) == 3 and len(models) == 3 * 2 * 4
    for job in ancestors(jobs, winners + models):
        assert not [file for file in job["input"] + job["output"] if "/test." in file], job
        assert job["rule"] in {"fetch", "split", "pack", "propose", "train_trial", "select", "train_final"}
    readers = {job["rule"] for job in jobs if any(file.endswith("/test.pixels") for file in job["input"])}
    assert readers == {"embed", "gallery"}
    metrics = "results/smoke/metrics.csv"
    assert all(metrics in job["input"] for job in jobs if job["rule"] == "gallery")
    embedding = [job for job in jobs if job["rule"] == "embed"]
    assert all(sum(file.endswith("model.safetensors") for file in job["input"]) == 4 for job in embedding)


def test_every_metric_of_every_run_is_there_once(project):
    rows = project.rows()
    keys = Counter(tuple(row[k] for k in ("dataset", "method", "seed", "fold", "embedding", "metric")) for row in rows)
    assert set(keys.values()) == {1}
    assert len(rows) == 3 * 2 * (4 + 1) * 20  # methods x seeds x (folds + concatenated) x metrics
    assert {row["study"] for row in rows} == {"smoke"}
    assert all(0 <= float(row["value"]) <= 1 for row in rows if row["metric"] != "ami")
    assert {row["n_queries"] for row in rows} == {"1200"}


def test_runs_name_what_made_them(project):
    rows = project.rows("results/smoke/runs.csv")
    assert len(rows) == 3 * 2 * 4
    for row in rows:
        assert all(row[key] for key in ("commit", "code", "device", "threads", "torch", "data", "search", "seconds"))
        assert row["failure"] == ""
    assert len({row["random_seed"] for row in rows}) == 2 * 4  # seeds x folds, the same for every method


def test_the_report_and_its_parts_are_there(project):
    made = {str(path) for path in project.files("reports/smoke")}
    page = (project.folder / "reports/smoke/index.html").read_text()
    assert "Smoke &amp; mirrors &lt;test&gt;" in page and "circle" in page
    study = Study.load(ROOT / SMOKE)
    for kind, forms in (("tables", ("csv", "md", "tex")), ("figures", ("svg", "pdf"))):
        for name in study.shown(kind):
            assert {f"{kind}/{name}.{form}" for form in forms} <= made


def test_snakemakes_own_report_has_page_tables_and_figures_with_captions(project):
    project.snakemake("--report", "report.html")
    report = (project.folder / "report.html").read_text()
    results = json.loads(re.search(r"var results = (\{.*\});", report)[1])
    made = {f"reports/smoke/{file}" for file in project.files("reports/smoke")}
    assert set(results) == {file for file in made if file.endswith((".csv", ".svg", ".html"))}
    assert all(result["caption"] and "mailto:" not in result["caption"] for result in results.values())
    assert all(len(result["labels"]) == 1 for result in results.values())  # a second may become a switch, which breaks
    assert "one protocol for" in report
    assert not re.search(r"<(script|link|img|iframe)[^>]* (src|href)=[\"']?https?:", report)


def test_a_second_run_does_nothing(project):
    assert "Nothing to be done" in project.snakemake("--cores", "all")


TIMES = ("costs", "runs")


def results_without_times(project):
    """The metrics, and all tables but those that say how long everything took."""
    tables = {path: text for path, text in project.files("reports/smoke/tables").items() if path.stem not in TIMES}
    return tables | {"metrics": project.files("results")[Path("smoke/metrics.csv")]}


def test_results_made_again_are_the_same_bytes(project):
    before = results_without_times(project)
    shutil.rmtree(project.folder / "results")
    # how trainings are cut into jobs changes nothing
    project.snakemake(
        "--cores", "all", "results/smoke/glyphs/contrastive/search/1/history.json", config=["folds_per_job=1"]
    )
    project.snakemake("--cores", "all")
    assert before == results_without_times(project)
    assert "Nothing to be done" in project.snakemake("--cores", "all")


TOY = '''"""A toy loss: distance to the class mean, over the distance between means."""

from dml.method import Method

TITLE = "Toy"
RANGES = {"power": {"low": 0.5, "high": 2.0}}
IMAGES_PER_CLASS = 4


class Toy(Method):
    def __init__(self, num_classes, embedding_size, power):
        super().__init__()
        self.power = power

    def forward(self, embeddings, labels):
        same = (labels[:, None] == labels[None]).float()
        means = same @ embeddings / same.sum(1, keepdim=True)
        inside = (embeddings - means).pow(2).sum(1).mean()
        return inside / (means.var(0).sum() + 1e-3) ** self.power
'''


@pytest.fixture(scope="module")
def with_toys(project):
    """One file and one line for a toy loss; one more whose loss is not a number."""
    methods = project.folder / "dml" / "methods"
    (methods / "toy.py").write_text(TOY)
    (methods / "toy_nan.py").write_text(
        TOY.replace("Toy", "ToyNan").replace("return inside", "return inside * float('nan')")
    )
    study = project.folder / SMOKE
    study.write_text(study.read_text().replace("  - contrastive\n", "  - contrastive\n  - toy\n  - toy_nan\n"))
    project.toy_plan = project.plan()
    project.kept = {path: content for path, content in project.files("results").items() if "contrastive" in path.parts}
    project.snakemake("--cores", "all")
    return project


def test_a_new_loss_runs_only_its_own_jobs_and_the_report(with_toys):
    jobs = Counter(job["rule"] for job in with_toys.toy_plan)
    of_toys = {"propose": 2, "train_trial": 2, "select": 1, "train_final": 2, "embed": 2, "measure": 2}
    report = {"plan": 1, "collect": 1, "tables": 1, "figures": 1, "gallery": 1, "report": 1}
    assert jobs == {rule: 2 * count for rule, count in of_toys.items()} | report
    assert {job["wildcards"].get("method") for job in with_toys.toy_plan} == {"toy", "toy_nan", None}
    now = with_toys.files("results")
    assert all(now[path] == content for path, content in with_toys.kept.items())
    assert {row["method"] for row in with_toys.rows()} == {"pretrained", "contrastive", "toy", "circle"}


def test_a_loss_that_is_not_a_number_is_a_failed_row_and_the_study_ends(with_toys):
    best = {row["method"]: row for row in with_toys.rows("results/smoke/best.csv")}
    assert best["toy"]["failure"] == "" and best["toy_nan"]["failed_trials"] == "2"
    assert "every trial failed" in best["toy_nan"]["failure"] and "loss nan" in best["toy_nan"]["failure"]
    assert "every trial failed" in (with_toys.folder / "reports/smoke/tables/accuracy.md").read_text()
    assert "diverged" in (with_toys.folder / "reports/smoke/tables/failures.md").read_text()


def test_a_new_metric_measures_what_is_embedded_already(with_toys, tmp_path):
    """One file; `measure` takes the embeddings that are there although its own code is another now."""
    project = with_toys.copy(tmp_path)
    metrics, measured = project.folder / "dml/metrics", "results/smoke/glyphs/contrastive/seeds/0/metrics.json"
    original = (metrics / "precision_at_1.py").read_text()
    (metrics / "half_right.py").write_text(original.replace("precision_at_1", "half_right"))
    assert {job["rule"] for job in project.plan(measured)} == {"measure"}
    project.snakemake("--cores", "1", measured)
    assert '"metric": "half_right"' in (project.folder / measured).read_text()


def rules_of(jobs, method):
    return Counter(job["rule"] for job in jobs if job["wildcards"].get("method") == method)


def test_what_a_change_makes_again(with_toys):
    toy = with_toys.folder / "dml/methods/toy.py"
    study = with_toys.folder / SMOKE
    code, text = toy.read_text(), study.read_text()

    toy.write_text(code.replace('"""A toy loss', '"""Another docstring of a toy loss') + "\n# a comment\n")
    assert with_toys.plan() == []

    toy.write_text(code.replace("1e-3", "1e-2"))
    plan = with_toys.plan()
    assert {job["wildcards"].get("method") for job in plan} == {"toy", None}
    assert rules_of(plan, "toy")["train_trial"] == 2 and rules_of(plan, "toy")["train_final"] == 2

    toy.write_text(code.replace('TITLE = "Toy"', 'TITLE = "Toys"'))
    assert {job["rule"] for job in with_toys.plan()} == {"collect", "tables", "figures", "gallery", "report"}

    toy.write_text(code.replace('"high": 2.0', '"high": 3.0'))
    assert rules_of(with_toys.plan(), "toy")["propose"] == 2
    toy.write_text(code)

    study.write_text(text.replace("gamma: 80", "gamma: 100"))
    plan = with_toys.plan()
    assert {job["wildcards"].get("method") for job in plan} == {"circle", None}
    assert rules_of(plan, "circle")["propose"] == rules_of(plan, "circle")["train_trial"] == 2

    neighbours = with_toys.folder / "dml/neighbours.py"
    original = neighbours.read_text()
    neighbours.write_text(original + "\nOTHER = 1\n")
    assert rules_of(with_toys.plan(), "contrastive") == {"measure": 2}
    neighbours.write_text(original)

    study.write_text(text)
    glyphs = with_toys.folder / "dml/datasets/glyphs.py"
    original = glyphs.read_text()
    glyphs.write_text(original.replace('TITLE = "', 'TITLE = "Our '))
    assert {job["rule"] for job in with_toys.plan()} == {"collect", "tables", "figures", "gallery", "report"}
    glyphs.write_text(original)

    study.write_text(text.replace("seeds: 2", "seeds: 3"))
    plan = with_toys.plan()
    assert rules_of(plan, "toy") == {"train_final": 1, "embed": 1, "measure": 1}

    study.write_text(text.replace("trials: 2\n", "trials: 3\n"))
    assert rules_of(with_toys.plan("search"), "toy") == {"propose": 1, "train_trial": 1, "select": 1}

    study.write_text(text.replace("learning_rate: 1.0e-3", "learning_rate: 2.0e-3"))
    assert rules_of(with_toys.plan(), "contrastive")["train_trial"] == 2
    study.write_text(text)

    (with_toys.folder / "results/smoke/glyphs/toy/seeds/1/fold2/model.safetensors").unlink()
    assert rules_of(with_toys.plan(), "toy") == {"train_final": 1, "embed": 1, "measure": 1}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_plan_of_every_study_has_the_protocols_number_of_jobs(path, tmp_path):
    project = Project(tmp_path)
    own = photographs(tmp_path / "photos")
    study = Study.load(path)
    config = [] if study.datasets else [f"images={own}"]
    jobs = Counter(job["rule"] for job in project.plan(study=path.stem, config=[*config, "folds_per_job=all"]))
    datasets, protocol = max(len(study.datasets), 1), study.protocol
    trials = sum(study.trials(name) for name in study.runs) * datasets
    seeds = len(study.runs) * datasets * protocol.seeds
    assert jobs["propose"] == jobs["train_trial"] == trials
    assert jobs["select" if study.hyperparameters == "search" else "take"] == len(study.runs) * datasets
    assert jobs["train_final"] == jobs["embed"] == jobs["measure"] == seeds
    sides = {run.protocol.resize for run in study.runs.values()}
    assert jobs["pack"] == 2 * len(sides) * datasets and jobs["fetch"] == jobs["split"] == datasets
    if path.stem in TRIALS_OF_THE_PAPER:
        assert (jobs["train_trial"], jobs["train_final"]) == (TRIALS_OF_THE_PAPER[path.stem], 15 * 10)


# 14 searches of 50 trials, FastAP's of 31 instead at batch size 32, and the pretrained trunk's only trial
TRIALS_OF_THE_PAPER = {
    "reality_check_cub": 13 * 50 + 31 + 1,
    "reality_check_cars": 13 * 50 + 31 + 1,
    "reality_check_sop": 13 * 50 + 31 + 1,
    "reality_check_cub_batch256": 14 * 50 + 1,
}


def test_with_the_papers_best_values_only_the_final_runs_are_planned(tmp_path):
    project = Project(tmp_path)
    study = tmp_path / "workflow/studies/reality_check_sop.yaml"
    study.write_text(study.read_text().replace("hyperparameters: search", "hyperparameters: published"))
    jobs = Counter(job["rule"] for job in project.plan(study="reality_check_sop", config=["folds_per_job=1"]))
    assert jobs["take"] == 15 and jobs["propose"] == jobs["train_trial"] == jobs["select"] == 0
    assert jobs["train_final"] == 4 * 15 * 10


def test_ones_own_images_get_results_of_their_own(tmp_path):
    project = Project(tmp_path / "a project (1)")
    for name in ("My Photos", "others"):
        photographs(tmp_path / name)
    images = f"images=['{tmp_path}/My Photos','{tmp_path}/others']"
    jobs = project.plan(study="own_images", config=[images])
    targets = {file for job in jobs for file in job["output"]}
    assert "reports/own_images_my_photos_others/index.html" in targets
    assert {job["wildcards"]["dataset"] for job in jobs if job["rule"] == "fetch"} == {"my_photos", "others"}


def test_folds_are_jobs_of_their_own_where_asked(tmp_path):
    jobs = Project(tmp_path).plan("search", config=["folds_per_job=1"])
    trainings = Counter(job["rule"] for job in jobs if job["rule"].startswith("train"))
    assert trainings == {"train_trial": 4 * 5}  # folds x (1 + 2 + 2 trials)


def test_a_proposal_sees_the_rounds_before_its_own(tmp_path):
    project = Project(tmp_path)
    study = tmp_path / SMOKE
    study.write_text(study.read_text().replace("trials: 2\n", "trials: 5\n  trials_per_round: 2\n", 1))
    run = "results/smoke/glyphs/contrastive/search"
    seen = {
        int(job["wildcards"]["trial"]): {file.removeprefix(run) for file in job["input"] if file.startswith("results")}
        for job in project.plan("search")
        if job["rule"] == "propose" and job["wildcards"]["method"] == "contrastive"
    }
    of_round = [{f"/{trial}/fold{k}.json" for trial in trials for k in range(4)} for trials in ((0, 1), (2, 3))]
    assert seen[0] == seen[1] == set()
    assert seen[2] == seen[3] == {"/0/history.json"} | of_round[0]
    assert seen[4] == {"/2/history.json"} | of_round[1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"study": "dmeo"}, "error: study 'dmeo': no file"),
        ({"config": ["folds_per_job=none"]}, "error: config.yaml: folds_per_job: input should be 'all' or 1"),
        ({"config": ["studdy=demo"]}, "error: config.yaml: unknown key 'studdy'; known keys here: study"),
        ({"study": "own_images"}, "no data set: name one under `datasets`, or give your own folder"),
        ({"study": "own_images", "config": ["images=/nowhere"]}, "/nowhere does not exist: give a folder or a zip"),
    ],
)
def test_mistakes_end_before_any_job_in_one_line(tmp_path, options, message):
    text = Project(tmp_path).snakemake("-n", fails=True, **options)
    assert message in text
    assert "Traceback" not in text


def test_too_few_classes_or_images_end_before_any_job(tmp_path):
    project = Project(tmp_path)
    few, lonely, no_zip = tmp_path / "few", photographs(tmp_path / "lonely"), tmp_path / "photos.zip"
    photographs(few, classes=3)
    (lonely / "class01" / "1.png").unlink()
    no_zip.write_bytes(b"<html>")
    for own, message in (
        (few, f"error: {few}: 3 classes in all, so 1 trainval classes cannot make 4 folds"),
        (lonely, f"error: {lonely}: class 'class01' has a single image"),
        (no_zip, f"error: {no_zip}: neither a folder nor an intact zip archive"),
    ):
        text = project.snakemake("-n", study="own_images", config=[f"images={own}"], fails=True)
        assert message in text and "Traceback" not in text
    study = tmp_path / SMOKE
    study.write_text(study.read_text().replace("protocol:\n", "protocol:\n  folds: 99\n"))
    assert "error: glyphs: 120 classes in all, so 60 trainval" in project.snakemake("-n", fails=True)


def test_another_folder_of_the_same_name_replaces_nothing(tmp_path):
    project = Project(tmp_path)
    one, other = photographs(tmp_path / "one" / "photos"), photographs(tmp_path / "other" / "photos")
    project.snakemake("--cores", "1", "data/photos/images.csv", study="own_images", config=[f"images={one}"])
    text = project.snakemake("-n", study="own_images", config=[f"images={other}"], fails=True)
    assert f"error: {other}: the name 'photos' is taken by {one}: rename your folder, or delete data/photos" in text
    assert project.plan(study="own_images", config=["images=one/photos"])  # the same folder by another path


def test_a_study_of_ones_own_does_not_take_the_name_of_another(tmp_path):
    project = Project(tmp_path)
    shutil.copy(tmp_path / SMOKE, tmp_path / "demo.yaml")
    text = project.snakemake("-n", study="demo.yaml", fails=True)
    assert "demo.yaml has the same name, and the results would have: rename your study" in text


def test_a_picture_that_does_not_decode_is_named(tmp_path):
    project = Project(tmp_path)
    photographs(tmp_path / "photos")
    text = project.snakemake("--cores", "1", "search", study="own_images", config=["images=photos"], fails=True)
    assert re.search(r"error: photos: class\d\d/[01]\.png: not a readable image", text)


def test_missing_weights_without_network_say_where_to_put_them(tmp_path):
    photographs(tmp_path / "photos")
    project = Project(tmp_path)
    target = "data/weights/squeezenet1_0_deepcompression_bgr.pt"
    text = project.snakemake(
        "--cores", "1", target, study="own_images", config=["images=photos", f"mirror={tmp_path}/none"], fails=True
    )
    assert "squeezenet1_0_deepcompression_bgr.pt could not be obtained" in text and "DML_MIRROR" in text
