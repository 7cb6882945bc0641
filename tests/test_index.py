"""The page over all studies: finished, broken and half-finished ones, and the other pages."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from urllib.parse import unquote

import pandas as pd
import pytest
from example_results import write
from project import ROOT
from test_league import study
from test_report import Page

from dml import compare, index
from dml.results import Results

FEW = ["pretrained", "contrastive", "triplet"]


@pytest.fixture
def folders(tmp_path):
    """The folders of reports and results, empty."""
    for name in ("reports", "results"):
        (tmp_path / name).mkdir()
    return tmp_path / "reports", tmp_path / "results"


def report(reports, name, title="A <title>", of_study=True):
    """A page, with the table that tells a study's report from others."""
    (reports / name / "tables").mkdir(parents=True)
    (reports / name / "index.html").write_text(f"<html><head>\n<title>{title}</title></head></html>")
    if of_study:
        (reports / name / "tables" / "accuracy.csv").write_text("dataset\n")


def page(folders):
    return Page(index.write(*folders).read_text(encoding="utf-8"))


def why(folders, name):
    found = index.describe(name, *folders)
    assert isinstance(found, index.Other)
    return found.why


def test_a_finished_study_is_described(folders):
    reports, results = folders
    study(results, "birds", methods=[*FEW, "proxy_nca"], datasets=2, columns={"commit": "0123456789ab"})
    report(reports, "birds")
    os.utime(results / "birds" / "metrics.csv", (0, datetime(2024, 5, 6, 23, 59, tzinfo=UTC).timestamp()))
    found = index.describe("birds", *folders)
    assert (found.title, found.description, found.link) == ("An example & its results", "Made up.", "birds/index.html")
    assert found.methods == ["Pretrained", "Contrastive", "Triplet", "ProxyNCA"] and found.seeds == 3
    assert (found.commits, found.written) == ("0123456789ab", "2024-05-06")
    words = page(folders).words
    assert "Birds 1 Contrastive 40.00 ± 2.48 3 Triplet" in words and "Birds 2 Contrastive 38.00 ± 2.48 3" in words
    assert "Study birds · 3 seeds · results of 2024-05-06 · commit 0123456789ab" in words
    assert "4 methods Pretrained, Contrastive, Triplet, ProxyNCA" in words and "no report yet" not in words


def test_every_commit_of_a_study_is_named(folders):
    write(folders[1] / "birds", methods=FEW)
    path = folders[1] / "birds" / "runs.csv"
    runs = pd.read_csv(path, dtype=str, keep_default_na=False)
    runs.loc[0, "commit"] = "fedcba987654+changes"
    runs.to_csv(path, index=False)
    assert index.describe("birds", *folders).commits == "0123456789ab and fedcba987654+changes"


@pytest.mark.parametrize(
    "written, values, best",
    [
        ({"methods": ["contrastive", "margin"]}, {}, ["Birds 1", "Contrastive", "40.00 ± 2.48", "3", "none"]),
        ({"methods": FEW, "seeds": 1}, {}, ["Birds 1", "Triplet", "40.50", "1", "not tested: a single seed"]),
        ({"methods": ["contrastive"]}, {}, ["Birds 1", "Contrastive", "40.00 ± 2.48", "3", "none"]),
        (
            {"methods": ["contrastive", "triplet", *(f"method_{i}" for i in range(5, 9))]},
            {f"method_{i}": [0.3, 0.5, 0.39] for i in range(5, 9)},
            ["Birds 1", "Contrastive", "40.00 ± 2.48", "3", "5 others"],
        ),
        ({"methods": ["proxy_nca"]}, {}, ["Birds 1", "no method has a result"]),
    ],
)
def test_the_best_method_and_those_not_told_from_it(written, values, best, folders):
    study(folders[1], "birds", values=values, **written)
    row = index.describe("birds", *folders).best.iloc[0].dropna()
    assert [getattr(cell, "text", cell) for cell in row] == best


def test_methods_with_failed_seeds_are_not_the_best(folders):
    study(folders[1], "birds", methods=["contrastive", "margin"], datasets=2, values={"margin": [0.9, 0.9, 0.9]})
    best = index.describe("birds", *folders).best
    assert [cell.text for cell in best["Best method"]] == ["Margin & co_50%", "Contrastive"]


def test_studies_are_sorted_by_title_and_those_without_a_report_have_no_link(folders):
    for name, title in (("a", "Zebras"), ("b", "ants"), ("c", "Bees")):
        study(folders[1], name, methods=FEW, changes={"title": title})
    report(folders[0], "c")
    html = page(folders)
    assert [html.words.index(title) for title in ("ants", "Bees", "Zebras")] == sorted(
        html.words.index(title) for title in ("ants", "Bees", "Zebras")
    )
    assert html.words.count("no report yet") == 2
    assert [a["href"] for a in html.all("a") if not a["href"].startswith("#")] == ["c/index.html"]


def test_unfinished_and_broken_studies_are_listed_with_why(folders):
    reports, results = folders
    for name in ("started", "stray"):
        (results / name).mkdir()
    (results / "started" / "plan.json").write_text("{}")
    write(results / "torn", methods=FEW)
    (results / "torn" / "runs.csv").write_text("dataset\n")
    write(results / "odd", methods=FEW)
    described = json.loads((results / "odd" / "study.json").read_text())
    (results / "odd" / "study.json").write_text(json.dumps(described | {"datasets": [{}]}))
    write(results / "binary", methods=FEW)
    (results / "binary" / "metrics.csv").write_bytes(b"\xff\xfe\x00")
    report(reports, "alone", "An old study")
    report(reports, "torn", "Torn &amp; broken")
    assert why(folders, "started") == "not finished: it goes on with the command that began it"
    assert why(folders, "stray") == f"{results / 'stray'}: neither metrics.csv nor plan.json: no study's folder"
    assert "runs.csv: the column 'method' is missing" in why(folders, "torn")
    assert why(folders, "odd") == "its results could not be read: KeyError: 'name'"
    assert "\n" not in why(folders, "binary")
    assert why(folders, "alone") == f"only its report is here: there are no results in {results / 'alone'}"
    study(results, "good", methods=FEW)
    html = page(folders)
    assert "1 finished" in html.words and "6 without numbers" in html.words and "Contrastive" in html.words
    assert "An old study, alone: only its report" in html.words and "Torn & broken, torn:" in html.words
    links = [a["href"] for a in html.all("a") if not a["href"].startswith("#")]
    assert links == ["alone/index.html", "torn/index.html"]


def test_other_pages_are_linked_by_their_titles(folders):
    reports, results = folders
    for name in ("first", "second"):
        study(results, name, methods=FEW)
    compare.write(*(Results.load(results / name) for name in ("first", "second")), reports / "first_vs_second")
    report(reports, "league", "The field\n on one scale", of_study=False)
    report(reports, "untitled", "", of_study=False)
    (reports / "fidelity").mkdir()  # tables alone
    (reports / ".hidden").mkdir()
    assert [(other.name, other.title, other.link) for other in index.other_pages(*folders)] == [
        ("first_vs_second", "first and second, compared", "first_vs_second/index.html"),
        ("league", "The field on one scale", "league/index.html"),
        ("untitled", "untitled", "untitled/index.html"),
    ]
    assert index.study_names(*folders) == ["first", "second"]
    assert "The field on one scale, league" in page(folders).words


def test_names_are_escaped_and_links_lead_where_they_should(folders):
    reports, results = folders
    odd = 'a <b>&"50%#?é'
    study(results, odd, methods=FEW, changes={"title": "<i>title", "description": "<script>alert(1)</script>"})
    report(reports, odd)
    report(reports, "x <y>", "&lt;u&gt;", of_study=False)
    (results / "<s>").mkdir()
    text = index.write(*folders).read_text(encoding="utf-8")
    assert not any(wrong in text for wrong in ("<i>", "<b>&", "<u>", "<s>", "<y>", "<script>alert"))
    links = [a["href"] for a in Page(text).all("a") if not a["href"].startswith("#")]
    assert len(links) == 2 and all((reports / unquote(link)).is_file() for link in links)


def test_there_need_be_no_study_but_one_of_the_folders(folders):
    assert "None: make report runs a small one." in page(folders).words
    reports, results = folders
    results.rmdir()
    assert "0 finished" in page(folders).words
    with pytest.raises(ValueError, match="nowhere and .*: no such folders"):
        index.write(reports / "nowhere", reports / "none")
    assert not (reports / "nowhere").exists()


def test_the_page_of_results_without_any_report_makes_the_folder(folders):
    reports, results = folders
    reports.rmdir()
    study(results, "birds", methods=FEW)
    assert "1 finished" in page(folders).words


def test_the_page_stands_alone_and_is_the_same_again(folders):
    study(folders[1], "birds", datasets=2)
    report(folders[0], "birds")
    text = index.write(*folders).read_bytes()
    html = Page(text.decode())
    ids = [attributes["id"] for _, attributes in html.elements if "id" in attributes]
    inside = [a["href"][1:] for a in html.all("a") if a["href"].startswith("#")]
    assert inside and set(inside) <= set(ids) and len(set(ids)) == len(ids)
    assert not {"link", "iframe", "img"} & {tag for tag, _ in html.elements}
    assert index.write(*folders).read_bytes() == text
    assert sorted(path.name for path in folders[0].iterdir()) == ["birds", "index.html"], "nothing is left over"


def test_the_command_says_where_the_page_is_or_what_is_wrong(folders):
    def run(*arguments):
        command = [sys.executable, "-m", "dml.index", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    reports, results = folders
    answer = run(reports, "--results", results)
    assert (answer.returncode, answer.stdout) == (0, f"index: {reports / 'index.html'}\n"), answer.stderr
    answer = run(reports / "nowhere", "--results", results / "nowhere")
    assert answer.returncode == 1 and answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1


def test_make_index_runs_the_command():
    answer = subprocess.run(["make", "--dry-run", "index"], cwd=ROOT, capture_output=True, text=True)
    assert "python -m dml.index reports --results results" in answer.stdout
