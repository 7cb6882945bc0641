"""Hyperparameters taken from elsewhere, and the paper's numbers beside a study's own."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from example_results import write

from dml import plugins, published
from dml.published import Paper, check_counterpart, given_hyperparameters, origin_of, results
from dml.results import Results
from dml.search import Range, given, grid
from dml.study import Study
from dml.tabulation import Cell

ROOT = Path(__file__).parents[1]
STUDIES, PAPERS = ROOT / "workflow" / "studies", ROOT / "workflow" / "published"
REPRODUCTIONS = sorted(STUDIES.glob("reality_check_*.yaml"))
CUB = STUDIES / "reality_check_cub.yaml"
AS_IN_THE_PAPER = {"cub200": (200, 11788), "cars196": (196, 16185), "sop": (22634, 120053)}
CUB_ALONE = {"cub200": AS_IN_THE_PAPER["cub200"]}


def study(path=CUB, **changes):
    values = Study.load(path).model_dump()
    for key, value in changes.items():
        *keys, last = key.split("__")
        place = values
        for part in keys:
            place = place[part]
        place[last] = value
    return Study.check(values, "study.yaml")


def reasons(changed, counts=CUB_ALONE):
    """Why trained methods are not comparable."""
    unknown = ("pretrained", "soft_triple")  # of these something is not known, whatever the study does
    return {row["reason"] for row in results(changed, PAPERS, counts) if row["method"] not in unknown}


@pytest.mark.parametrize("path", REPRODUCTIONS, ids=lambda path: path.stem)
def test_the_papers_studies_do_what_the_paper_did(path):
    loaded = Study.load(path)
    paper = Paper.of(loaded.published, PAPERS)
    counts = {dataset.name: AS_IN_THE_PAPER[dataset.name] for dataset in loaded.datasets}
    found = results(loaded, PAPERS, counts)
    assert all(len(paper.protocol_of(loaded.published.setting, name)) == 24 for name in counts)
    unknown = {row["method"]: row["reason"] for row in found if row["reason"]}
    assert set(unknown) <= {"pretrained", "soft_triple"}  # how it was reduced; how many centres, but on SOP
    assert all("not known" in reason for reason in unknown.values())
    known = {(row["embedding"], row["metric"]) for row in found}
    assert len(known) == (0 if "batch256" in path.stem else 1 if "sop" in path.stem else 6)


@pytest.mark.parametrize("path", REPRODUCTIONS, ids=lambda path: path.stem)
def test_the_papers_best_values_can_take_the_place_of_a_search(path):
    taken = study(path, hyperparameters="published")
    values = given_hyperparameters(taken, path, PAPERS)
    assert set(values) == {(d.name, m.name) for d in taken.datasets for m in taken.methods}
    for (_, method), of_method in values.items():
        ranges = taken.method(method).search_ranges()
        assert set(of_method) == set(ranges)
        for name, value in of_method.items():
            assert ranges[name].low <= value <= ranges[name].high
    assert all(taken.trials(method.name) == 0 for method in taken.methods)
    assert origin_of(taken) == f"published: reality_check, {taken.published.setting}"
    counts = {dataset.name: AS_IN_THE_PAPER[dataset.name] for dataset in taken.datasets}
    assert reasons(taken, counts) <= {""}


def test_the_papers_values_are_those_of_its_table():
    values = given_hyperparameters(study(hyperparameters="published"), CUB, PAPERS)
    assert values["cub200", "pretrained"] == {}
    assert values["cub200", "contrastive"] == {"pos_margin": -0.2, "neg_margin": 0.384119137}
    assert values["cub200", "fastap"] == {"num_bins": 17} and type(values["cub200", "fastap"]["num_bins"]) is int
    assert values["cub200", "margin"]["loss_lr"] == pytest.approx(1.31e-3, rel=1e-2)


def test_values_may_come_from_a_file(tmp_path):
    file = tmp_path / "values.yaml"
    few = study(hyperparameters="values.yaml", methods=[{"name": "pretrained"}, {"name": "triplet"}])
    file.write_text("cub200: {triplet: {margin: 0.3}, contrastive: {pos_margin: 0, neg_margin: 1}}\ncars196: {}\n")
    expected = {("cub200", "pretrained"): {}, ("cub200", "triplet"): {"margin": 0.3}}
    assert given_hyperparameters(few, tmp_path / "study.yaml", PAPERS) == expected
    for text, message in (
        (
            "cub200: {triplet: {}}",
            r"values\.yaml: triplet on cub200: no value for 'margin': hold it constant",
        ),
        ("cub200: {triplet: {margn: 0.3}}", "cub200: triplet: 'margn' is no hyperparameter that a search would choose"),
        ("cub200: {triplets: {margin: 0.3}}", "cub200: 'triplets' is no method of the study or of dml/methods/"),
        ("cub: {triplet: {margin: 0.3}}", "'cub' is no data set of the study or of dml/datasets/"),
        ("cub200: {triplet: {margin: high}}", "margin: expected a finite number, not 'high'"),
        ("cub200: [triplet]", "expected data set -> method -> hyperparameter -> value"),
        ("- 3", "expected data set -> method -> hyperparameter -> value"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            given_hyperparameters(few, tmp_path / "study.yaml", PAPERS)
        assert str(file) in str(caught.value)
    file.unlink()
    with pytest.raises(
        ValueError, match=r"study\.yaml: hyperparameters: 'values.yaml' is none of search, defaults and published"
    ):
        given_hyperparameters(few, tmp_path / "study.yaml", PAPERS)
    with pytest.raises(ValueError, match="hyperparameters: '.' is none of"):
        given_hyperparameters(few.model_copy(update={"hyperparameters": "."}), tmp_path / "study.yaml", PAPERS)


def test_a_study_that_searches_is_given_nothing():
    assert given_hyperparameters(study(), CUB, PAPERS) is None


def test_unknown_papers_and_settings_are_refused():
    for published_by, message in (
        ({"paper": "realty_check", "setting": "batch32"}, "no paper 'realty_check'; choose from: reality_check"),
        ({"paper": "reality_check", "setting": "batch64"}, "has no 'batch64'; choose from: batch32, batch256"),
    ):
        with pytest.raises(ValueError, match=f"^study.yaml: .*{message}"):
            check_counterpart(study(published=published_by), Path("study.yaml"), PAPERS)
    check_counterpart(study(published=None), Path("study.yaml"), PAPERS)
    with pytest.raises(ValueError, match="hyperparameters: published needs to know by whom"):
        study(published=None, hyperparameters="published")


def test_a_paper_with_an_unknown_protocol_key_is_refused(tmp_path):
    text = (PAPERS / "reality_check" / "paper.yaml").read_text()
    (tmp_path / "paper.yaml").write_text(text.replace("crop_size:", "cropsize:"))
    with pytest.raises(ValueError, match="unknown protocol key 'cropsize'"):
        Paper.load(tmp_path / "paper.yaml")
    (tmp_path / "paper.yaml").write_text(text.replace("  weight_decay: 1.0e-4\n", ""))
    with pytest.raises(ValueError, match="protocol: the key 'weight_decay' is missing"):
        Paper.load(tmp_path / "paper.yaml")


def test_a_paper_names_every_method_that_it_has_results_of(tmp_path):
    shutil.copytree(PAPERS, tmp_path / "published")
    file = tmp_path / "published" / "reality_check" / "paper.yaml"
    file.write_text(file.read_text().replace("  triplet: {images_per_class: 4}\n", ""))
    with pytest.raises(ValueError, match="methods: 'triplet' is missing, which results.csv has"):
        check_counterpart(study(), CUB, tmp_path / "published")


@pytest.mark.parametrize(
    "changes, counts, expected",
    [
        ({}, (100, 5994), "100 classes with 5994 images, not 200 with 11788"),
        ({"protocol__trunk": "resnet50"}, None, "trunk is resnet50, not bn_inception"),
        ({"protocol__weights": None}, None, "weights is none, not sha256 52deb4733"),
        ({"protocol__pooling": None}, None, ""),
        ({"protocol__trials": 5}, None, "trials is 5, not 50"),
        ({"protocol__patience": 14}, None, "patience is 14, not 9"),
        ({"protocol__freeze_batchnorm": "everything"}, None, "freeze_batchnorm is everything, not statistics"),
        ({"protocol__head_bias": False}, None, "head_bias is no, not yes"),
        ({"protocol__crop_ratio": [0.75, 4 / 3]}, None, "crop_ratio is 0.75 to 1.33333, not 0.75 to 1.33"),
        ({"protocol__seeds": 3, "protocol__seed": 7}, None, ""),
        ({"hyperparameters": "published", "protocol__trials": 5}, None, ""),
        ({"hyperparameters": "mine.yaml"}, None, "the hyperparameters are of another origin"),
    ],
)
def test_what_differs_from_the_paper_is_named(changes, counts, expected):
    found = reasons(study(**changes), {"cub200": counts or (200, 11788)})
    assert found == {expected}


def test_another_search_of_one_method_is_named_for_that_method():
    cosface = {"name": "cosface", "fixed": {"scale": 64.0}, "ranges": {"margin": {"low": 0.0, "high": 0.5}}}
    entries = [{"name": "triplet"}, cosface, {"name": "fastap"}]
    found = {row["method"]: row["reason"] for row in results(study(methods=entries), PAPERS, CUB_ALONE)}
    assert found["triplet"] == "" and found["fastap"] == "trials are 50, not 31"
    assert found["cosface"] == (
        "margin is searched in other bounds than 0 to 1; scale is held constant, in the paper it was searched"
    )


@pytest.mark.parametrize(
    "entry, expected",
    [
        ({"name": "contrastive"}, ""),
        ({"name": "contrastive", "fixed": {"neg_margin": 1.5}}, "neg_margin is 1.5, not 0.384119137"),
        ({"name": "contrastive", "fixed": {"neg_margin": 0.384119137}}, ""),
        ({"name": "contrastive", "images_per_class": 2}, "images_per_class is 2, not 4"),
        ({"name": "margin", "fixed": {"loss_weight_decay": 0.1}}, "loss_weight_decay is 0.1, not 0.0"),
        ({"name": "proxy_nca", "fixed": {"loss_weight_decay": 0.0}}, "loss_weight_decay is 0.0, not 0.0001"),
        (
            {"name": "soft_triple", "fixed": {"centers_per_class": 2}},
            "what centers_per_class was in the paper is not known",
        ),
    ],
)
def test_other_constants_of_a_method_are_named(entry, expected):
    taken = study(methods=[entry], hyperparameters="published")
    assert {row["reason"] for row in results(taken, PAPERS, CUB_ALONE)} == {expected}


def test_a_constant_counts_whether_the_study_says_it_or_the_methods_file():
    for entry in ({"name": "soft_triple"}, {"name": "soft_triple", "fixed": {"centers_per_class": 10}}):
        for origin in ("published", "search"):
            found = results(study(methods=[entry], hyperparameters=origin), PAPERS, CUB_ALONE)
            assert {row["reason"] for row in found} == {"what centers_per_class was in the paper is not known"}


def test_soft_triple_on_sop_is_the_papers_only_with_one_centre():
    sop = STUDIES / "reality_check_sop.yaml"
    counts = {"sop": AS_IN_THE_PAPER["sop"]}
    (found,) = {r["reason"] for r in results(study(sop, methods=[{"name": "soft_triple"}]), PAPERS, counts)}
    assert "centers_per_class is 10, not 1" in found and "reg_weight is searched, in the paper it was not" in found


def test_other_data_sets_have_no_counterpart():
    assert results(study(), PAPERS, {"glyphs": (120, 2400)}) == []
    assert results(study(published=None), PAPERS, AS_IN_THE_PAPER) == []


def test_values_that_were_not_searched_say_so():
    ranges = {"margin": Range(low=0.0, high=1.0)}
    taken = given("birds", "triplet", ranges, {"margin": 0.999}, "published: a paper")
    assert (taken.origin, taken.score, taken.trials, taken.edges) == ("published: a paper", None, 0, {"margin": "high"})
    assert taken.fingerprint != given("birds", "triplet", ranges, {"margin": 0.5}, "published: a paper").fingerprint


def test_a_grid_holds_every_combination_once():
    ranges = {"n": Range(low=2, high=4, integer=True), "kind": Range(choices=["a", "b"])}
    points = grid(ranges)
    assert points == [{"kind": k, "n": n} for k in "ab" for n in (2, 3, 4)]
    entry = {"name": "fastap", "grid": True}
    assert study(methods=[entry]).trials("fastap") == 31
    assert study(methods=[entry | {"fixed": {"num_bins": 4}}]).trials("fastap") == 1
    with pytest.raises(ValueError, match=r"methods\.0: grid: margin: a grid needs integer: true, or choices"):
        study(methods=[{"name": "triplet", "grid": True}])


@pytest.fixture
def with_paper(tmp_path):
    """The made-up results, with published values for three of the methods on the first data set."""

    def make(reason=""):
        folder = write(tmp_path)
        rows = [
            {"method": "contrastive", "mean": 0.41, "half_width": 0.03},  # ours: 0.40, half width 0.0248
            {"method": "triplet", "mean": 0.42, "half_width": 0.001},
            {"method": "pretrained", "mean": 0.1, "half_width": ""},
            {"method": "margin", "mean": 0.29, "half_width": ""},
        ]
        with (folder / "published.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, published.RESULTS)
            writer.writeheader()
            for row in rows:
                place = {"dataset": "birds1", "embedding": "separated", "metric": "map_at_r", "source": "s", "note": ""}
                writer.writerow(place | row | {"reason": reason})
        return Results.load(folder)

    return make


def test_published_values_stand_beside_ours(with_paper):
    table = plugins.load("tables", "published").build(with_paper()).set_index("method")
    assert table["within"].to_dict() == {"contrastive": "both", "triplet": "no", "margin": "one", "pretrained": ""}
    assert table.loc["contrastive", "difference"] == pytest.approx(-0.01)
    assert table.loc["triplet", "ours"] == pytest.approx(0.395)
    assert table["n"].to_dict() == {"contrastive": 3, "triplet": 3, "margin": 3, "pretrained": 1}


def test_the_table_says_cell_by_cell_whether_they_agree(with_paper):
    found = with_paper()
    plugin = plugins.load("tables", "published")
    cells = plugin.present(plugin.build(found), found)
    rows = {row[0]: row[1:] for row in cells.itertuples(index=False, name=None)}
    assert rows["Contrastive"] == ("41.00 ± 3.00", "40.00 ± 2.48", Cell("\N{MINUS SIGN}1.00", mark="✓"))
    assert rows["Triplet"][2] == Cell("\N{MINUS SIGN}2.50", mark="✗")
    assert rows["Margin & co_50%"] == ("29.00", "30.00 ± 2.48", Cell("+1.00", mark="(✓)"))
    assert rows["Pretrained"] == ("10.00", "10.00", Cell("0.00"))


def test_incomparable_values_stand_beside_ours_without_a_difference(with_paper):
    found = with_paper(reason="trials is 5, not 50; trunk is convnet, not bn_inception")
    plugin = plugins.load("tables", "published")
    table = plugin.build(found)
    assert table["difference"].isna().all() and set(table["within"]) == {""}
    cells = plugin.present(table, found)
    assert cells.iloc[0, 0].text == "Not comparable: trials is 5, not 50; trunk is convnet, not bn_inception."
    assert cells.iloc[0, 0].span == cells.shape[1]
    assert cells.iloc[1, 1] == "41.00 ± 3.00" and cells.iloc[1, 3] == Cell("\N{EN DASH}")


def test_what_the_paper_does_not_give_is_said(with_paper):
    found = with_paper()
    plugin = plugins.load("tables", "published")
    cells = plugin.present(plugin.build(found), found)
    assert [row[0].text for row in cells.loc[["Birds 1, separated"]].to_numpy() if isinstance(row[0], Cell)] == [
        "Not known from the paper: ProxyNCA."
    ]
    assert cells.loc["Birds 2"].iloc[0].text == "No result of the paper is known for this data set and experiment."


def beside(folder, *rows, everything=True):
    """The made-up results with these published values: embedding, method, metric and mean."""
    write(folder, everything=everything)
    with (folder / "published.csv").open("a") as file:
        file.writelines(f"birds1,{row},,s,,\n" for row in rows)
    found = Results.load(folder)
    plugin = plugins.load("tables", "published")
    table = plugin.build(found)
    return table, plugin.present(table, found)


def test_every_metric_of_the_paper_has_its_columns(tmp_path):
    metrics = ["nmi", "recall_at_100", "recall_at_10", "map_at_r", "precision_at_1"]
    table, cells = beside(tmp_path, *(f"separated,triplet,{metric},0.5" for metric in metrics))
    groups = [group for group, name in cells.columns if name == "Ours"]
    assert groups == ["P@1", "MAP@R", "Recall@10", "Recall@100", "NMI"]
    row = cells.iloc[0]
    assert (row["Recall@10", "Paper"], row["Recall@10", "Ours"]) == ("50.00", "89.50 ± 2.48")
    assert (row["Recall@100", "Paper"], row["Recall@100", "Ours"]) == ("50.00", "–")  # is none of ours
    assert dict(zip(table["metric"], table["failure"], strict=True))["recall_at_100"] == "not measured"


@pytest.mark.parametrize("everything", [True, False], ids=["with binary codes", "without"])
def test_binary_codes_stand_beside_the_way_of_retrieval_of_that_name(tmp_path, everything):
    rows = "binary,triplet,map_at_r,0.3", "separated,triplet,map_at_r,0.4", "training,triplet,rho_2,0.3"
    table, cells = beside(tmp_path, *rows, everything=everything)
    assert table["embedding"].tolist() == ["separated", "binary"]
    ours = "36.50 ± 4.30" if everything else "–"
    assert cells.loc["Birds 1, binary"].iloc[0].tolist()[:3] == ["Triplet", "30.00", ours]


def test_a_failed_method_is_called_failed(tmp_path):
    table, cells = beside(tmp_path, "binary,proxy_nca,map_at_r,0.3", "separated,proxy_nca,map_at_r,0.3")
    assert set(table["failure"]) == {"fold 0: the loss is NaN at step 40"}
    assert cells["MAP@R", "Ours"].tolist()[0] == "failed"


def test_reasons_of_one_method_stand_with_the_others_reasons(with_paper, tmp_path):
    found = with_paper(reason="trials is 5, not 50")
    first = found.published["method"] == "triplet"
    found.published.loc[first, "reason"] = "trials is 5, not 50; images_per_class is 2, not 4"
    plugin = plugins.load("tables", "published")
    texts = [row[0].text for row in plugin.present(plugin.build(found), found).to_numpy() if isinstance(row[0], Cell)]
    assert texts[:2] == [
        "Not comparable: trials is 5, not 50.",
        "Triplet is not comparable: images_per_class is 2, not 4.",
    ]


def test_the_page_has_a_section_only_where_there_is_a_counterpart(with_paper, tmp_path):
    from dml.report import render

    plugin = plugins.load("tables", "published")

    def page(found):
        table = plugin.TITLE, plugin.CAPTION, plugin.present(plugin.build(found), found)
        return render(found, {"published": table}, {})

    beside = page(with_paper())
    assert "Beside the paper" in beside and 'href="https://example.org"' in beside and "41.00 ± 3.00" in beside
    folder = write(tmp_path / "alone")
    described = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps(described | {"counterpart": None}))
    alone = page(Results.load(folder))
    assert "Beside the paper" not in alone and plugin.TITLE not in alone
