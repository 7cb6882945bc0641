import warnings

import matplotlib
import pytest
from example_results import NAMES, write
from matplotlib.colors import to_rgb

from dml import plotting, plugins
from dml.results import Results

SIZES = [(1, 1), (2, 1), (4, 2), (5, 4), (9, 3), (15, 3)]


def draw(name, results):
    return plugins.load("figures", name).draw(results)


def shown_text(figure):
    parts = [figure, *figure.axes]
    return [text.get_text() for part in parts for text in part.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("methods, datasets", SIZES, ids=[f"{m} methods, {d} data sets" for m, d in SIZES])
def test_every_figure_is_drawn_without_warnings(tmp_path, methods, datasets):
    results = Results.load(write(tmp_path, methods=NAMES[:methods], datasets=datasets))
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
        plotting.save(draw(name, Results.load(write(tmp_path, **study))), tmp_path / name)


@pytest.mark.parametrize("name", plugins.names("figures"))
def test_titles_and_captions_are_literals(name):
    assert isinstance(plugins.literal("figures", name, "TITLE"), str)
    assert isinstance(plugins.literal("figures", name, "CAPTION"), str)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return Results.load(write(tmp_path_factory.mktemp("results")))


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
