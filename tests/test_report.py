import base64
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from example_results import NAMES, write

from dml import plotting, plugins
from dml.report import inline_svg, render
from dml.results import Results
from dml.tabulation import presented, write_csv, write_latex, write_markdown

PNG = base64.b64encode(b"\x89PNG not really").decode()
VOID = {"meta", "br", "img", "link", "input", "hr", "source", "wbr", "col", "base"}


class Page(HTMLParser):
    """Reads a page and fails on an element that is not closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.text.append(" ")

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def shown(kind, everything):
    """The tables or figures of a study that has everything, or nothing, of what a file may need."""
    return [name for name in plugins.names(kind) if everything or plugins.literal(kind, name, "NEEDS") is None]


def make_all(folder, out, everything=False):
    """Every table, figure and the page, as the pipeline makes them."""
    results = Results.load(folder)
    out.mkdir(exist_ok=True)
    tables, figures = {}, {}
    for name in shown("tables", everything):
        plugin = plugins.load("tables", name)
        values = plugin.build(results)
        cells = plugin.present(values, results)
        write_csv(values, out / f"{name}.csv")
        write_markdown(plugin.TITLE, plugin.CAPTION, cells, out / f"{name}.md")
        write_latex(plugin.TITLE, plugin.CAPTION, cells, out / f"{name}.tex")
        tables[name] = plugin.TITLE, plugin.CAPTION, cells
    for name in shown("figures", everything):
        plugin = plugins.load("figures", name)
        plotting.save(plugin.draw(results), out / f"figure_{name}")
        figures[name] = plugin.TITLE, plugin.CAPTION, (out / f"figure_{name}.svg").read_text()
    gallery = [example_gallery(dataset, next(iter(results.methods))) for dataset in results.datasets]
    (out / "index.html").write_text(render(results, tables, figures, gallery))


def example_gallery(dataset, method):
    neighbours = [{"png": PNG, "class": "a gull", "right": True}, {"png": PNG, "class": "<tern>", "right": False}]
    return {
        "dataset": dataset,
        "method": method,
        "rows": [{"query": {"png": PNG, "class": "a gull"}, "neighbours": neighbours}],
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make_all(write(folder), folder / "out")
    return Page((folder / "out" / "index.html").read_text())


@pytest.fixture(scope="module")
def full_page(tmp_path_factory):
    """Of a study that has everything that a table or figure may need."""
    folder = tmp_path_factory.mktemp("study")
    make_all(write(folder, everything=True), folder / "out", everything=True)
    return Page((folder / "out" / "index.html").read_text())


@pytest.fixture(params=["page", "full_page"])
def any_page(request):
    return request.getfixturevalue(request.param)


def summary(tmp_path, **study):
    return Page(render(Results.load(write(tmp_path, **study)), {}, {})).words


def test_nothing_is_loaded_from_elsewhere(any_page):
    page = any_page
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "iframe", "object", "embed", "video", "audio"}
    assert page.all("script") == [{}], "one, which stands on the page itself"
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "srcset", "poster", "data", "background") or (name.endswith("href") and tag != "a"):
                assert value.startswith(("data:", "#")), (tag, name, value)
    styles = "".join(page.text)
    assert "@import" not in styles
    assert re.findall(r"url\((?!#)", styles) == []
    assert page.all("meta")[2]["content"].startswith("default-src 'none'")


def test_every_id_is_one_of_a_kind_and_every_reference_leads_somewhere(any_page):
    page = any_page
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(ids.values()) == 1
    values = [value for _, attributes in page.elements for name, value in attributes.items() if value]
    hrefs = [v for _, a in page.elements for n, v in a.items() if n.endswith("href") and v.startswith("#")]
    references = {h[1:] for h in hrefs} | {r for v in values for r in re.findall(r"url\(#([^)]+)\)", v)}
    assert len(references) > 20
    assert references <= set(ids)


def test_the_page_holds_all_of_the_study(page):
    assert len(page.all("svg")) == len(shown("figures", everything=False))
    for name in shown("tables", everything=False):
        assert {"class": "table", "id": f"table-{name}"} in page.all("div")
    for text in (
        "An example & its results", "How to read this", "39.50 ± 2.48", "−0.2 to 2 ⚠ at the high edge",
        "failed: fold 0: the loss is NaN at step 40", "the network before the embedding", "0.16, 1", "0123456789ab",
        "c0dec0dec0dec0de", "A <fast> processor", "da7abirds1", "7e57birds2", "2.12.0", "power: 1",
        "faiss 1.15.1, numpy 2.4.6",
        "A Metric Learning Reality Check", "Musgrave, Kevin and Belongie, Serge and Lim, Ser-Nam",
    ):  # fmt: skip
        assert text in page.words, text


SECTIONS = {
    "additions": "What additions gain",
    "factors": "Factors beside the method",
    "retrieval": "Other ways of retrieval",
    "geometry": "Geometry of embeddings",
    "toys": "A toy",
    "selection": "What selection by the test would feign",
}


def test_a_section_appears_only_where_the_study_has_something_for_it(page, full_page):
    for section, heading in SECTIONS.items():
        for of_study, there in ((page, False), (full_page, True)):
            assert ({"id": section} in of_study.all("section")) is there, section
            assert (heading in of_study.words) is there, section
            assert ({"href": f"#{section}"} in of_study.all("a")) is there, section


def test_tables_of_nothing_have_no_section(tmp_path):
    results = Results.load(write(tmp_path))
    tables = {}
    for name in plugins.names("tables"):
        plugin = plugins.load("tables", name)
        tables[name] = plugin.TITLE, plugin.CAPTION, plugin.present(plugin.build(results), results)
    found = Page(render(results, tables, {}))
    assert not {section["id"] for section in found.all("section")} & set(SECTIONS)


def test_the_page_holds_all_that_a_study_has_beside_methods(full_page):
    assert len(full_page.all("svg")) == len(plugins.names("figures"))
    for name in plugins.names("tables"):
        assert {"class": "table", "id": f"table-{name}"} in full_page.all("div")
    for text in (
        "Trunk & more BN-Inception nothing: the study's own value", "Odd_50% <trunk> trunk odd; weights none",
        "Embedding size, frozen 64 embedding_size 64", "Contrastive 64 65.00 ± 2.48 −5.00 ± 2.48",
        "Binary 67.00 ± 2.48 −3.00 ± 2.48", "Triplet Contrastive −0.50 ± 4.97 0.71",
        "Triplet 69.50 ± 2.48 71.50 ± 0.00 +2.00 ± 2.48",
        "No other number of this page uses these.",
    ):  # fmt: skip
        assert text in full_page.words, text


def test_nothing_stands_on_the_page_twice(any_page):
    assert max(Counter(re.findall(r"(?:Table|Figure) \d+\.", any_page.words)).values()) == 1
    ids = [attributes["id"] for attributes in any_page.all("div") if attributes.get("id", "").startswith("table-")]
    assert len(ids) == len(set(ids))


def test_values_that_levels_change_are_words(tmp_path):
    results = Results.load(write(tmp_path, everything=True))
    changes = {"weights": {"file": "a", "sha256": None}, "crop": [1, 2], "flip": True, "urls": []}
    results.study["factors"][0]["levels"][0]["changes"] = changes
    words = Page(render(results, {}, {})).words
    assert "weights file: a; sha256: none; crop 1, 2; flip yes; urls none" in words


def test_hours_are_added_up(page):
    # on each of two data sets, with two threads: 6 trials x 4 folds x 36 s, then 3 seeds x 4 folds x 90 s, and so on
    assert "Contrastive 0.480 0.600 0.060 0.007 1.148" in page.words
    assert "All methods" in page.words


def test_every_number_leads_to_its_files(page):
    assert page.words.count("results/example/<data set>/<method>/") == 2
    (details,) = page.all("details")
    assert "open" not in details
    assert "Show the 30 rows" in page.words
    assert "38.70, 38.90, 39.10, 39.30 90, 90, 90, 90 – 0123456789ab A <fast> processor a-host" in page.words


def folded(page):
    """The tables whose rows are folded away, and what stands beside the folds."""
    found = re.findall(r'id="table-(\w+)">\s*<p class="caption">.*?</p>\s*<(details|div|h4|p)', page, re.DOTALL)
    return {name for name, first in found if first == "details"}, re.findall(r"<summary>(.*?)</summary>", page)


@pytest.mark.parametrize(("rows", "is_folded"), [(45, False), (46, True)])
def test_long_tables_are_folded_but_that_of_accuracy_never(tmp_path, rows, is_folded):
    results = Results.load(write(tmp_path, methods=["triplet"]))
    cells = presented([{"Method": str(i)} for i in range(rows)], [f"part {i % 2}" for i in range(rows)], ["Method"])
    names = ("accuracy", "differences", "hyperparameters", "mine")
    page = render(results, {name: (name, "Words.", cells) for name in names}, {})
    found, summaries = folded(page)
    assert found == (set(names) - {"accuracy"} if is_folded else set())
    assert summaries == [f"Show the {rows} rows"] * len(found)


def test_what_belongs_to_many_methods_is_folded(tmp_path):
    results = Results.load(write(tmp_path, methods=["triplet"]))
    for count in (45, 46):
        results.study["methods"] = [results.study["methods"][0]] * count
        _, summaries = folded(render(results, {}, {}))
        assert summaries == ["Show the 46 rows"] * (count == 46)


def test_hyperparameters_that_were_not_searched_are_folded(tmp_path):
    results = Results.load(write(tmp_path))
    cells = presented([{"Method": "a"}], [""], ["Method"])
    tables = {"hyperparameters": ("Hyperparameters", "Words.", cells)}
    assert folded(render(results, tables, {})) == (set(), [])
    results.study["hyperparameters"] = "defaults"
    assert folded(render(results, tables, {})) == ({"hyperparameters"}, ["Show the 1 row"])
    nothing = {"hyperparameters": ("Hyperparameters", "Words.", cells.iloc[:0])}
    page = render(results, nothing, {})
    assert folded(page) == (set(), []) and "None." in page


def test_on_paper_folded_tables_are_open_and_figures_are_not_shrunk(page):
    style = " ".join("".join(page.text).partition("@media print")[2].partition("</style>")[0].split())
    assert "details::details-content { content-visibility: visible; } summary { display: none; }" in style
    assert not re.search(r"svg \{[^}]*max-height", style)


def test_without_a_search_no_trial_is_named(tmp_path):
    results = Results.load(write(tmp_path))
    results.study["hyperparameters"] = "published: a paper"
    assert "<trial>" not in Page(render(results, {}, {})).words


def test_interrupted_trainings_are_counted(tmp_path):
    path = write(tmp_path, methods=["contrastive"], datasets=1) / "runs.csv"
    runs = pd.read_csv(path, dtype=str, keep_default_na=False)
    runs.loc[3, "resumed"] = "2"
    runs.to_csv(path, index=False)
    assert "Went on after an interruption 1 of 12 trainings" in Page(render(Results.load(tmp_path), {}, {})).words


def test_the_gallery_is_inline_and_readable_without_colours(page):
    pictures = page.all("img")
    assert len(pictures) == 2 * 3
    assert {picture["src"] for picture in pictures} == {f"data:image/png;base64,{PNG}"}
    assert [picture["alt"] for picture in pictures[:3]] == ["query: a gull", "right: a gull", "wrong: <tern>"]
    assert "✓ a gull" in page.words
    assert "✗ <tern>" in page.words


def test_without_a_gallery_there_is_no_section_for_it(tmp_path):
    results = Results.load(write(tmp_path))
    empty = {"dataset": "birds1", "method": "proxy_nca", "rows": []}
    for gallery in (None, [], [empty]):
        assert "What is found" not in Page(render(results, {}, {}, gallery)).words


def test_the_sentence_names_best_untrained_ties_and_failures(page):
    assert (
        "Birds 1. Contrastive has the highest separated MAP@R, 40.00 ± 2.48% (mean of 3 seeds, 95% interval), "
        "30.00 points above the pretrained trunk (10.00%). Statistically tied with it: Triplet. Its gain in points: "
        "+0.50 ± 4.97 over Triplet (in pairs over seeds, 95% interval). Without a result: ProxyNCA."
    ) in page.words


def test_the_sentence_names_the_gain_over_what_papers_compare_with(tmp_path):
    words = summary(tmp_path, methods=["margin", "triplet"], datasets=1)
    assert "Its gain in points" not in words  # the best is one of the two, the other is not there
    one = summary(tmp_path, methods=["contrastive", "triplet"], datasets=1, seeds=1)
    assert "Its gain in points: +1.50 over Contrastive (of one seed)." in one


def test_the_sentence_without_ties(tmp_path):
    words = summary(tmp_path, methods=["contrastive", "margin"], datasets=1)
    assert "Every other method is significantly below it." in words
    assert "points above" not in words
    assert "Without a result" not in words


def test_the_sentence_of_one_seed(tmp_path):
    words = summary(tmp_path, methods=["pretrained", "contrastive"], seeds=1, datasets=1)
    assert "Contrastive has the highest separated MAP@R, 39.00% (one seed), 29.00 points above" in words
    assert "neither an interval nor a test" in words
    assert "There is one seed:" in words


def test_the_sentence_where_training_does_not_help(tmp_path):
    folder = write(tmp_path, methods=["pretrained", "contrastive"], datasets=1)
    metrics = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(re.sub(r"(pretrained,.*),0\.\d+,1000", r"\1,0.9,1000", metrics))
    words = Page(render(Results.load(folder), {}, {})).words
    assert (
        "No training helps: the pretrained trunk (Pretrained) has the highest separated MAP@R, 90.00% (one "
        "evaluation, the same with every seed), 50.00 points above the best trained method, Contrastive."
    ) in words


def test_a_trunk_without_weights_is_called_untrained(tmp_path):
    results = Results.load(write(tmp_path, methods=["pretrained", "contrastive"], datasets=1))
    results.study["protocol"]["weights"] = None
    words = Page(render(results, {}, {})).words
    assert "30.00 points above the untrained trunk (10.00%)" in words
    assert "pretrained trunk" not in words


def test_the_sentence_of_a_method_with_a_failed_seed(tmp_path):
    folder = write(tmp_path, methods=["pretrained", "contrastive", "margin"])
    metrics = (folder / "metrics.csv").read_text()
    raised = re.sub(r"(birds2,margin,.*),0\.\d+,1000", r"\1,0.99,1000", metrics)
    (folder / "metrics.csv").write_text(raised)
    words = Page(render(Results.load(folder), {}, {})).words
    assert "Birds 2. Contrastive has the highest separated MAP@R of the methods with all seeds, 38.00 ±" in words
    assert "Every other method is significantly below it. With failed seeds: Margin & co_50% (2 of 3 seeds)." in words


def test_everything_failed(tmp_path):
    make_all(write(tmp_path, methods=["proxy_nca"]), tmp_path / "out")
    words = Page((tmp_path / "out" / "index.html").read_text()).words
    assert "Birds 1. No method has a result. Without a result: ProxyNCA." in words


def test_tables_and_figures_without_a_place_follow_at_the_end(tmp_path):
    results = Results.load(write(tmp_path))
    plugin = plugins.load("tables", "failures")
    cells = plugin.present(plugin.build(results), results)
    svg = '<?xml version="1.0"?>\n<svg width="72pt" height="36pt" viewBox="0 0 72 36"></svg>\n'
    page = Page(render(results, {"mine": ("My table", "Words.", cells)}, {"own": ("My figure", "More words.", svg)}))
    assert "Table 1. My table. Words." in page.words
    assert "Figure 1. My figure. More words." in page.words


def test_values_that_differ_between_runs_are_counted(tmp_path):
    folder = write(tmp_path, methods=["contrastive"], datasets=1)
    runs = (folder / "runs.csv").read_text()
    (folder / "runs.csv").write_text(runs.replace("A <fast> processor", "Another", 1))
    words = Page(render(Results.load(folder), {}, {})).words
    assert "A <fast> processor (11 of 12 trainings), Another (1 of 12 trainings)" in words


def test_svg_ids_and_styles_stay_inside():
    svg = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg xmlns:xlink="x" width="72pt" height="36pt" viewBox="0 0 72 36">'
        '<defs><style type="text/css">*{fill: red}</style><path id="a"/></defs>'
        '<use xlink:href="#a"/><g clip-path="url(#c)"/></svg>\n'
    )
    assert inline_svg(svg, "figure-x", 'A "title"') == (
        '<svg id="figure-x" role="img" aria-label="A &#34;title&#34;" style="max-width:96px" xmlns:xlink="x" '
        'viewBox="0 0 72 36"><defs><style type="text/css">#figure-x *{fill: red}</style><path id="figure-x-a"/></defs>'
        '<use xlink:href="#figure-x-a"/><g clip-path="url(#figure-x-c)"/></svg>'
    )


def test_equal_results_give_equal_bytes(tmp_path):
    write(tmp_path / "study", methods=NAMES[:6], everything=True)
    made = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        code = "import sys, test_report as t; t.make_all(*map(t.Path, sys.argv[1:]), everything=True)"
        here = Path(__file__).parent
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
        subprocess.run([sys.executable, "-c", code, tmp_path / "study", out], check=True, env=environment)
        made.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert len(made[0]) == 3 * len(plugins.names("tables")) + 2 * len(plugins.names("figures")) + 1
    assert made[0] == made[1]
