import csv
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from example_results import NAMES, write
from project import ROOT
from test_report import Page

from dml import league, league_page
from dml.league import build, leagues, present, rank_ranges, read_claims
from dml.results import Results
from dml.stats import interval
from dml.tabulation import Cell

FEW = ["pretrained", "contrastive", "triplet"]
RNG_SEED = 0


def study(folder, name, changes=None, protocol=None, columns=None, values=None, **written):
    """A made-up study: `changes` to study.json, `protocol` in it, `columns` of runs.csv, `values` of methods' seeds."""
    write(folder / name, **({"datasets": 1} | written))
    path = folder / name / "study.json"
    described = json.loads(path.read_text())
    described |= {"study": name} | (changes or {}) | {"protocol": described["protocol"] | (protocol or {})}
    path.write_text(json.dumps(described))
    runs = pd.read_csv(folder / name / "runs.csv", dtype=str, keep_default_na=False)
    runs.assign(**(columns or {})).to_csv(folder / name / "runs.csv", index=False)
    metrics = pd.read_csv(folder / name / "metrics.csv", dtype=str, keep_default_na=False)
    for method, of_seeds in (values or {}).items():
        own = metrics["method"] == method
        metrics.loc[own, "value"] = metrics.loc[own, "seed"].map({str(s): str(v) for s, v in enumerate(of_seeds)})
    metrics.to_csv(folder / name / "metrics.csv", index=False)
    return Results.load(folder / name)


def rows(*studies):
    return build(leagues(studies))


def ranks(table):
    return {row["title"]: (row["rank"], row["rank_low"], row["rank_high"]) for _, row in table.iterrows()}


def test_studies_of_one_protocol_share_a_table(tmp_path):
    first = study(tmp_path, "first", methods=FEW)
    second = study(tmp_path, "second", methods=["margin"], protocol={"trials": 9, "seeds": 9, "batch_part": 8})
    table = rows(first, second)
    assert table["title"].tolist() == ["Contrastive", "Triplet", "Margin & co_50%", "Pretrained"]
    assert table["study"].tolist() == ["first", "first", "second", "first"]
    assert table["rank"].tolist() == [1, 2, 3, 4] and set(table["league"]) == {1}
    assert [found.heading for found in leagues([first, second])] == ["Birds 1"]
    assert table.loc[0, "separated_map_at_r"] == pytest.approx(0.4)
    assert table.loc[0, "concatenated_precision_at_1"] == pytest.approx(0.75)
    assert table.loc[0, "separated_map_at_r_half_width"] == pytest.approx(0.0248, abs=1e-4)


@pytest.mark.parametrize(
    "changes, heading",
    [
        ({"protocol": {"trunk": "resnet50"}}, "trunk resnet50"),
        ({"protocol": {"weights": None}}, "weights none"),
        ({"protocol": {"crop_scale": [0.2, 1.0], "flip": 0.0}}, "crop_scale 0.2, 1, flip 0"),
        ({"protocol": {"trunk": "resnet50", "folds": 2, "a": 1, "b": 2}}, "trunk resnet50 and more"),
        ({"columns": {"code": "another"}}, "training code another"),
        ({"columns": {"measuring_code": "another"}}, "measuring code another"),
        ({"columns": {"data": "another"}}, "trainval images another"),
        ({"columns": {"test": "another"}}, "test images another"),
    ],
)
def test_other_protocols_images_and_code_have_tables_of_their_own(changes, heading, tmp_path):
    found = leagues([study(tmp_path, "first", methods=FEW), study(tmp_path, "second", methods=FEW, **changes)])
    assert len(found) == 2 and found[1].heading == f"Birds 1: {heading}"
    assert [len(of_league.entries) for of_league in found] == [3, 3]


def test_headings_name_as_few_keys_as_tell_all_tables_apart(tmp_path):
    keys = {"trunk": "resnet50", "a": 1, "b": 1, "c": 1}
    protocols = {"first": keys, "second": keys | {"c": 2}, "third": keys | {"a": 2, "trunk": "vit_small_16"}}
    found = leagues([study(tmp_path, name, methods=FEW, protocol=own) for name, own in protocols.items()])
    assert [of_league.heading.removeprefix("Birds 1: ") for of_league in found] == [
        "trunk resnet50, a 1, c 1", "trunk resnet50, a 1, c 2", "trunk vit_small_16, a 2, c 1"
    ]  # fmt: skip
    others = {name: own | {"d": 1, "e": name} for name, own in protocols.items()}
    found = leagues([study(tmp_path / "more", name, methods=FEW, protocol=own) for name, own in others.items()])
    assert [of_league.heading.removeprefix("Birds 1: ") for of_league in found] == [
        "e first and more", "c 2 and more", "trunk vit_small_16 and more"
    ]  # fmt: skip


def test_where_weights_are_found_tells_nothing_apart(tmp_path):
    weights = {"file": "elsewhere.pth", "sha256": "0123abcd", "urls": ["https://example.org"]}
    first = study(tmp_path, "first", methods=FEW)
    assert len(leagues([first, study(tmp_path, "second", methods=FEW, protocol={"weights": weights})])) == 1


def test_each_data_set_has_a_table(tmp_path):
    found = leagues([study(tmp_path, "first", datasets=2)])
    assert [of_league.heading for of_league in found] == ["Birds 1", "Birds 2"]


def test_the_same_runs_stand_there_once(tmp_path):
    long = study(tmp_path, "long", methods=FEW, seeds=6)
    short = study(tmp_path, "short", methods=FEW, seeds=3)
    table = rows(short, long)
    assert table["study"].tolist() == ["long"] * 3 and table["title"].tolist()[0] == "Contrastive"
    assert table["seeds"].tolist() == [6, 6, 6]


def test_the_same_method_with_other_values_is_told_apart_by_its_study(tmp_path):
    first = study(tmp_path, "first", methods=FEW)
    second = study(tmp_path, "second", methods=FEW, values={"contrastive": [0.2, 0.21, 0.19]})
    table = rows(first, second)
    assert table["title"].tolist() == ["Contrastive (first)", "Triplet", "Contrastive (second)", "Pretrained"]


def test_runs_on_levels_of_factors_and_other_ways_of_retrieval_do_not_enter(tmp_path):
    plain = study(tmp_path, "plain", methods=FEW)
    rich = study(tmp_path, "rich", methods=FEW, everything=True)
    assert rich.study["factors"] and set(rich.metrics["retrieval"]) > {""}
    kept = ["title", "rank", "rank_low", "rank_high", "separated_map_at_r", "concatenated_map_at_r", "n"]
    pd.testing.assert_frame_equal(rows(plain)[kept], rows(rich)[kept])


def test_methods_with_failed_seeds_have_no_rank_and_those_without_a_value_say_why(tmp_path):
    found = leagues([study(tmp_path, "first", datasets=2)])
    table = build(found)
    table = table[table["league"] == 2].set_index("method")
    assert table.index.tolist() == ["contrastive", "triplet", "pretrained", "margin", "proxy_nca"]
    assert table["rank"].isna().tolist() == [False, False, False, True, True]
    assert table.loc["margin", "n"] == 2 and not table.loc["margin", "complete"]
    assert "the loss is NaN" in table.loc["proxy_nca", "failure"]
    cells = present(build(found), found).loc["Birds 2"]
    assert cells.iloc[3]["", "n"] == "2 of 3" and cells.iloc[3]["", "Rank"] == "–"
    assert cells.iloc[4]["Separated", "MAP@R"].text.startswith("failed: ")


def test_ranks_are_certain_where_methods_differ_in_every_seed_alike():
    noise = np.random.default_rng(RNG_SEED).normal(0, 0.02, 10)
    paired = pd.DataFrame({"a": 0.400 + noise, "b": 0.399 + noise, "c": 0.398 + noise})
    found = rank_ranges(paired, np.random.default_rng(RNG_SEED))
    assert found["low"].tolist() == found["high"].tolist() == [1, 2, 3]
    apart = pd.DataFrame({"a": [*(0.400 + noise), *[np.nan] * 10], "b": [*[np.nan] * 10, *(0.399 + noise)]})
    found = rank_ranges(apart, np.random.default_rng(RNG_SEED))
    assert found["low"].tolist() == [1, 1] and found["high"].tolist() == [2, 2]


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
def test_ranges_agree_with_student_t_intervals(n):
    values = np.random.default_rng(n).normal(0.4, 0.01, n)
    mean, half_width, _ = interval(values)
    inside = pd.DataFrame({"method": values, "constant": mean + 0.8 * half_width})
    beyond = pd.DataFrame({"method": values, "constant": mean + 1.25 * half_width})
    rng = np.random.default_rng(RNG_SEED)
    assert rank_ranges(inside, rng).loc["method"].tolist() == [1, 2]
    assert rank_ranges(beyond, rng).loc["method"].tolist() == [2, 2]


def test_a_single_seed_has_no_range():
    values = pd.DataFrame({"a": [0.4, 0.5], "b": [0.45, np.nan]})
    found = rank_ranges(values, np.random.default_rng(RNG_SEED))
    assert found.loc["a"].tolist() == [1, 2] and found.loc["b"].isna().all()


def test_seeds_are_paired_between_studies_of_one_root(tmp_path):
    noise = np.random.default_rng(RNG_SEED).normal(0, 0.02, 10)
    first = study(tmp_path, "first", methods=["contrastive"], seeds=10, values={"contrastive": 0.4 + noise})
    values = {"triplet": 0.399 + noise}
    same = study(tmp_path, "same", methods=["triplet"], seeds=10, values=values)
    assert ranks(rows(first, same)) == {"Contrastive": (1, 1, 1), "Triplet": (2, 2, 2)}
    other = study(tmp_path, "other", methods=["triplet"], seeds=10, values=values, protocol={"seed": 7})
    assert ranks(rows(first, other)) == {"Contrastive": (1, 1, 2), "Triplet": (2, 1, 2)}


def test_the_order_of_the_studies_changes_no_rank(tmp_path):
    first, second = study(tmp_path, "first", methods=FEW), study(tmp_path, "second", methods=["margin", *NAMES[5:12]])
    assert ranks(rows(first, second)) == ranks(rows(second, first))


def test_hyperparameters_are_said_to_be_searched_or_not(tmp_path):
    table = rows(study(tmp_path, "first", methods=FEW, trials=7)).set_index("method")
    assert table["setting"].to_dict() == {"contrastive": "7 trials", "triplet": "7 trials", "pretrained": "–"}


def claims(path, *lines):
    fields = "method,title,year,venue,dataset,precision_at_1,by,backbone,dimension,source,doubt,note"
    path.write_text("\n".join([fields, *lines]) + "\n", encoding="utf-8")
    return path


def test_claims_are_of_the_data_set_or_of_the_nearest_benchmark(tmp_path):
    path = claims(
        tmp_path / "claims.csv",
        "contrastive,A paper,2006,CVPR,cub200,26.40,,GoogLeNet,64,a table,,",
        "contrastive,A paper,2006,CVPR,sop_official,42.0,,GoogLeNet,64,a table,,",
        "triplet,Another,2005,NIPS,,,,,,,,",
    )
    found = leagues([study(tmp_path, "first", methods=["pretrained", "contrastive", "triplet", "margin"])])
    table = build(found, path).set_index("method")
    assert table.loc["contrastive", ["claimed", "claimed_on", "year"]].tolist() == [0.264, "cub200", 2006]
    assert table["claimed"].notna().sum() == 1 and table.loc["triplet", "year"] == 2005
    assert table.loc["margin", ["year", "claimed_by"]].isna().tolist() == [True, False]
    assert table.loc["margin", "paper"] == "" and table.loc["triplet", "paper"] == "Another, NIPS 2005"
    cells = present(build(found, path), found)
    assert cells.iloc[0]["", "Claimed"] == Cell("26.40")  # the digits of the paper
    assert cells.iloc[1]["", "Claimed"] == Cell("–") and cells.iloc[1]["", "Year"] == "2005"
    known = read_claims(path)
    assert league.claim_of(known, "contrastive", "sop")["claimed"] == pytest.approx(0.42)
    assert "claimed" not in league.claim_of(known, "triplet", "sop")


def test_claims_of_other_papers_and_of_disagreeing_sources_are_marked(tmp_path):
    path = claims(
        tmp_path / "claims.csv",
        "contrastive,A paper,2006,CVPR,cub200,26.4,,GoogLeNet,64,a table,,older",
        'margin,A paper,2006,CVPR,cub200,26.4,"Another, ECCV 2016",GoogLeNet,64,a table,,',
        "triplet,A paper,2006,CVPR,cub200,26.4,,GoogLeNet,64,a table,a list has 27.0,",
    )
    found = leagues([study(tmp_path, "first", methods=["contrastive", "margin", "triplet", "proxy_nca"])])
    table = build(found, path)
    by = table.set_index("method")["claimed_by"].to_dict()
    assert by == dict.fromkeys(["contrastive", "triplet"], "A paper, CVPR 2006") | {
        "margin": "Another, ECCV 2016", "proxy_nca": ""
    }  # fmt: skip
    marks = {row["", "Method"].text: row["", "Claimed"].mark for _, row in present(table, found).iterrows()}
    assert marks == {"Contrastive": "", "Triplet": "?", "Margin & co_50%": "?", "ProxyNCA": ""}


def test_a_method_with_a_free_name_has_the_claim_of_its_file_and_without_a_file_none(tmp_path):
    described = study(tmp_path, "first", methods=["contrastive", "triplet"])
    described.study["methods"][0]["file"] = "proxy_anchor"
    described.study["methods"][1]["file"] = None  # a loss of pytorch-metric-learning that is called like one of ours
    table = rows(described)
    assert table["paper"].tolist() == ["Proxy Anchor Loss for Deep Metric Learning, CVPR 2020", ""]
    assert table["year"].isna().tolist() == table["claimed"].isna().tolist() == [False, True]


def verdict(*studies):
    found = leagues(studies)
    return Page(str(league_page.verdict(found[0], build(found)))).words


def test_the_verdict_says_whether_others_may_be_first(tmp_path):
    three = study(tmp_path, "three", methods=["contrastive", "triplet"])
    assert verdict(three) == (
        "Birds 1. Of the 2 methods with all seeds Contrastive has the highest separated MAP@R, 40.00 ± 2.48%. With "
        "other seeds the first might as well be Triplet."
    )
    apart = study(tmp_path, "apart", methods=["contrastive", "margin"])
    assert verdict(apart).endswith("%. With other seeds no other method would be first.")


def test_the_verdict_says_nothing_of_the_order_of_one_method(tmp_path):
    assert verdict(study(tmp_path, "three", methods=["contrastive"])) == (
        "Birds 1. Only Contrastive has all seeds, with a separated MAP@R of 40.00 ± 2.48%."
    )


def test_the_verdict_says_which_seeds_are_single(tmp_path):
    single = study(tmp_path, "single", methods=["contrastive"], seeds=1)  # 0.39
    near = study(tmp_path, "near", methods=["triplet", "margin"])  # 0.395 in the mean
    assert verdict(single, near).endswith(
        "Triplet has the highest separated MAP@R, 39.50 ± 2.48%. With other seeds its rank might be 2. One method has "
        "a single seed, and no range of ranks."
    )
    low = {"contrastive": [0.2]}
    below = study(tmp_path, "below", methods=["contrastive"], seeds=1, values=low)
    other = study(tmp_path, "other", methods=["method_5"], seeds=1)
    assert verdict(below, other, near).endswith(
        "With other seeds no other method of several seeds would be first. 2 methods have a single seed, and no range "
        "of ranks."
    )
    above = study(tmp_path, "above", methods=["contrastive"], seeds=1, values={"contrastive": [0.6]})
    assert verdict(above, near).endswith(
        "Contrastive has the highest separated MAP@R, 60.00%. It has a single seed: that it is first may be chance."
    )
    assert verdict(above, other).endswith("60.00%. With a single seed the order may be chance.")


def test_the_verdict_names_who_could_not_win(tmp_path):
    found = leagues([study(tmp_path, "first", datasets=2)])
    table = build(found)
    said = Page(str(league_page.verdict(found[1], table[table["league"] == 2]))).words
    assert said.startswith("Birds 2. Of the 3 methods with all seeds Contrastive has")
    assert said.endswith(" With failed seeds: Margin & co_50% (2 of 3 seeds). Without a result: ProxyNCA.")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The league of two studies, by the command."""
    folder = tmp_path_factory.mktemp("league")
    study(folder, "first", datasets=2, seeds=5)
    study(folder, "second", methods=["pretrained", *NAMES[5:9]], protocol={"trunk": "resnet50"})
    (folder / "unfinished").mkdir()
    return folder, run(folder, "first", "second", "unfinished")


def run(folder, *names, output="out"):
    command = [sys.executable, "-m", "dml.league", *(str(folder / name) for name in names)]
    command += ["--output", str(folder / output)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_tables_figures_and_a_page(made):
    folder, answer = made
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == f"league: {folder / 'out' / 'index.html'}\n"
    assert answer.stderr == f"left out: {folder / 'unfinished'}: no metrics.csv: not finished, or no study's folder\n"
    written = sorted(str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*.*"))
    figures = [f"figures/{stem}.{form}" for stem in ("1_birds1", "2_birds2", "3_birds1") for form in ("pdf", "svg")]
    assert written == [*figures, "index.html", "tables/league.csv", "tables/league.md", "tables/league.tex"]
    markdown = (folder / "out" / "tables" / "league.md").read_text()
    assert "## Birds 1: trunk bn\\_inception" in markdown and "## Birds 1: trunk resnet50" in markdown
    with (folder / "out" / "tables" / "league.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 15


def test_the_page_stands_alone_and_is_well_formed(made):
    page = Page((made[0] / "out" / "index.html").read_text())
    tags = [tag for tag, _ in page.elements]
    assert not {"link", "iframe", "img"} & set(tags) and tags.count("svg") == 3
    assert page.all("script") == [{}], "one, which stands on the page itself"
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [attributes["href"][1:] for attributes in page.all("a") if attributes["href"].startswith("#")]
    assert links and set(links) <= set(ids)
    assert all("scope" in attributes or not attributes for attributes in page.all("th") if "colspan" not in attributes)
    assert all(attributes["aria-label"] for attributes in page.all("svg"))
    assert "Of the 4 methods with all seeds Contrastive has the highest separated MAP@R, 39.8" in page.words
    assert "Pretrained, which does not train, has 10.00%: no trained method is below." in page.words
    assert (
        "Margin & co_50%" in page.words
        and "Sampling Matters in Deep Embedding Learning, ICCV 2017 CUB-200-2011 63.6" in page.words
    )


def test_equal_results_give_equal_bytes(made):
    folder, _ = made
    run(folder, "first", "second", output="again")
    for path in sorted((folder / "out").rglob("*.*")):
        assert path.read_bytes() == (folder / "again" / path.relative_to(folder / "out")).read_bytes(), path


def test_what_cannot_be_read_is_named(made):
    folder, _ = made
    answer = run(folder, "unfinished")
    assert answer.returncode == 1 and "error: no finished study among the folders" in answer.stderr
    study(folder / "copy", "first")
    answer = run(folder, "first", "copy/first")
    assert "error: " in answer.stderr and "the study 'first' is named twice" in answer.stderr
    (folder / "copy" / "first" / "study.json").write_text("{}")
    answer = run(folder, "copy/first")
    assert answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1


def test_nothing_finished_or_one_seed_is_drawn_and_said(tmp_path):
    for name, written, said in (
        ("failed", {"methods": ["proxy_nca"]}, "No method has a result of every seed."),
        ("single", {"seeds": 1}, "With a single seed the order may be chance."),
    ):
        found = [study(tmp_path, name, **written)]
        league.write(found, tmp_path / f"{name}_out")
        assert said in Page((tmp_path / f"{name}_out" / "index.html").read_text()).words


def test_the_page_has_a_claim_once_with_all_its_methods(tmp_path):
    path = claims(
        tmp_path / "claims.csv",
        "contrastive,A paper,2006,CVPR,cub200,26.4,,GoogLeNet,64,a table,a list has 27.0,ours has more",
        "margin,A paper,2006,CVPR,cub200,26.4,,GoogLeNet,64,a table,a list has 27.0,",
        "triplet,A paper,2006,CVPR,cub200,30.0,,GoogLeNet,64,a table,,",
    )
    league.write([study(tmp_path, "first", datasets=2)], tmp_path / "out", path)
    words = Page((tmp_path / "out" / "index.html").read_text()).words
    of_both = "Contrastive and Margin & co_50% 2006 A paper, CVPR 2006 CUB-200-2011 26.4 GoogLeNet 64 doubtful: a list"
    assert words.count("A paper, CVPR 2006") == 2
    assert f"{of_both} has 27.0; ours has more a table Triplet 2006 A paper" in words


def of_cub(described):
    """The same results as if of CUB-200-2011."""
    described.study["datasets"][0] |= {"name": "cub200", "title": "CUB-200-2011"}
    for frame in (described.metrics, described.runs, described.best):
        frame["dataset"] = "cub200"
    return described


def claims_in(axes):
    """Marker -> where it stands, of the claims in a panel."""
    drawn = [line for line in axes.lines if line.get_marker() in (league_page.OWN, league_page.DOUBTFUL)]
    return {line.get_marker(): pytest.approx([line.get_xdata()[0], line.get_ydata()[0]]) for line in drawn}


def test_the_figure_shows_measured_and_claimed(tmp_path):
    figure = league_page.draw(rows(of_cub(study(tmp_path, "first", methods=["pretrained", "contrastive", "margin"]))))
    of_map, of_precision = figure.axes
    assert [label.get_text() for label in of_map.get_yticklabels()] == ["Contrastive", "Margin & co_50%", "Pretrained"]
    dots = [line.get_xdata()[0] for line in of_map.lines if line.get_marker() == "o"]
    assert dots == pytest.approx([40, 30, 10])
    assert claims_in(of_precision) == {league_page.DOUBTFUL: [26.4, 0], league_page.OWN: [63.6, 1]}
    legend = {handle.get_marker(): handle.get_label() for handle in figure.legends[0].legend_handles}
    assert legend[league_page.OWN] == "claimed by its paper"
    assert legend[league_page.DOUBTFUL] == "by another paper, or doubtful"


def test_claims_on_other_images_have_an_axis_of_their_own(tmp_path):
    table = rows(study(tmp_path, "first", methods=["pretrained", "contrastive", "margin"]))
    _, of_precision, of_claims = league_page.draw(table).axes
    assert claims_in(of_precision) == {} and len(claims_in(of_claims)) == 2
    assert of_claims.get_title(loc="left") == "Claimed, on CUB-200-2011"
    assert of_precision.get_xlim()[0] > 35 and of_claims.get_xlim()[0] < 30
    unclaimed = rows(study(tmp_path, "second", methods=["pretrained"]))
    assert len(league_page.draw(unclaimed).axes) == 2
