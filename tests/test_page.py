import base64
import hashlib
import re

import pandas as pd
import pytest
from example_results import write
from test_report import Page

from dml import league, page, report
from dml.results import Results
from dml.tabulation import Cell, listed, plain


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "none"),
        (True, "yes"),
        (False, "no"),
        (1e-6, "1e\N{MINUS SIGN}6"),
        (12345678, "12345678"),
        ("bn_inception", "bn_inception"),
        ([], "none"),
        ([0.2, 1.0, None], "0.2, 1, none"),
        ((1, 2), "1, 2"),
        ({"file": "a.pth", "bounds": [0.5, 2]}, "file: a.pth; bounds: 0.5, 2"),
    ],
)
def test_values_in_words(value, words):
    assert plain(value) == words


def test_names_in_a_sentence():
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert listed(["a", "b"], "or") == "a or b"


def test_each_block_is_laid_out_for_the_template():
    names = [("", "Method"), ("Separated", "P@1"), ("Separated", "MAP@R"), ("", "Note")]
    rows = [
        [Cell("A", bold=True), "50.0", "40.0", ""],
        ["", "51.0", "41.0", "a long note of more than forty characters"],
        ["B", Cell("failed: NaN", span=2), None, ""],
    ]
    cells = pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(names), index=["one", "one", "two"], dtype=object)
    first, second = page.laid_out(cells)
    assert [first["heading"], second["heading"]] == ["one", "two"]
    assert first["groups"] == [("", 1), ("Separated", 2), ("", 1)]
    assert [column.numeric for column in first["columns"]] == [False, True, True, False]
    assert [row["kind"] for row in first["rows"] + second["rows"]] == ["best", "more", "failed"]
    assert [kind for _, kind in first["rows"][1]["cells"]] == ["", "number", "number", "long"]
    assert [cell.text for cell, _ in second["rows"][0]["cells"]] == ["B", "failed: NaN", ""]


def test_report_and_league_have_one_head_and_one_kind_of_table(tmp_path):
    results = Results.load(write(tmp_path / "study", datasets=1))
    league.write([results], tmp_path / "league")
    cells = pd.DataFrame([[Cell("A", bold=True), Cell("1.0", mark="?")]], columns=["Method", "P@1"], index=["Birds 1"])
    pages = [(tmp_path / "league" / "index.html").read_text(), report.render(results, {"x": ("X", "", cells)}, {})]
    heads = [text[text.index("<meta") : text.index("<title>")] + text[text.index("<style>") : text.index("</style>")]
             for text in pages]  # fmt: skip
    assert heads[0] == heads[1] and "tr.failed" in heads[0]
    assert '<tr class="failed">' in pages[0] and '<tr class="best">' in pages[0]
    assert (
        '<tr class="best"><td><strong>A</strong></td><td class="number">1.0<sup class="mark">?</sup></td></tr>'
        in pages[1]
    )
    assert all(("main", {}) in Page(text).elements for text in pages)


def test_only_tables_of_rows_of_their_own_can_be_sorted():
    def laid_out(rows):
        return page.laid_out(pd.DataFrame(rows, columns=["Method", "P@1"], index=["x"] * len(rows), dtype=object))

    assert laid_out([["A", "1.0"], ["B", "2.0"]])[0]["sortable"]
    assert not laid_out([["A", "1.0"], ["", "2.0"]])[0]["sortable"], "the second row belongs to the first"
    assert not laid_out([["A", "1.0"]])[0]["sortable"]


def test_the_page_allows_its_own_script_and_no_other():
    text = page.template("league").render(leagues=[], claims=[], studies=[], figure={}, caption="", left_out=[])
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and text.count("<script") == 1
