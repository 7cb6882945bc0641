"""Two studies side by side: what changed, the tests of the differences, the order of the methods, and the page."""

import math
import subprocess
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from example_results import write
from project import ROOT
from scipy import stats
from test_league import study
from test_report import Page

from dml import compare, compare_page
from dml.results import Results
from dml.stats import interval
from dml.tabulation import Cell, latex_escaped

FEW = ["pretrained", "contrastive", "triplet", "margin"]
EMBEDDING_AND_METRIC = {"embedding": "separated", "metric": "map_at_r"}


def row(table, method, dataset="birds1", **place):
    place = {"dataset": dataset, "method": method} | EMBEDDING_AND_METRIC | place
    found = table[np.logical_and.reduce([table[key] == value for key, value in place.items()])]
    assert len(found) == 1
    return found.iloc[0]


def changed(a, b):
    return {tuple(found[:3]): tuple(found[3:]) for found in compare.changes(a, b).itertuples(index=False, name=None)}


def random_seeds(folder, name, change):
    """The study with `change(runs)` as the random seeds of its runs."""
    path = folder / name / "runs.csv"
    runs = pd.read_csv(path, dtype=str, keep_default_na=False)
    runs["random_seed"] = change(runs)
    runs.to_csv(path, index=False)
    return Results.load(folder / name)


def slow_welch(a, b):
    """By the formulas of Welch (1947) and Satterthwaite (1946)."""
    of_a, of_b = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
    error = math.sqrt(of_a + of_b)
    t = (np.mean(b) - np.mean(a)) / error
    return np.mean(b) - np.mean(a), stats.t.ppf(0.975, freedom) * error, 2 * stats.t.sf(abs(t), freedom)


def slow_tau(a, b):
    """Concordant minus discordant pairs of methods, over the geometric mean of those that differ in A and in B."""
    pairs = list(combinations(range(len(a)), 2))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    differing = math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    return sum(x * y for x, y in signs) / differing


def test_nothing_changed_between_a_study_and_itself(tmp_path):
    a = study(tmp_path, "first", datasets=2)
    found = compare.compare(a, a)
    assert found.changes.empty and set(found.agreement["tau"]) == {1.0}
    assert set(found.numbers["difference"].dropna()) == {0.0} and not (found.numbers["p"] < 1).any()
    assert "Nothing: protocol, methods, images, code and machines are the same." in Page(page(a, a)).words


def test_what_changed_is_found_key_by_key(tmp_path):
    a = study(tmp_path, "first", methods=FEW)
    protocol = {"trunk": "resnet50", "flip": 0.5}
    columns = {"test": "7e58" * 16, "versions": "faiss 1.15.1, numpy 2.5.0", "commit": "fedcba987654", "threads": 8}
    b = study(tmp_path, "second", methods=FEW[:3], protocol=protocol, columns=columns)
    method = b.study["methods"][1]
    method |= {"ranges": {"margin": {"low": 0.0, "high": 2.0}}, "fixed": {"power": 2}, "images_per_class": 8}
    b.study["datasets"][0]["images_test"] = 5000
    b.study["hyperparameters"] = "published"
    searched = "low: 1e\N{MINUS SIGN}6; high: 1; log: yes"
    assert changed(a, b) == {
        ("Protocol", "", "trunk"): ("bn_inception", "resnet50"),
        ("Protocol", "", "hyperparameters"): ("search", "published"),
        ("Protocol", "", "flip"): ("", "0.5"),
        ("Methods", "Contrastive", "images per class"): ("4", "8"),
        ("Methods", "Contrastive", "margin (searched)"): ("low: \N{MINUS SIGN}0.2; high: 2", "low: 0; high: 2"),
        ("Methods", "Contrastive", "weights_lr (searched)"): (searched, ""),
        ("Methods", "Contrastive", "power (constant)"): ("", "2"),
        ("Data sets", "Birds 1", "test images"): ("5100", "5000"),
        ("Data sets", "Birds 1", "test fingerprint"): ("7e57birds1", "7e587e587e58"),
        ("Code and machines", "", "Commit of the code"): ("0123456789ab", "fedcba987654"),
        ("Code and machines", "", "Threads"): ("2", "8"),
        ("Code and machines", "", "numpy"): ("2.4.6", "2.5.0"),
    }


def test_where_weights_are_found_is_no_change_but_other_weights_are(tmp_path):
    a = study(tmp_path, "first", methods=FEW)
    elsewhere = {"file": "elsewhere.pth", "sha256": "0123abcd", "urls": ["https://example.org"]}
    assert changed(a, study(tmp_path, "second", methods=FEW, protocol={"weights": elsewhere})) == {}
    others = study(tmp_path, "third", methods=FEW, protocol={"weights": elsewhere | {"sha256": "abcdabcd"}})
    assert changed(a, others) == {("Protocol", "", "weights"): ("0123abcd", "abcdabcd")}


def test_what_only_one_study_has_changes_nothing_else(tmp_path):
    a, b = study(tmp_path, "first", datasets=2), study(tmp_path, "second", methods=FEW[:2])
    runs = b.runs
    runs.loc[runs["method"] == "pretrained", "commit"] = "fedcba987654"
    assert changed(a, b) == {
        ("Code and machines", "", "Commit of the code"): ("0123456789ab", "0123456789ab, fedcba987654")
    }
    assert changed(study(tmp_path, "third", methods=["contrastive"]), b) == {}


def test_seeds_with_the_same_draws_are_pairs(tmp_path):
    a = study(tmp_path, "first", methods=FEW)
    values = [0.41, 0.405, 0.44]
    b = study(tmp_path, "second", methods=FEW, values={"contrastive": values})
    found = row(compare.numbers(a, b), "contrastive")
    differences = np.array(values) - [0.39, 0.40, 0.41]
    mean, half_width, _ = interval(differences)
    assert (found["test"], found["pairs"], found["n_a"], found["n_b"]) == ("paired", 3, 3, 3)
    assert found[["difference", "half_width"]].tolist() == pytest.approx([mean, half_width])
    assert found["p"] == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert found[["mean_a", "mean_b"]].tolist() == pytest.approx([0.40, np.mean(values)])


def test_other_draws_of_any_fold_make_no_pair(tmp_path):
    a = study(tmp_path, "first", methods=FEW)
    study(tmp_path, "second", methods=FEW, values={"contrastive": [0.41, 0.405, 0.44]})
    one = random_seeds(tmp_path, "second", lambda runs: runs["random_seed"].mask(
        (runs["seed"] == "1") & (runs["fold"] == "3"), "5"))  # fmt: skip
    assert compare.shared_seeds(a, one, "birds1", "contrastive") == [0, 2]
    found = row(compare.numbers(a, one), "contrastive")
    assert (found["test"], found["pairs"]) == ("paired", 2)
    assert found["difference"] == pytest.approx((0.02 + 0.03) / 2), "that of the pairs alone"


def test_without_pairs_the_seeds_are_two_samples(tmp_path):
    a = study(tmp_path, "first", methods=FEW, seeds=5)
    values = [0.41, 0.405, 0.44]
    b = study(tmp_path, "second", methods=FEW, values={"contrastive": values}, columns={"random_seed": "5"})
    found = row(compare.numbers(a, b), "contrastive")
    expected = slow_welch(np.array([0.39, 0.40, 0.41, 0.39, 0.40]), np.array(values))
    assert found["test"] == "Welch" and pd.isna(found["pairs"])
    assert found[["difference", "half_width", "p"]].tolist() == pytest.approx(expected)


def test_a_single_pair_is_no_test_of_pairs():
    a, b = pd.Series([0.3, 0.4, 0.35]), pd.Series([0.45, 0.5, 0.41])
    assert compare.difference(a, b, [0])["test"] == "Welch"
    assert compare.difference(a, b, [0, 9])["test"] == "Welch", "seed 9 has no value"
    assert compare.difference(a, b, [0, 1])["test"] == "paired"


@pytest.mark.parametrize("sizes", [(2, 2), (3, 10), (10, 4)])
def test_welch_is_that_of_its_formulas(sizes):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.4, 0.01, sizes[0]), rng.normal(0.41, 0.03, sizes[1])
    found = compare.welch(a, b)
    assert list(found.values()) == pytest.approx(slow_welch(a, b))


def test_welch_of_what_does_not_vary():
    constant, higher = np.full(3, 0.1 + 0.2), np.array([0.3, 0.3, 0.3 + 1e-16])
    assert compare.welch(constant, higher) == pytest.approx({"difference": 0.0, "half_width": 0.0, "p": 1.0})
    assert compare.welch(constant, np.full(2, 0.4)) == pytest.approx({"difference": 0.1, "half_width": 0.0, "p": 0.0})
    one_varies = compare.welch(constant, np.array([0.35, 0.36, 0.37]))
    assert list(one_varies.values()) == pytest.approx(slow_welch(constant, np.array([0.35, 0.36, 0.37])))


def test_loaded_weights_and_single_seeds_are_not_tested(tmp_path):
    a, b = (study(tmp_path, name, methods=FEW) for name in ("first", "second"))
    b.metrics.loc[b.metrics["method"] == "pretrained", "value"] += 0.01
    found = row(compare.numbers(a, b), "pretrained")
    assert found["difference"] == pytest.approx(0.01) and found["test"] == "" and (found["n_a"], found["n_b"]) == (1, 1)
    assert found[["half_width", "p", "p_holm", "tied", "pairs"]].isna().all()
    single = study(tmp_path, "single", methods=FEW, seeds=1)
    found = row(compare.numbers(a, single), "contrastive")
    assert found["difference"] == pytest.approx(-0.01) and found["test"] == "" and pd.isna(found["p"])


def test_p_is_corrected_among_the_methods_of_a_data_set_embedding_and_metric(tmp_path):
    a = study(tmp_path, "first", methods=FEW, datasets=2)
    values = {"contrastive": [0.405, 0.425, 0.422], "triplet": [0.405, 0.40, 0.41], "margin": [0.31, 0.32, 0.301]}
    b = study(tmp_path, "second", methods=FEW, datasets=2, values=values)
    table = compare.numbers(a, b)
    for _, group in table.groupby(["dataset", "embedding", "metric"]):
        tested = group.dropna(subset="p").sort_values("p")
        slow, largest = [], 0.0
        for position, p in enumerate(tested["p"]):
            largest = max(largest, min(1.0, (len(tested) - position) * p))
            slow.append(largest)
        assert tested["p_holm"].tolist() == pytest.approx(slow) and len(tested) >= 3
        assert (tested["tied"] == (tested["p_holm"] >= 0.05)).all()


def test_every_embedding_and_metric_is_compared(tmp_path):
    a, b = (study(tmp_path, name, methods=FEW) for name in ("first", "second"))
    kinds = {(e, m) for e in ("separated", "concatenated") for m in ("map_at_r", "precision_at_1")}
    table = compare.numbers(a, b)
    assert set(zip(table["embedding"], table["metric"], strict=True)) == kinds and len(table) == 4 * len(FEW)
    high = row(table, "contrastive", embedding="concatenated", metric="precision_at_1")
    assert high["mean_a"] == pytest.approx(0.75)


def test_the_orders_of_the_methods_are_ranked_and_correlated(tmp_path):
    names = ["contrastive", "triplet", "margin", "method_5", "method_6"]
    means = {"contrastive": 0.2, "triplet": 0.5, "margin": 0.4, "method_5": 0.1, "method_6": 0.3}
    a = study(tmp_path, "first", methods=[*names, "method_7"])
    b = study(tmp_path, "second", methods=names, values={name: [mean] * 3 for name, mean in means.items()})
    table = compare.numbers(a, b)
    ranks = {name: tuple(row(table, name)[["rank_a", "rank_b"]]) for name in names}
    assert ranks == {
        "contrastive": (1, 4), "triplet": (2, 1), "margin": (3, 2), "method_5": (4, 5), "method_6": (5, 3)
    }  # fmt: skip
    found = compare.agreement(a, b).iloc[0]
    assert found["methods"] == 5
    assert found["tau"] == pytest.approx(slow_tau([5, 4, 3, 2, 1], list(means.values())))


def test_equals_have_one_rank(tmp_path):
    a = study(tmp_path, "first", methods=FEW)
    b = study(tmp_path, "second", methods=FEW, values=dict.fromkeys(["contrastive", "triplet"], [0.5, 0.5, 0.5]))
    assert compare.ranks(a, b, "birds1")["b"] == {"contrastive": 1, "triplet": 1, "margin": 3, "pretrained": 4}
    assert compare.agreement(a, b).iloc[0]["tau"] == pytest.approx(slow_tau([4, 3, 2, 1], [4, 4, 2, 1]))


def test_methods_with_failed_seeds_have_no_rank_and_those_without_a_value_say_why(tmp_path):
    a, b = (study(tmp_path, name, datasets=2) for name in ("first", "second"))
    found = compare.compare(a, b)
    margin, failed = (row(found.numbers, name, "birds2") for name in ("margin", "proxy_nca"))
    assert pd.isna(margin["rank_a"]) and margin["n_a"] == 2 and margin["pairs"] == 2
    assert failed["n_a"] == failed["n_b"] == 0 and "the loss is NaN" in failed["failure_a"] and pd.isna(failed["p"])
    assert found.agreement.set_index("dataset").loc["birds2", "methods"] == 3
    cells = compare.present_numbers(found).loc["Birds 2, separated"]
    assert cells.iloc[-1]["", "Test"] == "failed in A and B" and cells.iloc[-1]["MAP@R", "A"] == "–"


def test_one_method_has_no_order(tmp_path):
    a, b = (study(tmp_path, name, methods=["contrastive"]) for name in ("first", "second"))
    found = compare.compare(a, b)
    assert math.isnan(found.agreement.iloc[0]["tau"])
    assert compare.present_agreement(found).iloc[0].tolist() == ["Birds 1", "1", "–"]
    assert "all seeds in both" not in compare_page.verdict(found, "birds1")


def test_differences_that_are_told_are_bold(tmp_path):
    a = study(tmp_path, "first", methods=FEW)
    b = study(tmp_path, "second", methods=FEW, values={"contrastive": [0.49, 0.501, 0.509]})
    cells = compare.present_numbers(compare.compare(a, b)).loc["Birds 1, separated"].set_index(("", "Method"))
    column = ("MAP@R", "B \N{MINUS SIGN} A")
    assert cells.at["Contrastive", column] == Cell("+10.00 ± 0.25", bold=True)
    assert cells.at["Triplet", column] == Cell("0.00 ± 0.00") and cells.at["Pretrained", column] == Cell("0.00")
    assert cells.at["Contrastive", ("", "Test")] == "3 pairs" and cells.at["Pretrained", ("", "Test")] == "–"


def test_the_verdict_names_what_is_better_worse_and_not_told_apart(tmp_path):
    a = study(tmp_path, "first", methods=[*FEW, "method_5"])
    values = {"contrastive": [0.27, 0.281, 0.289], "triplet": [0.505, 0.495, 0.486]}
    b = study(tmp_path, "second", methods=FEW, values=values)
    assert Page(str(compare_page.verdict(compare.compare(a, b), "birds1"))).words == (
        "Birds 1. By separated MAP@R, better in B: Triplet (+10.03 ± 0.14 points); worse in B: Contrastive (−12.00 ± "
        "0.25 points); not told apart: Margin & co_50%; not tested: Pretrained. Of 4 methods with all seeds in both, "
        "first is Contrastive in A, Triplet in B; Kendall's tau of the two orders is 0.33."
    )


def test_other_images_under_one_name_are_compared_but_flagged(tmp_path):
    a = study(tmp_path, "first", methods=FEW)
    for columns, halves in (
        ({"test": "another"}, "the test half has"),
        ({"data": "another", "test": "another"}, "the trainval and test half has"),
    ):
        found = compare.compare(a, study(tmp_path, "second", methods=FEW, columns=columns))
        assert f"Not the same images: {halves} another fingerprint in B" in compare_page.verdict(found, "birds1")
        assert found.numbers["difference"].notna().all()
    assert "images" not in compare_page.verdict(compare.compare(a, a), "birds1")


def page(a, b):
    found = compare.compare(a, b)
    cells = {name: present(found) for name, present in compare.PRESENT.items()}
    return compare_page.render(found, cells, '<svg width="9pt" height="9pt"><g id="a"/></svg>')


def test_what_only_one_study_has_is_named(tmp_path):
    a = study(tmp_path, "first", methods=FEW, datasets=2)
    b = study(tmp_path, "second", methods=[*FEW[:2], "method_5"])
    words = Page(page(a, b)).words
    assert "Only in A, and left out here: the data set Birds 2." in words
    assert "Only in A, and left out here: the methods Triplet and Margin & co_50%." in words
    assert "Only in B, and left out here: the method Method 5." in words


def test_names_of_users_are_escaped(tmp_path):
    names = {"study": "<i>x", "title": "A & <script>"}
    a, b = study(tmp_path, "first", methods=FEW), study(tmp_path, "second", methods=FEW, changes=names)
    for of_study in (a, b):
        of_study.study["methods"][1]["title"] = "<b>Contrastive"
    html = page(a, b)
    assert "<b>Contrastive" not in html and "<i>x" not in html and "A & <script>" not in html
    assert "A &amp; &lt;script&gt;" in html and "&lt;b&gt;Contrastive" in html


def test_the_figure_shows_every_method_with_a_value_of_each_data_set(tmp_path):
    a, b = (study(tmp_path, name, datasets=2) for name in ("first", "second"))
    figure = compare_page.draw(compare.compare(a, b))
    assert len(figure.axes) == 4
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["Contrastive", "Triplet", "Margin & co_50%", "Pretrained"], "ProxyNCA failed in both"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A: first", "B: second"]
    markers = [line for line in figure.axes[0].lines if line.get_marker() in ("o", "D")]
    assert [float(line.get_xdata()[0]) for line in markers[:2]] == pytest.approx([40.0, 40.0])
    bars = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.2 and len(line.get_xdata()) == 2]
    assert len(bars) == 2 * 3, "loaded weights have no interval"


def test_a_figure_of_nothing_says_so(tmp_path):
    a, b = (study(tmp_path, name, methods=["proxy_nca"]) for name in ("first", "second"))
    figure = compare_page.draw(compare.compare(a, b))
    assert figure.texts[0].get_text() == "No method in both studies has a result."
    assert "without a value in A: ProxyNCA; without a value in B: ProxyNCA" in Page(page(a, b)).words


@pytest.mark.parametrize("title, caption", [*compare.TABLES.values(), (compare_page.FIGURE_TITLE, "")])
def test_captions_are_in_the_letters_of_latex(title, caption):
    assert latex_escaped(title + caption).isascii()


def run(*arguments):
    command = [sys.executable, "-m", "dml.compare", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_tables_a_figure_and_a_page_and_the_same_bytes_again(tmp_path):
    first, second = write(tmp_path / "first", datasets=2), write(tmp_path / "second", methods=FEW, seeds=2)
    answer = run(first, second, "--output", tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == f"comparison: {tmp_path / 'out' / 'index.html'}\n"
    written = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    tables = [f"tables/{name}.{form}" for name in compare.TABLES for form in ("csv", "md", "tex")]
    assert sorted(written) == sorted([*tables, "figures/numbers.pdf", "figures/numbers.svg", "index.html"])
    compare.write(Results.load(first), Results.load(second), tmp_path / "again")
    assert all((tmp_path / "again" / name).read_bytes() == data for name, data in written.items())
    html = Page((tmp_path / "out" / "index.html").read_text())
    tags = [tag for tag, _ in html.elements]
    assert tags.count("svg") == 1 and not {"link", "iframe", "img"} & set(tags)
    ids = [attributes["id"] for _, attributes in html.elements if "id" in attributes]
    links = [attributes["href"] for attributes in html.all("a")]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert {link for link in links if not link.startswith("#")} == set(written) - {"index.html"}


def test_studies_with_nothing_in_common_are_refused_in_one_line(tmp_path):
    write(tmp_path / "first", methods=["contrastive"], datasets=1)
    write(tmp_path / "second", methods=["triplet"], datasets=1)
    answer = run(tmp_path / "first", tmp_path / "second", "--output", tmp_path / "out")
    assert answer.returncode == 1 and answer.stderr == (
        "error: the studies have no method in common: contrastive in A, triplet in B: name others\n"
    )
    a = Results.load(tmp_path / "first")
    a.study["datasets"][0]["name"] = "cars"
    with pytest.raises(ValueError, match="no data set in common: cars in A, birds1 in B"):
        compare.compare(a, Results.load(tmp_path / "second"))
    answer = run(tmp_path / "first", tmp_path / "nowhere")
    assert answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1 and not (tmp_path / "out").exists()
