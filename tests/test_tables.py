import math
import re

import pandas as pd
import pytest
from example_results import METHODS, NAMES, write

from dml import plugins, tabulation
from dml.results import Results, failure_reason, incomplete_methods, metric_title, per_seed, ranked_methods
from dml.stats import holm
from dml.tables.costs import STAGES
from dml.tables.embedding_space import shown
from dml.tables.pairs import in_nats
from dml.tabulation import Cell, signed, write_csv, write_latex, write_markdown

T_QUANTILE = 4.302652729749464  # Student t, 97.5 %, two degrees of freedom
HALF_WIDTH = T_QUANTILE * 0.01 / 3**0.5  # of values that differ by 0.01 from one to the next


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results.load(write(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A study with factors, other ways of retrieval, pairs, geometry and checkpoints."""
    return Results.load(write(tmp_path_factory.mktemp("everything"), everything=True))


def needs(name):
    return plugins.literal("tables", name, "NEEDS") is not None


def load(folder, **study):
    return Results.load(write(folder, **study))


def table(results, name):
    return plugins.load("tables", name).build(results)


def cells(results, name):
    plugin = plugins.load("tables", name)
    return plugin.present(plugin.build(results), results)


def estimate(results, **chosen):
    found = table(results, "accuracy")
    for column, value in chosen.items():
        found = found[found[column] == value]
    return found.squeeze()


def texts(row):
    return [cell.text for cell in tabulation.row_cells(row)]


def test_a_seeds_value_is_the_mean_over_its_folds(results):
    values = per_seed(results, "birds1", "separated", "map_at_r")
    assert list(values.columns) == ["pretrained", "contrastive", "triplet", "margin"]
    assert list(values.index) == [0, 1, 2]
    assert values["triplet"].tolist() == pytest.approx([0.405, 0.395, 0.385])


def test_a_seed_with_a_failed_fold_has_no_value(tmp_path):
    folder = write(tmp_path)
    metrics = pd.read_csv(folder / "metrics.csv", dtype=str)
    whole = metrics[(metrics["dataset"] == "birds2") & (metrics["method"] == "margin") & (metrics["seed"] == "1")]
    pd.concat([metrics, whole.assign(seed="2")[whole["fold"] != "3"]]).to_csv(folder / "metrics.csv", index=False)
    values = per_seed(Results.load(folder), "birds2", "separated", "map_at_r")
    assert values["margin"].notna().tolist() == [True, True, False]
    assert values["triplet"].notna().all()


def test_methods_are_ranked_by_separated_map_at_r_and_failed_ones_are_last(results):
    assert ranked_methods(results, "birds1") == ["contrastive", "triplet", "margin", "pretrained", "proxy_nca"]
    assert failure_reason(results, "birds1", "proxy_nca") == "fold 0: the loss is NaN at step 40"


def test_metrics_have_the_names_papers_print():
    titles = [metric_title(name) for name in ("map_at_r", "recall_at_10", "nmi", "somebodys_own")]
    assert titles == ["MAP@R", "Recall@10", "NMI", "somebodys_own"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("metrics.csv", "n_queries", "queries", "metrics.csv: the column 'n_queries' is missing"),
        ("metrics.csv", ",1000\n", ",many\n", "metrics.csv: n_queries: expected int, not 'many'"),
        ("best.csv", '""margin""', "margin", "best.csv: parameters: expected dict, not"),
        ("study.json", '"methods"', '"losses"', "study.json: the key 'methods' is missing"),
        ("study.json", "{", "", "study.json: not valid JSON"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, old, new, message):
    path = write(tmp_path) / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)):
        Results.load(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "trials.csv").unlink()
    with pytest.raises(ValueError, match="trials.csv: no such file"):
        Results.load(tmp_path)


def test_accuracy_by_hand(results):
    best = estimate(results, dataset="birds1", method="contrastive", embedding="separated", metric="map_at_r")
    assert (best["rank"], best["n"], best["embedding_size"], best["best"]) == (1, 3, 128, True)
    assert pd.isna(best["tied"])
    assert best["mean"] == pytest.approx(0.40)
    assert best["half_width"] == pytest.approx(HALF_WIDTH)

    joined = estimate(results, dataset="birds1", method="triplet", embedding="concatenated", metric="precision_at_1")
    assert (joined["embedding_size"], joined["best"]) == (512, False)
    assert joined["mean"] == pytest.approx(0.395 + 0.3 + 0.05)

    fewer = estimate(results, dataset="birds2", method="margin", embedding="separated", metric="map_at_r")
    assert fewer["n"] == 2
    assert fewer["mean"] == pytest.approx(0.30 - 0.02 + 0.005)


def test_ties_by_hand(results):
    """Triplet - contrastive is 0.015, -0.005, -0.025: t = -0.43. Margin is 0.09, 0.09, 0.12 below: t = -10."""
    found = table(results, "accuracy")
    own = found[(found["dataset"] == "birds1") & (found["embedding"] == "separated") & (found["metric"] == "map_at_r")]
    assert dict(zip(own["method"], own["tied"], strict=True)) == {
        "contrastive": pd.NA, "triplet": True, "margin": False, "pretrained": False
    }  # fmt: skip


def test_a_failed_method_keeps_its_row_and_its_reason(results):
    failed = estimate(results, dataset="birds1", method="proxy_nca")
    assert failed["failure"] == "fold 0: the loss is NaN at step 40"
    assert pd.isna(failed["mean"])
    row = cells(results, "accuracy").iloc[4]
    assert texts(row) == ["ProxyNCA", "failed: fold 0: the loss is NaN at step 40", "–", "–"]


def test_accuracy_is_presented_in_percent_with_best_and_ties_marked(results):
    best, tied, worse = (list(row) for row in cells(results, "accuracy").head(3).itertuples(index=False, name=None))
    assert best[3] == Cell("40.00 ± 2.48", bold=True)
    assert tied[3] == Cell("39.50 ± 2.48", mark="†")
    assert worse[3] == Cell("30.00 ± 2.48")
    assert best[-2:] == ["3", "128 / 512"]


def altered(folder, change, **study):
    """The example with `change` made to the frame of its metrics.csv."""
    path = write(folder, **study) / "metrics.csv"
    metrics = pd.read_csv(path)
    change(metrics)
    metrics.astype({"fold": "Int64"}).to_csv(path, index=False)
    return Results.load(folder)


def numbers(results, name, method):
    found = table(results, name)
    chosen = (found["dataset"] == "birds1") & (found["embedding"] == "separated") & (found["metric"] == "map_at_r")
    return found[chosen & (found["method"] == method)].squeeze()[["mean", "half_width", "n"]].tolist()


@pytest.mark.parametrize("name", ["accuracy", "all_metrics"])
def test_loaded_weights_that_do_not_train_are_one_evaluation(name, results):
    mean, half_width, n = numbers(results, name, "pretrained")
    assert (mean, n) == (pytest.approx(0.10), 1)
    assert pd.isna(half_width)
    row = next(row for row in cells(results, name).itertuples(index=False, name=None) if "Pretrained" in texts(row))
    assert "10.00" in texts(row)
    assert "1" in texts(row)
    assert not any("±" in text for text in texts(row))


def test_a_metric_that_still_draws_keeps_its_interval(tmp_path):
    def change(metrics):
        metrics.loc[(metrics["method"] == "pretrained") & (metrics["metric"] == "nmi"), "value"] += metrics["seed"]

    found = altered(tmp_path, change)
    row = texts(cells(found, "all_metrics").iloc[3])
    assert row[0] == "Pretrained"
    assert row[3] == "10.00"
    assert "±" in row[5]
    assert row[6] == "1 / 3"


@pytest.mark.parametrize("name", ["accuracy", "all_metrics"])
def test_random_trunks_and_trained_methods_keep_their_interval(name, tmp_path):
    def change(metrics):
        metrics.loc[metrics["method"] == "pretrained", "value"] += 0.01 * metrics["seed"]
        metrics.loc[metrics["method"] == "triplet", "value"] = 0.2

    found = altered(tmp_path, change)
    assert numbers(found, name, "pretrained") == [pytest.approx(0.11), pytest.approx(HALF_WIDTH), 3]
    assert numbers(found, name, "triplet") == [pytest.approx(0.2), pytest.approx(0, abs=1e-12), 3]


def test_a_random_trunk_at_its_limit_in_every_seed_is_still_several_evaluations(tmp_path, results):
    """Recall@1000 of 1200 queries may be 1 for three different random trunks."""
    results.study["protocol"]["weights"] = None
    try:
        assert numbers(results, "all_metrics", "pretrained") == [pytest.approx(0.10), pytest.approx(0, abs=1e-12), 3]
    finally:
        results.study["protocol"]["weights"] = {"file": "bn_inception.pth", "sha256": "0123abcd", "urls": []}


@pytest.mark.parametrize("methods", [NAMES[:5], ["margin"]], ids=["others are complete", "alone"])
def test_a_method_with_a_failed_seed_is_best_only_if_all_are_incomplete(methods, tmp_path):
    def change(metrics):
        metrics.loc[metrics["method"] == "margin", "value"] = 0.99

    found = altered(tmp_path, change, methods=methods)
    alone = methods == ["margin"]
    order = ["margin"] if alone else ["contrastive", "triplet", "pretrained", "margin", "proxy_nca"]
    assert ranked_methods(found, "birds2") == order
    assert incomplete_methods(found, "birds2") == {"margin": 2}
    for name in ("accuracy", "differences"):
        own = table(found, name)
        own = own[own["dataset"] == "birds2"]
        best = own.loc[own["best"].fillna(False), "method"] if name == "accuracy" else own["best"]
        assert ("margin" in set(best)) is alone
    for name in ("accuracy", "all_metrics"):
        shown = [texts(row) for row in cells(found, name).loc[lambda c: c.index.str.startswith("Birds 2")].to_numpy()]
        assert all(("2 of 3" in row) is (row[0] == METHODS["margin"][0]) for row in shown)


def test_a_single_seed_has_no_interval_and_no_test(tmp_path):
    results = load(tmp_path, seeds=1)
    found = table(results, "accuracy").dropna(subset=["mean"])
    assert found["half_width"].isna().all()
    assert found["tied"].isna().all()
    assert texts(cells(results, "accuracy").iloc[0])[:3] == ["Triplet", "70.50", "50.50"]
    assert table(results, "differences")["p"].isna().all()


def test_differences_by_hand(results):
    found = table(results, "differences")
    own = found[(found["dataset"] == "birds1") & (found["embedding"] == "separated")].set_index("method")
    assert list(own.index) == ["contrastive", "triplet", "margin", "pretrained"]
    assert set(own["best"]) == {"contrastive"}
    assert own["difference"].tolist() == pytest.approx([0, -0.005, -0.10, -0.30])
    assert own.loc["margin", "half_width"] == pytest.approx(T_QUANTILE * 0.01)
    # two-sided p of t with two degrees of freedom is 1 - t / sqrt(2 + t^2); Holm doubles the second smallest of three
    assert own.loc["margin", "p"] == pytest.approx(1 - 10 / 102**0.5)
    assert own.loc["margin", "p_holm"] == pytest.approx(2 * own.loc["margin", "p"])
    assert own["tied"].tolist() == [pd.NA, True, False, False]
    presented = cells(results, "differences")
    assert texts(presented.iloc[0])[:4] == ["Contrastive", "best", "–", "3"]
    assert texts(presented.iloc[2])[:4] == ["Margin & co_50%", "−10.00 ± 4.30", "0.020", "3"]


def test_all_metrics_hold_everything_measured(results):
    found = table(results, "all_metrics")
    measured = found[found["failure"] == ""]
    assert len(measured) == 2 * 2 * 4 * 5  # data sets, embeddings, methods with results, metrics
    assert set(measured["n_queries"]) == {1000}
    presented = cells(results, "all_metrics")
    assert list(dict.fromkeys(presented.index)) == [
        "Birds 1, separated", "Birds 1, concatenated", "Birds 2, separated", "Birds 2, concatenated"
    ]  # fmt: skip
    assert list(presented.columns) == ["Method", "P@1", "R-Precision", "MAP@R", "Recall@10", "NMI", "n", "Queries"]


@pytest.mark.parametrize("name", plugins.names("tables"))
def test_a_method_of_which_everything_failed_has_a_row_that_says_so(name, tmp_path):
    folder = write(tmp_path, everything=needs(name))
    reality = "birds1,separated,{},map_at_r,0.2,0.01,a table,,\n"
    with (folder / "published.csv").open("a") as file:
        file.writelines(reality.format(method) for method in NAMES[:5])
    found = Results.load(folder)
    own = [texts(row) for row in cells(found, name).to_numpy() if row[0] in ("ProxyNCA", Cell("ProxyNCA"))]
    assert own
    if name == "costs":  # its search took time, and there was nothing to train
        assert own[0][1:3] == ["0.480", "–"]
    else:
        assert all(any("fail" in text or "NaN" in text for text in row) for row in own)


def test_costs_by_hand(results):
    found = table(results, "costs").set_index(["dataset", "method", "stage", "unit"])
    assert found.loc[("birds2", "margin", "final", "Core-hours")].tolist() == [12, 12 * 90 * 2 / 3600]
    presented = cells(results, "costs")
    assert list(dict.fromkeys(presented.index)) == ["Birds 1", "Birds 2", "All data sets"]
    assert list(presented.columns)[1:] == [("Core-hours", name) for name in (*list(STAGES.values())[:4], "All")]
    rows = {(heading, texts(row)[0]): texts(row)[1:] for heading, row in presented.iterrows()}
    assert rows["Birds 1", "Contrastive"] == ["0.480", "0.600", "0.060", "0.007", "1.148"]
    assert rows["All data sets", "Margin & co_50%"] == ["0.960", "1.200", "0.120", "0.015", "2.295"]
    trained = 3 * 1.1475  # and the untrained trunk has one trial, and one method fails in all its trials
    assert float(rows["Birds 2", "All methods"][-1]) == pytest.approx(trained + 0.7475 + 0.48, abs=0.001)


def test_costs_on_both_kinds_of_device_have_both_units(tmp_path):
    path = write(tmp_path, methods=NAMES[:3], datasets=1) / "costs.csv"
    path.write_text(path.read_text().replace("search,cpu", "search,cuda").replace("final,cpu", "final,cuda"))
    presented = cells(Results.load(tmp_path), "costs")
    assert list(presented.columns) == [
        ("", "Method"), ("GPU-hours", "Search"), ("GPU-hours", "Final runs"), ("GPU-hours", "All"),
        ("Core-hours", "Embedding"), ("Core-hours", "Measuring"), ("Core-hours", "All"),
    ]  # fmt: skip
    assert list(dict.fromkeys(presented.index)) == ["Birds 1"]


def test_runs_name_everything_that_made_a_number(results):
    found = table(results, "runs").set_index(["dataset", "method", "seed", "fold"])
    assert len(found) == 2 * 5 * 3 * 4
    row = found.loc[("birds1", "contrastive", 1, 2)]
    assert row["map_at_r"] == pytest.approx(0.401)
    assert (row["random_seed"], row["trial"], row["resumed"]) == (2**62 + 1, 4, 0)
    assert not row.drop(["peak_gpu_memory_mb", "weights", "failure"]).isin(["", None]).any()
    assert not row.drop(["peak_gpu_memory_mb"]).isna().any()
    failed = found.loc[("birds2", "margin", 2, 3)]
    assert failed["failure"] == "the loss is NaN at step 40" and pd.isna(failed["map_at_r"])


def test_runs_are_presented_one_seed_a_row(results):
    presented = cells(results, "runs")
    assert len(presented) == 2 * 5 * 3
    assert texts(presented.iloc[3]) == [
        "Contrastive", "0", "4", "38.70, 38.90, 39.10, 39.30", "90, 90, 90, 90", "–", "0123456789ab",
        "A <fast> processor", "a-host",
    ]  # fmt: skip


def test_hyperparameters_flag_the_edge(results):
    found = table(results, "hyperparameters")
    own = found[found["dataset"] == "birds1"].set_index(["method", "parameter"])
    assert "pretrained" not in set(found["method"])
    assert own.loc[("triplet", "margin"), "edge"] == "high"
    assert own.loc[("contrastive", "margin"), "edge"] == ""
    assert own.loc[("contrastive", "weights_lr"), ["value", "low", "high"]].tolist() == [1.25e-05, 1e-6, 1.0]
    rows = [texts(row) for row in cells(results, "hyperparameters").head(8).itertuples(index=False, name=None)]
    assert rows[1] == ["", "", "", "", "weights_lr", "1.25e−5", "1e−6 to 1, log"]
    assert rows[2] == ["Triplet", "49.50 ± 0.13", "4", "0 of 6", "margin", "1.99", "−0.2 to 2 ⚠ at the high edge"]
    assert rows[6] == ["ProxyNCA", "–", "–", "6 of 6", "failed: fold 0: the loss is NaN at step 40"]


def test_choices_and_methods_without_hyperparameters_are_shown(tmp_path):
    path = write(tmp_path, methods=NAMES[:3]) / "best.csv"
    best = pd.read_csv(path, keep_default_na=False)
    choice = '{"kind": "a"}', '{"kind": {"choices": ["a", 2]}}', "{}"
    best.loc[best["method"] == "contrastive", ["parameters", "ranges", "edges"]] = choice
    best.loc[best["method"] == "triplet", ["parameters", "ranges", "edges"]] = "{}", "{}", "{}"
    best.to_csv(path, index=False)
    presented = cells(Results.load(tmp_path), "hyperparameters")
    assert texts(presented.iloc[0])[4:] == ["kind", "a", "a, 2"]
    assert texts(presented.iloc[1])[4:] == ["none", "–", "–"]


def test_failures_are_all_listed(results):
    found = table(results, "failures")
    assert len(found) == 2 * (1 + 6 * 4 + 1 + 3 * 4) + 1
    final = found[(found["method"] == "margin")].squeeze()
    assert (final["dataset"], final["stage"], final["seed"], final["fold"]) == ("birds2", "final run", 2, 3)
    assert final["trial"] == 4  # the one that gave the setting
    rows = [texts(row) for row in cells(results, "failures").itertuples(index=False, name=None)]
    assert rows[0] == ["Contrastive", "search", "1", "trial 2: fold 1", "the loss is NaN at step 40"]
    assert rows[1][2] == "24"
    assert rows[1][3].endswith("trial 2: fold 0, 1, 2, 3; and 3 more")


def test_no_failures_is_said(tmp_path):
    plugin = plugins.load("tables", "failures")
    presented = cells(load(tmp_path, methods=["pretrained", "triplet"], datasets=1), "failures")
    assert presented.empty
    write_markdown(plugin.TITLE, plugin.CAPTION, presented, tmp_path / "failures.md")
    write_latex(plugin.TITLE, plugin.CAPTION, presented, tmp_path / "failures.tex")
    assert (tmp_path / "failures.md").read_text().endswith("\n\nnone\n")
    assert (tmp_path / "failures.tex").read_text().endswith("\\paragraph{Failures} none\n")


def test_csv_keeps_every_digit(results, tmp_path):
    found = table(results, "accuracy")
    write_csv(found, tmp_path / "accuracy.csv")
    text = (tmp_path / "accuracy.csv").read_text()
    assert repr(float(found["half_width"].iloc[0])) in text
    again = pd.read_csv(tmp_path / "accuracy.csv", dtype=str)
    for column in ("mean", "half_width"):
        assert again[column].astype(float).equals(found[column])


@pytest.mark.parametrize("name", plugins.names("tables"))
@pytest.mark.parametrize("methods", [NAMES[:5], ["proxy_nca"], ["pretrained"]], ids=["mixed", "failed", "untrained"])
def test_every_table_is_written_in_every_form(name, methods, tmp_path):
    results = load(tmp_path, methods=methods, everything=needs(name))
    plugin = plugins.load("tables", name)
    assert isinstance(plugins.literal("tables", name, "TITLE"), str)
    assert isinstance(plugins.literal("tables", name, "CAPTION"), str)
    presented = cells(results, name)
    assert all(value is None or isinstance(value, str | Cell) for value in presented.to_numpy().ravel())

    write_csv(table(results, name), tmp_path / "table.csv")
    write_markdown(plugin.TITLE, plugin.CAPTION, presented, tmp_path / "table.md")
    write_latex(plugin.TITLE, plugin.CAPTION, presented, tmp_path / "table.tex")
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(table(results, name))
    assert_markdown_is_rectangular((tmp_path / "table.md").read_text())
    assert_latex_is_balanced((tmp_path / "table.tex").read_text())


def test_latex_escapes_and_groups(results, tmp_path):
    plugin = plugins.load("tables", "accuracy")
    write_latex(plugin.TITLE, plugin.CAPTION, cells(results, "accuracy"), tmp_path / "accuracy.tex")
    text = (tmp_path / "accuracy.tex").read_text()
    assert r"Margin \& co\_50\% & 60.00 $\pm$ 2.48" in text
    assert r"\textbf{40.00 $\pm$ 2.48}" in text
    assert r"39.50 $\pm$ 2.48\rlap{\textsuperscript{\dag{}}}" in text
    assert r"\multicolumn{3}{c}{Separated} & \multicolumn{3}{c}{Concatenated}" in text
    assert r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}" in text
    assert r"ProxyNCA & \multicolumn{6}{l}{failed: fold 0: the loss is NaN at step 40} & -- & -- \\" in text
    assert tabulation.latex_escaped("a_b & 50% #1 {x} ~ \\ ^ $ [1]") == (
        r"a\_b \& 50\% \#1 \{x\} \textasciitilde{} \textbackslash{} \textasciicircum{} \$ {[}1{]}"
    )


def test_a_latex_table_longer_than_a_page_is_a_longtable(tmp_path):
    long = tabulation.presented([{"A": str(i)} for i in range(100)], [""] * 100, ["A"])
    write_latex("Long", "Numbers.", long, tmp_path / "long.tex")
    text = (tmp_path / "long.tex").read_text()
    assert r"\begin{longtable}{@{}r@{}}" in text
    assert r"\begin{table}" not in text
    assert_latex_is_balanced(text)


def test_markdown_escapes(tmp_path):
    odd = tabulation.presented([{"A": "a|b *c* _d_ <e>"}], ["x"], ["A"])
    write_markdown("T", "C.", odd, tmp_path / "odd.md")
    assert r"| a\|b \*c\* \_d\_ \<e> |" in (tmp_path / "odd.md").read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (1.25e-05, "1.25e−5"), (-0.2, "−0.2"), (12, "12"), (100.0, "100"), ("a-b", "a-b"), (None, "–"),
     (True, "True"), (float("nan"), "–"), (pd.NA, "–")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert tabulation.number(value) == text


@pytest.mark.parametrize(("p", "text"), [(0.0001, "< 0.001"), (0.0194, "0.019"), (0.7071, "0.71"), (float("nan"), "–")])
def test_p_values_are_short(p, text):
    assert tabulation.p_value(p) == text


def assert_markdown_is_rectangular(text):
    for part in text.split("\n\n"):
        if part.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in part.splitlines()}) == 1


def assert_latex_is_balanced(text):
    bare = re.sub(r"\\[\\{}%&#$_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert bare.isascii()
    assert re.findall(r"(?<!^)%(?!\n)", bare.removeprefix("% needs")) == []
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", text))


# ------------------------------------------------------------------------------------- what a study has beside methods


@pytest.mark.parametrize("name", [name for name in plugins.names("tables") if needs(name) and name != "search_budget"])
def test_without_what_a_table_needs_it_is_empty(name, results):
    assert table(results, name).empty
    assert cells(results, name).empty


@pytest.mark.parametrize("name", [name for name in plugins.names("tables") if needs(name)])
def test_a_single_seed_gives_differences_without_interval_and_test(name, tmp_path):
    found = table(load(tmp_path, seeds=1, everything=True), name)
    for column in found.columns[found.columns.str.endswith(("half_width", "p", "p_holm", "tied"))]:
        assert found[column].isna().all(), column
    assert "±" not in " ".join(
        " ".join(texts(row)) for row in cells(load(tmp_path, seeds=1, everything=True), name).to_numpy()
    )


def of_factors(results, **chosen):
    found = table(results, "factors")
    chosen = {"dataset": "birds1", "retrieval": "", "metric": "map_at_r"} | chosen
    for column, value in chosen.items():
        found = found[found[column] == value]
    return found


def test_levels_by_hand(everything):
    """Contrastive loses 0.05, 0.04 and 0.06 with 64 numbers, and gains 0.02 in every seed with 512."""
    found = of_factors(everything, factor="dimension", method="contrastive").set_index("title")
    assert list(found.index) == ["64", "128", "512"]  # along the axis, not in the study's order
    assert found["at"].tolist() == [64, 128, 512]
    assert found["run"].tolist() == ["contrastive-d64", "contrastive", "contrastive-d512"]
    assert found["mean"].tolist() == pytest.approx([0.35, 0.40, 0.42])
    assert found["half_width"].tolist() == pytest.approx([HALF_WIDTH] * 3)
    assert found["difference"].tolist() == pytest.approx([-0.05, float("nan"), 0.02], nan_ok=True)
    assert found["difference_half_width"].tolist() == pytest.approx([HALF_WIDTH, float("nan"), 0], nan_ok=True)
    t = 0.05 / (0.01 / 3**0.5)
    assert found.loc["64", "p"] == pytest.approx(1 - t / (2 + t**2) ** 0.5)
    assert found.loc["64", "p_holm"] == found.loc["64", "p"]  # that of 512 is 0: the larger of two is not multiplied
    assert found["tied"].tolist() == [False, pd.NA, False]


def test_levels_have_every_way_of_retrieval_and_p_at_1(everything):
    binary = of_factors(everything, factor="dimension", method="triplet", retrieval="binary", metric="precision_at_1")
    assert binary["mean"].tolist() == pytest.approx([0.695 - 0.05 - 0.03, 0.695 - 0.03, 0.695 + 0.02 - 0.03])
    assert binary["difference"].isna().all()  # these are compared by the plain retrieval


def test_a_factor_without_the_studys_own_value_has_no_differences(everything):
    found = of_factors(everything, factor="frozen")
    assert found["run"].tolist() == ["contrastive-d64b", "contrastive-d512b"]
    assert found["mean"].tolist() == pytest.approx([0.30, 0.30])
    assert found["difference"].isna().all() and found["pairs"].isna().all()


def test_levels_without_a_place_on_an_axis_follow_the_studys_own_value(everything):
    found = of_factors(everything, factor="trunk", method="contrastive")
    assert found["title"].tolist() == ["BN-Inception", "Odd_50% <trunk>"]
    assert found["tied"].tolist() == [pd.NA, True]


def test_a_level_that_failed_says_why_and_pairs_count_the_seeds_of_both(everything):
    found = table(everything, "factors")
    failed = found[found["run"] == "margin-odd"]
    assert failed["failure"].tolist() == ["the loss is NaN at step 40"] * 2  # data sets
    fewer = of_factors(everything, dataset="birds2", factor="dimension", method="margin").set_index("title")
    assert fewer["n"].tolist() == [3, 2, 3]
    assert fewer.loc["64", "pairs"] == 2 and fewer.loc["64", "difference"] == pytest.approx(-0.045)


def test_levels_are_presented_method_by_method(everything):
    presented = cells(everything, "factors")
    assert list(dict.fromkeys(presented.index))[:3] == [
        "Birds 1: Embedding size", "Birds 1: Embedding size, frozen", "Birds 1: Trunk & more"
    ]  # fmt: skip
    rows = [tabulation.row_cells(row) for row in presented.to_numpy()]
    assert [cell.text for cell in rows[0]] == ["Contrastive", "64", "65.00 ± 2.48", "−5.00 ± 2.48", "35.00 ± 2.48",
                                               "−5.00 ± 2.48", "3"]  # fmt: skip
    assert [cell.text for cell in rows[1]][:4] == ["", "128", "70.00 ± 2.48", "–"]
    assert rows[1][1].bold and not rows[0][1].bold
    assert rows[2][3] == Cell("+2.00 ± 0.00")
    own, other = rows[14:16]
    assert [cell.text for cell in own] == ["Pretrained", "BN-Inception", "40.00", "–", "10.00", "–", "1"]
    assert other[3].mark == "†" and other[3].text == "0.00 ± 2.48"
    assert ["", "Odd_50% <trunk>", "failed: the loss is NaN at step 40"] in [[c.text for c in row] for row in rows]
    fewer = [[c.text for c in row] for row in rows if row[-1].text == "2 of 3"]
    assert fewer[0] == ["", "128", "58.50 ± 6.35", "–", "28.50 ± 6.35", "–", "2 of 3"]


def test_a_run_that_is_missing_is_said_to_have_no_result(tmp_path):
    folder = write(tmp_path, everything=True)
    for name in ("metrics", "runs", "best", "trials"):
        frame = pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False)
        frame[frame["method"] != "triplet-d64"].to_csv(folder / f"{name}.csv", index=False)
    found = table(Results.load(folder), "factors").set_index("run")
    assert set(found.loc["triplet-d64", "failure"]) == {"no result"}


def test_loaded_weights_on_two_levels_differ_without_interval(tmp_path):
    def change(metrics):
        metrics.loc[metrics["method"] == "pretrained-odd", "value"] = 0.2

    found = of_factors(altered(tmp_path, change, everything=True), factor="trunk", method="pretrained")
    assert found["n"].tolist() == [1, 1]
    assert found["difference"].iloc[1] == pytest.approx(0.1)
    assert found[["difference_half_width", "p", "tied"]].isna().all(axis=None)


def test_ways_of_retrieval_by_hand(everything):
    """Binary codes lose 0.03, 0.02 and 0.04, re-ranking gains 0.04 in every seed."""
    found = table(everything, "retrieval")
    own = found[(found["dataset"] == "birds1") & (found["method"] == "triplet") & (found["metric"] == "map_at_r")]
    separated = own[own["embedding"] == "separated"].set_index("retrieval")
    assert list(separated.index) == ["", "binary", "reranked"]
    assert separated["mean"].tolist() == pytest.approx([0.395, 0.365, 0.435])
    assert separated["difference"].tolist() == pytest.approx([float("nan"), -0.03, 0.04], nan_ok=True)
    assert separated.loc["binary", "difference_half_width"] == pytest.approx(HALF_WIDTH)
    t = 0.03 / (0.01 / 3**0.5)
    assert separated.loc["binary", "p"] == pytest.approx(1 - t / (2 + t**2) ** 0.5)
    joined = own[own["embedding"] == "concatenated"].set_index("retrieval")
    assert joined["mean"].tolist() == pytest.approx([0.445, 0.415, 0.485])


def test_ways_of_retrieval_are_presented_below_each_other(everything):
    presented = cells(everything, "retrieval")
    assert list(dict.fromkeys(presented.index)) == [
        "Birds 1, separated", "Birds 1, concatenated", "Birds 2, separated", "Birds 2, concatenated"
    ]  # fmt: skip
    rows = [texts(row) for row in presented.loc["Birds 1, separated"].to_numpy()]
    assert rows[0] == ["Contrastive", "Plain", "70.00 ± 2.48", "–", "40.00 ± 2.48", "–", "3"]
    assert rows[1] == ["", "Binary", "67.00 ± 2.48", "−3.00 ± 2.48", "37.00 ± 2.48", "−3.00 ± 2.48", "3"]
    assert rows[2][:4] == ["", "Re-ranked & odd_50%", "74.00 ± 2.48", "+4.00 ± 0.00"]
    pretrained = next(i for i, row in enumerate(rows) if row[0] == "Pretrained")
    assert rows[pretrained + 2][2:4] == ["44.00", "+4.00"]  # one evaluation beside one evaluation
    assert rows[-1] == ["ProxyNCA", "failed: fold 0: the loss is NaN at step 40"]
    joined = [texts(row) for row in presented.loc["Birds 2, concatenated"].to_numpy()]
    assert joined[0][:3] == ["Contrastive", "Plain", "73.00 ± 2.48"]
    assert [row[-1] for row in joined if row[-1].startswith("2 ")] == ["2 of 3"] * 3


def test_a_difference_that_was_not_tested_has_no_interval_and_the_captions_say_so(everything):
    """Else "no dagger" would mean both that it was tested and that it was not."""
    found = table(everything, "retrieval").dropna(subset=["difference"])
    assert found["tied"].isna().any()
    assert found["difference_half_width"].isna().equals(found["tied"].isna())
    assert "A difference without ± was not tested" in plugins.literal("tables", "retrieval", "CAPTION")


def test_gains_of_pairs_by_hand(everything):
    """Triplet - contrastive is 0.015, -0.005, -0.025; margin - triplet -0.105, -0.085, -0.095: t = -16.5."""
    found = table(everything, "pairs")
    own = found[(found["dataset"] == "birds1") & (found["metric"] == "map_at_r")].set_index("method")
    assert own["base"].tolist() == ["contrastive", "triplet"]
    assert own["difference"].tolist() == pytest.approx([-0.005, -0.095])
    assert own["half_width"].tolist() == pytest.approx([2 * HALF_WIDTH, HALF_WIDTH])
    t = 0.095 / (0.01 / 3**0.5)
    assert own.loc["margin", "p"] == pytest.approx(1 - t / (2 + t**2) ** 0.5)
    assert own.loc["margin", "p_holm"] == pytest.approx(2 * own.loc["margin", "p"])
    assert own.loc["triplet", "p_holm"] == own.loc["triplet", "p"]
    assert own["tied"].tolist() == [True, False]

    rho = found[(found["dataset"] == "birds1") & (found["metric"] == "rho_2")].set_index("method")
    assert rho.loc["triplet", "difference"] == pytest.approx(0.005)  # -0.005, 0.015 and 0.005
    assert rho.loc["triplet", "half_width"] == pytest.approx(HALF_WIDTH)
    failed = found[found["method"] == "proxy_nca"]
    assert failed["failure"].tolist() == ["ProxyNCA: fold 0: the loss is NaN at step 40"] * 2


def test_pairs_are_presented_with_the_change_of_rho(everything):
    presented = cells(everything, "pairs")
    assert list(presented.columns)[-3:] == [("rho@2", "Difference"), ("rho@2", "p (Holm)"), ("", "n")]
    rows = [texts(row) for row in presented.to_numpy()]
    assert rows[0] == ["Triplet", "Contrastive", "−0.50 ± 4.97", "0.71", "−0.50 ± 4.97", "0.71", "+0.005 ± 0.025",
                       "0.48", "3"]  # fmt: skip
    assert rows[1][2:4] == ["−9.50 ± 2.48", "0.007"]
    assert rows[4][-1] == "2"  # seeds that both have


def test_without_geometry_pairs_have_no_rho(tmp_path):
    folder = write(tmp_path, everything=True)
    metrics = pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False)
    metrics[metrics["embedding"] != "training"].to_csv(folder / "metrics.csv", index=False)
    found = Results.load(folder)
    assert set(table(found, "pairs")["metric"].dropna()) == {"precision_at_1", "map_at_r"}
    assert table(found, "embedding_space").empty


def test_a_pair_may_be_of_runs_on_levels(everything, tmp_path):
    results = Results.load(write(tmp_path, everything=True))
    results.study["pairs"] = {"contrastive-d64": "contrastive", "margin-odd": "margin"}
    found = table(results, "pairs").set_index(["dataset", "method", "metric"])
    assert found.loc[("birds1", "contrastive-d64", "map_at_r"), "difference"] == pytest.approx(-0.05)
    rows = [texts(row) for row in cells(results, "pairs").to_numpy()]
    assert rows[0][:2] == ["Contrastive, 64", "Contrastive"]
    assert rows[1][2].startswith("failed: Margin & co_50%, Odd_50% <trunk>: the loss is NaN")


def test_a_pair_without_a_common_seed_says_so(tmp_path):
    folder = write(tmp_path, everything=True, methods=["contrastive", "triplet"], datasets=1)
    metrics = pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False)
    kept = (metrics["method"] != "triplet") | (metrics["seed"] == "0")
    metrics[kept & ((metrics["method"] != "contrastive") | (metrics["seed"] != "0"))].to_csv(
        folder / "metrics.csv", index=False
    )
    assert table(Results.load(folder), "pairs")["failure"].tolist() == ["no seed in which both succeeded"]


def test_geometry_by_hand(everything):
    found = table(everything, "embedding_space").query("dataset == 'birds1'").set_index(["method", "measure"])
    assert found.loc[("triplet", "precision_at_1"), "mean"] == pytest.approx(0.695)
    assert found.loc[("triplet", "pi_intra"), ["mean", "n"]].tolist() == [pytest.approx(0.22), 3]
    assert found.loc[("triplet", "rho_2"), "mean"] == pytest.approx(0.605)
    assert found.loc[("triplet", "rho_2"), "half_width"] == pytest.approx(HALF_WIDTH)
    assert found.loc[("pretrained", "rho_2"), "n"] == 1

    # of P@1 0.70, 0.695 and 0.60; the trunk that is not trained is left out
    r = found[found["published_r"].isna()].loc[""]
    assert r.loc["pi_intra", "r"] == pytest.approx(-0.001 / (0.0002 * 0.00635) ** 0.5)
    assert r.loc["rho_2", "r"] == pytest.approx(-1)
    assert r.loc["rho_2", ["low", "high", "n"]].tolist() == [-1, 1, 3]
    assert pd.isna(r.loc["pi_inter", "r"])  # it is the same for all


def test_correlations_have_fishers_interval(tmp_path):
    results = load(tmp_path, methods=NAMES[:9], datasets=1, everything=True)
    found = table(results, "embedding_space").query("method == '' and published_r.isna()").set_index("measure")
    x = [0.21, 0.22, 0.23, 0.21, 0.22, 0.23, 0.20]
    y = [0.70, 0.695, 0.60, 0.55, 0.54, 0.53, 0.52]
    dx, dy = ([value - sum(values) / 7 for value in values] for values in (x, y))
    r = sum(a * b for a, b in zip(dx, dy, strict=True)) / (sum(a * a for a in dx) * sum(b * b for b in dy)) ** 0.5
    z, half = math.atanh(r), 1.959963984540054 / 4**0.5  # n - 3
    row = found.loc["pi_intra"]
    assert row["n"] == 7
    assert row[["r", "low", "high"]].tolist() == pytest.approx([r, math.tanh(z - half), math.tanh(z + half)])
    assert found.loc["pi_ratio", "r"] == pytest.approx(r)


def test_the_papers_correlations_are_those_of_the_data_set(everything):
    found = table(everything, "embedding_space").dropna(subset=["published_r"])
    assert set(found["dataset"]) == {"birds1"}  # the paper does not have the other
    assert found[["measure", "published_r", "n"]].to_numpy().tolist() == [
        ["pi_intra", 0.25, 18], ["rho_2", -0.8, 18], ["rho_2", -0.81, 23]
    ]  # fmt: skip
    assert found["r"].isna().all()


def test_without_a_counterpart_no_correlation_is_published(tmp_path):
    results = load(tmp_path, everything=True)
    results.study["counterpart"] = None
    assert table(results, "embedding_space")["published_r"].isna().all()
    assert "published r" not in cells(results, "embedding_space")["Method"].tolist()


def test_geometry_is_presented_with_its_correlations(everything):
    presented = cells(everything, "embedding_space")
    assert list(presented.columns) == ["Method", "P@1", "pi intra", "pi inter", "pi ratio", "rho@1", "rho@2", "n"]
    rows = [texts(row) for row in presented.loc["Birds 1"].to_numpy()]
    assert rows[0][:3] == ["Contrastive", "70.00 ± 2.48", "0.210 ± 0.000"]
    assert rows[3] == ["Pretrained", "40.00", "0.200", "0.800", "0.250", "1.800", "0.900", "1"]
    assert rows[4] == ["ProxyNCA", "failed: fold 0: the loss is NaN at step 40"]
    assert rows[5] == ["r with P@1", "–", "−0.89", "–", "−0.89", "−1.00", "−1.00", "3"]
    assert rows[6] == ["its 95% interval", "–", "−1.00 to 1.00", "–", *["−1.00 to 1.00"] * 3, "–"]
    assert rows[7] == ["published r", "–", "0.25", "–", "–", "–", "−0.80", "18"]
    assert rows[8] == ["published r", "–", "–", "–", "–", "–", "−0.81", "23"]
    assert [texts(row)[0] for row in presented.loc["Birds 2"].to_numpy()][-2:] == ["r with P@1", "its 95% interval"]


def with_published(folder, *rows):
    """The example with everything and these published values: embedding, method, metric, mean and half width."""
    folder = write(folder, everything=True)
    with (folder / "published.csv").open("a") as file:
        file.writelines(f"birds1,{row},a table,,another protocol\n" for row in rows)
    return Results.load(folder)


def test_the_papers_geometry_stands_below_ours(tmp_path):
    results = with_published(
        tmp_path, "separated,triplet,precision_at_1,0.66,0.01", "training,triplet,rho_2,0.3,",
        "training,proxy_nca,pi_intra,0.4,", "separated,margin,precision_at_1,0.5,", "separated,triplet,nmi,0.5,",
    )  # fmt: skip
    found = table(results, "embedding_space").query("dataset == 'birds1'").set_index(["method", "measure"])
    assert found.loc[("triplet", "rho_2"), ["mean", "published"]].tolist() == pytest.approx([0.605, 0.3])
    rows = [texts(row) for row in cells(results, "embedding_space").loc["Birds 1"].to_numpy()]
    assert [row[0] for row in rows][:7] == [
        "Contrastive", "Triplet", "in the paper", "Margin & co_50%", "Pretrained", "ProxyNCA", "in the paper"
    ]  # fmt: skip
    assert rows[2] == ["in the paper", "66.00 ± 1.00", "–", "–", "–", "–", "0.300", "–"]
    assert rows[5] == ["ProxyNCA", "failed: fold 0: the loss is NaN at step 40"]
    assert rows[6] == ["in the paper", "–", "0.400", "–", "–", "–", "–", "–"]


def test_what_choosing_by_the_test_would_feign_by_hand(everything):
    """Over the chosen models, the best P@1 of the test stands 0.01, 0.02 and 0.03, the best MAP@R 0.01."""
    found = table(everything, "selection").set_index(["dataset", "method", "metric"])
    row = found.loc[("birds1", "triplet", "precision_at_1")]
    assert row[["by_validation", "by_test", "feigned", "n"]].tolist() == pytest.approx([0.695, 0.715, 0.02, 3])
    assert row[["by_validation_half_width", "by_test_half_width", "feigned_half_width"]].tolist() == pytest.approx(
        [HALF_WIDTH, 0, HALF_WIDTH], abs=1e-9
    )
    assert found.loc[("birds1", "triplet", "map_at_r"), "feigned"] == pytest.approx(0.01)
    fewer = found.loc[("birds2", "margin", "map_at_r")]  # of its last seed a fold failed
    assert fewer[["by_validation", "n"]].tolist() == pytest.approx([0.285, 2])
    assert "pretrained" not in found.index.get_level_values("method")
    assert texts(cells(everything, "selection").iloc[1]) == [
        "Triplet", "69.50 ± 2.48", "71.50 ± 0.00", "+2.00 ± 2.48", "39.50 ± 2.48", "40.50 ± 2.48", "+1.00 ± 0.00", "3"
    ]  # fmt: skip


def test_the_chosen_models_have_the_values_of_the_other_tables(everything):
    found = table(everything, "selection").dropna(subset=["by_validation"])
    accuracy = table(everything, "accuracy").query("embedding == 'separated'")
    both = found.merge(accuracy, on=["dataset", "method", "metric"])
    assert len(both) == len(found)
    assert both["by_validation"].tolist() == pytest.approx(both["mean"].tolist())


def test_a_seed_without_all_folds_is_left_out_of_the_selection(tmp_path):
    folder = write(tmp_path, datasets=1, methods=["contrastive", "triplet"], everything=True)
    selection = pd.read_csv(folder / "selection.csv")
    gone = (selection["method"] == "triplet") & (selection["seed"] == 1) & (selection["fold"] == 2)
    unchosen = (selection["method"] == "contrastive") & (selection["seed"] == 0) & (selection["fold"] == 0)
    selection.loc[unchosen, "chosen"] = False
    selection[~gone].to_csv(folder / "selection.csv", index=False)
    found = table(Results.load(folder), "selection").set_index(["method", "metric"])
    assert found["n"].tolist() == [2] * 4
    assert found.loc[("triplet", "map_at_r"), "by_validation"] == pytest.approx(0.395)
    assert found.loc[("contrastive", "map_at_r"), "by_validation"] == pytest.approx(0.405)


def test_no_other_table_uses_the_selection(everything, tmp_path):
    folder = write(tmp_path, everything=True)
    header = (folder / "selection.csv").read_text().splitlines()[0]
    (folder / "selection.csv").write_text(header + "\n")
    without = Results.load(folder)
    for name in plugins.names("tables"):
        assert table(without, name).equals(table(everything, name)) is (name != "selection")


@pytest.mark.parametrize(
    ("difference", "half_width", "text"),
    [
        (0.012, 0.003, "+1.20 ± 0.30"),
        (-0.012, float("nan"), "−1.20"),
        (-1e-18, 0.003, "0.00 ± 0.30"),
        (0.0, 0.0, "0.00 ± 0.00"),
    ],
)
def test_differences_have_their_sign(difference, half_width, text):
    assert signed(difference, half_width) == text


def test_holm_by_hand():
    p = pd.Series([0.03, math.nan, 0.01, 0.04, 0.9, 0.02])
    expected = [0.09, math.nan, 0.05, 0.09, 0.9, 0.08]  # times 3, -, 5, 2, 1 and 4; none below the one before it
    assert holm(p).tolist() == pytest.approx(expected, nan_ok=True)
    assert holm(pd.Series([0.6, 0.7])).tolist() == [1, 1]
    assert holm(pd.Series([math.nan])).isna().all()


@pytest.mark.parametrize(
    ("value", "text"), [(0.0301, "+0.030"), (-0.0301, "−0.030"), (-1e-9, "0.000"), (float("nan"), "–")]
)
def test_differences_of_rho_have_their_sign(value, text):
    assert in_nats(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.12345, "0.123"), (12345678.9, "1.235e7"), (float("nan"), "–")])
def test_measures_of_geometry_are_short(value, text):
    assert shown(value) == text
