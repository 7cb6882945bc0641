import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from example_results import NAMES, write
from matplotlib.colors import to_rgb

from dml import plotting, plugins
from dml.figures.factors import _set_axis, spread
from dml.results import Results

SIZES = [(1, 1), (2, 1), (4, 2), (5, 4), (9, 3), (15, 3)]


def draw(name, results):
    return plugins.load("figures", name).draw(results)


def shown_text(figure):
    parts = [figure, *figure.axes]
    return [text.get_text() for part in parts for text in part.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("methods, datasets", SIZES, ids=[f"{m} methods, {d} data sets" for m, d in SIZES])
def test_every_figure_is_drawn_without_warnings(tmp_path, methods, datasets):
    results = Results.load(write(tmp_path, methods=NAMES[:methods], datasets=datasets, everything=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in plugins.names("figures"):
            plotting.save(draw(name, results), tmp_path / name)
            assert (tmp_path / f"{name}.svg").read_text().endswith("</svg>\n")
            assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", plugins.names("figures"))
@pytest.mark.parametrize("study", [{"methods": ["proxy_nca"]}, {"seeds": 1}], ids=["all failed", "one seed"])
def test_a_study_without_results_or_intervals_is_drawn(name, study, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plotting.save(draw(name, Results.load(write(tmp_path, everything=True, **study))), tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("factors", "No level of a factor has a result."), ("retrieval", "No method has a result."),
     ("pairs", "No pair has a result."), ("embedding_space", "No method has a result.")],
)  # fmt: skip
@pytest.mark.parametrize("study", [{}, {"methods": ["proxy_nca"], "everything": True}], ids=["none", "all failed"])
def test_a_figure_of_what_is_not_there_says_so(name, message, study, tmp_path):
    assert shown_text(draw(name, Results.load(write(tmp_path, **study)))) == [message]


@pytest.mark.parametrize("name", plugins.names("figures"))
def test_titles_and_captions_are_literals(name):
    assert isinstance(plugins.literal("figures", name, "TITLE"), str)
    assert isinstance(plugins.literal("figures", name, "CAPTION"), str)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results.load(write(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A study with factors, other ways of retrieval, pairs and geometry."""
    return Results.load(write(tmp_path_factory.mktemp("everything"), everything=True))


def test_accuracy_shows_means_seeds_and_intervals(results):
    axes = draw("accuracy", results).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "Contrastive", "Triplet", "Margin & co_50%", "Pretrained", "ProxyNCA"
    ]  # fmt: skip
    assert "no result" in [text.get_text() for text in axes.texts]
    lines = [line.get_xdata() for line in axes.lines if len(line.get_xdata())]
    assert any(len(xs) == 3 and list(xs) == pytest.approx([39, 40, 41]) for xs in lines)
    assert any(len(xs) == 2 and list(xs) == pytest.approx([40 - 2.4841, 40 + 2.4841], abs=1e-3) for xs in lines)


def test_accuracy_has_bars_from_zero(results):
    axes = draw("accuracy", results).axes[0]
    bars = [bar for bar in axes.patches if bar.get_width() > 0]
    assert axes.get_xlim()[0] == 0
    assert {bar.get_x() for bar in bars} == {0}
    assert [bar.get_width() for bar in bars] == pytest.approx([40, 39.5, 30, 10, 45, 44.5, 35, 15])
    ink = plotting.method_colours(results)["contrastive"]
    separated, concatenated = (to_rgb(bars[i].get_facecolor()[:3]) for i in (0, 4))
    assert sum(to_rgb(ink)) < sum(separated) < sum(concatenated) < 3


def test_one_evaluation_has_neither_whisker_nor_dots(results):
    axes = draw("accuracy", results).axes[0]
    grey = [line for line in axes.lines if line.get_color() == plotting.UNTRAINED]
    assert grey == []


def test_rows_of_many_methods_are_lower_and_have_one_line(tmp_path):
    folder = write(tmp_path, methods=NAMES, datasets=2)
    heights, labels = {}, {}
    for count in (5, 20, 60):
        results = Results.load(folder)
        last = results.study["methods"][-1]
        results.study["methods"] += [last | {"name": f"other_{i}"} for i in range(40)]
        del results.study["methods"][count:]
        figure = draw("accuracy", results)
        heights[count] = figure.get_figheight() - 0.75 - 0.4
        labels[count] = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert heights == pytest.approx({5: 5 * 0.48, 20: 9.0, 60: 60 * 0.18})  # 20 go on a page; 0.18 can be read
    assert "Margin & co_50%\n2 of 3 seeds" in labels[20]
    assert "Margin & co_50%, 2 of 3 seeds" in labels[60]


def test_a_method_with_a_failed_seed_says_so_and_stands_behind(results):
    labels = [label.get_text() for label in draw("accuracy", results).axes[1].get_yticklabels()]
    assert labels == ["Contrastive", "Triplet", "Pretrained", "Margin & co_50%\n2 of 3 seeds", "ProxyNCA"]


def test_search_progress_is_the_best_so_far_and_marks_failures(results):
    panel = draw("search_progress", results).axes[0]
    assert panel.get_title(loc="left") == "Contrastive"
    own = next(line for line in panel.lines if line.get_linewidth() > 1.5 and line.get_drawstyle() == "steps-post")
    # scores 42, 44, failed, 48, 50, 48: a point where a step begins, and the last trial
    assert list(own.get_xdata()) == [0, 1, 3, 4, 5]
    assert list(own.get_ydata()) == pytest.approx([42, 44, 48, 50, 50])
    failed = next(line for line in panel.lines if line.get_marker() == "x")
    assert list(failed.get_xdata()) == [2]


def test_validation_curves_end_where_fewer_than_half_of_the_runs_train(results):
    panel = draw("validation_curves", results).axes[0]
    line = next(line for line in panel.lines if line.get_linewidth() > 1.5)
    assert list(line.get_xdata()) == [0, 100, 200, 300, 400]  # a quarter of the runs ends at 300
    assert line.get_ydata()[0] == pytest.approx(100 * (0.40 + 0.1 - 0.2))
    assert line.get_ydata()[-1] == pytest.approx(100 * (0.40 + 0.1 - 0.2 / 9 - 0.001))


def test_every_trained_method_has_a_labelled_panel(results):
    for name in ("search_progress", "validation_curves"):
        text = shown_text(draw(name, results))
        assert {"Birds 1", "Birds 2", "Contrastive", "Triplet", "Margin & co_50%"} <= set(text)
        assert "Pretrained" not in text


def test_a_method_has_one_colour_in_all_figures(results):
    colours = plotting.method_colours(results)
    assert colours["pretrained"] == plotting.UNTRAINED
    labels = {
        text.get_text(): text.get_color()
        for name in ("search_progress", "validation_curves")
        for text in draw(name, results).findobj(matplotlib.text.Text)
    }
    dots = {line.get_color() for line in draw("accuracy", results).axes[0].lines}
    for method, title in (("contrastive", "Contrastive"), ("triplet", "Triplet")):
        assert labels[title] == colours[method]
        assert colours[method] in dots


def test_colours_stand_out_from_white():
    for colour in (*plotting.PALETTE, plotting.UNTRAINED):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        assert 1.05 / (luminance + 0.05) >= 3
    assert len(set(plotting.PALETTE)) == len(plotting.PALETTE)


def test_the_callers_settings_neither_matter_nor_change(results, tmp_path):
    plotting.save(draw("accuracy", results), tmp_path / "plain")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        plotting.save(draw("accuracy", results), tmp_path / "strange")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "strange.svg").read_bytes()


# ------------------------------------------------------------------------------------- what a study has beside methods


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def points(line):
    return list(line.get_xdata()), list(line.get_ydata())


def test_factors_with_one_title_share_a_panel_of_each_data_set(everything):
    titles = [axes.get_title(loc="left") for axes in draw("factors", everything).axes if axes.get_visible()]
    assert titles == [f"Birds {i}: {title}" for i in (1, 2) for title in ("Embedding size", "Trunk & more")]


def test_levels_that_are_numbers_are_curves(everything):
    axes = panel(draw("factors", everything), "Birds 1: Embedding size")
    colour = plotting.method_colours(everything)["contrastive"]
    curves = [line for line in axes.lines if line.get_color() == colour]
    plain, thin = ([line for line in curves if (line.get_linewidth() > 1) is thick] for thick in (True, False))
    assert len(thin) == 4  # two factors, by two other ways of retrieval
    assert [(line.get_linestyle(), *points(line)) for line in plain] == [
        ("-", [64, 128, 512], pytest.approx([35, 40, 42])),
        ("--", [64, 512], pytest.approx([30, 30])),  # the other factor: without the study's value
    ]
    assert points(thin[0]) == ([64, 128, 512], pytest.approx([32, 37, 39]))  # binary
    assert points(thin[1]) == ([64, 128, 512], pytest.approx([39, 44, 46]))  # re-ranked
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "plain", "frozen", "Binary", "Re-ranked & odd_50%", "frozen, Binary", "frozen, Re-ranked & odd_50%"
    ]  # fmt: skip


def test_curves_have_intervals_names_and_the_studys_own_value(everything):
    axes = panel(draw("factors", everything), "Birds 1: Embedding size")
    whiskers = [tuple(path[:, 1]) for collection in axes.collections for path in collection.get_segments()]
    assert pytest.approx((40 - 2.4841, 40 + 2.4841), abs=1e-3) in whiskers
    assert len(whiskers) == 3 * 3 + 2  # of the plain retrieval alone
    assert sorted(text.get_text() for text in axes.texts) == ["Contrastive"] * 2 + ["Margin & co_50%", "Triplet"]
    assert [points(line)[0] for line in axes.lines if line.get_color() == plotting.CONTEXT] == [[128, 128]]
    assert axes.get_xscale() == "log"  # 512 is more than four times 64
    assert [label.get_text() for label in axes.get_xticklabels()] == ["64", "128", "512"]


def test_an_axis_that_spans_little_is_linear(tmp_path):
    results = Results.load(write(tmp_path, everything=True, datasets=1))
    for factor in results.study["factors"]:
        for level in factor["levels"]:
            level["at"] = {"d64": 64, "d512": 256}.get(level["name"])
    assert panel(draw("factors", results), "Birds 1: Trunk & more").get_xscale() == "linear"
    del results.study["factors"][1]  # one whose levels now have no place
    assert panel(draw("factors", results), "Birds 1: Embedding size").get_xscale() == "linear"


def test_of_many_levels_few_have_a_tick():
    axes = matplotlib.figure.Figure().add_subplot()
    _set_axis(axes, pd.DataFrame({"at": [2.0**i for i in range(20)], "level": "other"}))
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["1", "8", "64"]
    assert len(axes.get_xticks()) == 7


def test_a_studys_own_value_without_a_place_is_left_out_of_its_curve(tmp_path):
    results = Results.load(write(tmp_path, everything=True, datasets=1, methods=["contrastive"]))
    results.study["factors"][0]["at"] = None
    axes = panel(draw("factors", results), "Birds 1: Embedding size")
    assert points(axes.lines[0])[0] == [64, 512]


def test_levels_that_are_no_numbers_are_rows(everything):
    axes = panel(draw("factors", everything), "Birds 1: Trunk & more")
    level = "Odd_50% <trunk>"
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        text
        for method in ("Contrastive", "Triplet", "Margin & co_50%", "Pretrained", "ProxyNCA")
        for text in (method, "BN-Inception", level)
    ]
    dots = {
        line.get_ydata()[0]: (line.get_xdata()[0], line.get_color()) for line in axes.lines if line.get_marker() == "o"
    }
    assert dots[1] == (pytest.approx(40), plotting.INK)
    assert dots[5] == (pytest.approx(39.5), plotting.method_colours(everything)["triplet"])
    failed = {text.get_position()[1]: text.get_text() for text in axes.texts}
    assert failed == {8: "no result", 13: "no result", 14: "no result"}


@pytest.mark.parametrize(
    ("places", "apart"),
    [
        ([1.0, 5.0, 9.0], [1.0, 5.0, 9.0]),
        ([5.0, 5.0], [4.5, 5.5]),
        ([4.0, 4.2, 5.0, 9.0], [3.4, 4.4, 5.4, 9.0]),
        ([0.0, 0.0, 0.0], [0.0, 1.0, 2.0]),
        ([9.8, 10.0], [9.0, 10.0]),
        ([], []),
    ],
)
def test_names_are_moved_apart(places, apart):
    assert spread(places, 1.0, 0.0, 10.0) == pytest.approx(apart)


def test_names_of_curves_do_not_overlap(tmp_path):
    results = Results.load(write(tmp_path, everything=True, methods=NAMES, datasets=1))
    figure = draw("factors", results)
    axes = panel(figure, "Birds 1: Embedding size")
    figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent().y0, text.get_window_extent().y1) for text in axes.texts)
    middles = [(low + high) / 2 for low, high in boxes]
    assert len(boxes) == len(NAMES) - 1  # all methods that train but the one that failed, and one twice
    assert (
        min(b - a for a, b in zip(middles, middles[1:], strict=False)) > 0.11 * figure.dpi
    )  # inches: 7 points are 0.1
    frame = axes.get_window_extent()
    assert frame.y0 - 5 < middles[0] and middles[-1] < frame.y1 + 5


def test_ways_of_retrieval_stand_below_the_plain_one(everything):
    axes = panel(draw("retrieval", everything), "Birds 1")
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:5] == ["Contrastive", "Plain", "Binary", "Re-ranked & odd_50%", "Triplet"]
    assert labels[-2:] == ["ProxyNCA", "Plain"]
    dots = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"}
    assert [dots[row] for row in (1, 2, 3)] == pytest.approx([40, 37, 44])
    assert [text.get_text() for text in axes.texts] == ["no result"]


def test_gains_of_pairs_are_drawn_with_their_intervals(everything):
    figure = draw("pairs", everything)
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["P@1, points", "MAP@R, points", "rho@2, nats"]
    axes = figure.axes[1]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "Triplet beside\nContrastive", "Margin & co_50% beside\nTriplet"
    ]  # fmt: skip
    dots = {line.get_ydata()[0]: line for line in axes.lines if line.get_marker() == "o"}
    assert [dots[row].get_xdata()[0] for row in (0, 1)] == pytest.approx([-0.5, -9.5])
    assert dots[0].get_markerfacecolor() == "white"  # tied
    assert dots[1].get_markerfacecolor() == dots[1].get_color()
    whiskers = [tuple(path[:, 0]) for collection in axes.collections for path in collection.get_segments()]
    assert pytest.approx((-9.5 - 2.4841, -9.5 + 2.4841), abs=1e-3) in whiskers


def test_geometry_is_drawn_beside_accuracy(everything):
    figure = draw("embedding_space", everything)
    axes = figure.axes[3]
    assert axes.get_xlabel() == "rho@2 of training classes"
    assert axes.get_title(loc="left") == (
        "r = −1.00 (−1.00 to 1.00), n = 3\npublished: r = −0.80, n = 18; r = −0.81, n = 23"
    )
    assert figure.axes[1].get_title(loc="left") == "no r: the measure does not vary"
    assert "published" not in figure.axes[7].get_title(loc="left")  # the paper does not have this data set
    dots = {line.get_color(): points(line) for line in axes.lines if line.get_marker() == "o"}
    assert dots[plotting.method_colours(everything)["triplet"]] == ([pytest.approx(0.605)], [pytest.approx(69.5)])
    names = ["Contrastive", "Margin & co_50%", "Pretrained: 0.900, 40.0%", "Triplet"]
    assert sorted(filter(None, (text.get_text() for text in axes.texts))) == names


def test_an_untrained_trunk_far_off_does_not_stretch_the_axes(everything):
    axes = draw("embedding_space", everything).axes[3]
    assert 0.55 < axes.get_xlim()[0] < 0.6 and 0.7 < axes.get_xlim()[1] < 0.75  # methods: 0.6 to 0.7; trunk: 0.9
    assert 58 < axes.get_ylim()[0] < 60 and 70 < axes.get_ylim()[1] < 72  # methods: 60 to 70; trunk: 40
    arrow = next(text for text in axes.texts if text.arrow_patch and not text.get_text())
    width = 72 * axes.get_position().width * axes.figure.get_figwidth()
    assert arrow.xy == pytest.approx((width, 0), abs=0.01)  # to the right and down
    assert plotting.UNTRAINED not in [line.get_color() for line in axes.lines]


def test_an_untrained_trunk_among_the_methods_is_a_point(tmp_path):
    folder = write(tmp_path, everything=True, datasets=1)
    metrics = pd.read_csv(folder / "metrics.csv", dtype=str, keep_default_na=False)
    own = metrics["method"] == "pretrained"
    for metric, value in (("rho_2", "0.65"), ("precision_at_1", "0.65")):
        metrics.loc[own & (metrics["metric"] == metric), "value"] = value
    metrics.to_csv(folder / "metrics.csv", index=False)
    axes = draw("embedding_space", Results.load(folder)).axes[3]
    grey = next(line for line in axes.lines if line.get_color() == plotting.UNTRAINED)
    assert (grey.get_xdata()[0], grey.get_ydata()[0]) == pytest.approx((0.65, 65))
    assert "Pretrained" in [text.get_text() for text in axes.texts]


def test_an_untrained_trunk_alone_is_a_point(tmp_path):
    axes = draw("embedding_space", Results.load(write(tmp_path, everything=True, methods=["pretrained"]))).axes[3]
    assert [text.get_text() for text in axes.texts] == ["Pretrained"]


def test_of_many_methods_the_points_have_numbers_and_a_list_names_them(tmp_path):
    results = Results.load(write(tmp_path, everything=True, methods=NAMES, datasets=1))
    figure = draw("embedding_space", results)
    figure.draw_without_rendering()
    listed = [text for text in figure.texts[1:] if text.get_text()]
    numbers, names = listed[::2], listed[1::2]
    assert [text.get_text() for text in numbers] == [str(i) for i in range(1, 19)]  # one of 19 failed
    assert [text.get_text() for text in names[:3]] == ["Contrastive", "Triplet", "Margin & co_50%"]  # by P@1
    whole = figure.get_window_extent()
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 for box in map(extent, listed))
    assert len({(round(box.x0), round(box.y0)) for box in map(extent, listed)}) == len(listed)
    for axes in figure.axes:
        assert min(extent(axes.xaxis.label).y0 for axes in figure.axes) > max(extent(text).y1 for text in listed)
        labels = [text for text in axes.texts if text.get_text().isdecimal()]
        assert sorted(int(text.get_text()) for text in labels) == list(range(1, 19))
        boxes = [extent(text) for text in labels]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    few = Results.load(write(tmp_path / "few", everything=True, methods=NAMES[:14], datasets=1))
    assert len(draw("embedding_space", few).texts) == 1


def extent(text):
    """Of the words of a label, without the line that leads to it."""
    return matplotlib.text.Text.get_window_extent(text)


def test_names_of_points_do_not_overlap(tmp_path):
    results = Results.load(write(tmp_path, everything=True, methods=NAMES[:12], datasets=1))
    figure = draw("embedding_space", results)
    figure.draw_without_rendering()
    boxes = [extent(text) for text in figure.axes[3].texts if text.get_text()]
    assert len(boxes) == 11
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_toy_trains_what_its_captions_say():
    from dml.figures import diagonal_lines as toy

    drawn = toy._draw_all()
    assert drawn.training.shape == drawn.test.shape == (toy.NETWORKS, 60, 2)
    assert np.allclose(drawn.training[..., 0], drawn.training[..., 1])
    assert drawn.replaced.mean() == pytest.approx(toy.REPLACED, rel=0.1)
    base, push = (toy._train(drawn, variant) for variant in ("base", "push"))
    assert np.linalg.norm(base[0], axis=2) == pytest.approx(1)
    assert not np.array_equal(drawn.training[0], drawn.training[1])
    smaller = [toy._singular_values(training)[:, 1] for training, _ in (base, push)]
    assert (smaller[0] < smaller[1]).all()  # without the pull a network uses more of the circle
    again = toy._train(drawn, "base")
    assert all(np.array_equal(one, other) for one, other in zip(base, again, strict=True))


@pytest.mark.parametrize(
    ("variant", "pulls", "replaces"), [("base", 1, 0), ("described", 1, 1), ("coded", 0, 1), ("push", 0, 0)]
)
def test_the_losses_of_the_toy_are_loops_over_triplets(variant, pulls, replaces):
    from dml.figures import diagonal_lines as toy

    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 0.3, (2, 6))
    points, labels = (
        np.stack([np.cos(angles), np.sin(angles)], axis=2),
        np.array([[0, 0, 1, 1, 1, 2], [0, 1, 0, 1, 2, 2]]),
    )
    replaced = rng.random((2, 6, 6, 6)) < 0.5
    found = toy._loss(torch.from_numpy(points), torch.from_numpy(labels), torch.from_numpy(replaced), variant)
    for network in range(2):
        terms = []
        for a, p, n in np.ndindex(6, 6, 6):
            of = labels[network]
            if a != p and of[a] == of[p] != of[n]:
                pulled, pushed = (np.linalg.norm(points[network][a] - points[network][b]) for b in (p, n))
                if replaces and replaced[network, a, p, n]:
                    pushed = pulled
                terms.append(pulls * pulled + max(0, toy.MARGIN - pushed))
        assert float(found[network]) == pytest.approx(np.mean(terms))


def test_the_toy_keeps_the_callers_threads(results):
    before = torch.get_num_threads()
    draw("diagonal_lines", results)
    assert torch.get_num_threads() == before
