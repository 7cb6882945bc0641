"""A comparison of two studies as a figure, and as one page in the style of the studies' reports."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dml.compare import DATA, FINGERPRINTS, METRICS, TABLES, Comparison, common
from dml.page import laid_out, template
from dml.plotting import CONTEXT, HEADING, INK, PALETTE, empty_figure, styled
from dml.report import inline_svg
from dml.results import RANKING, Results, metric_title
from dml.tabulation import MINUS, listed, signed

FIGURE_TITLE = "A and B, method by method"
FIGURE_CAPTION = (
    "Separated MAP@R and P@1 of each method in A (dots) and in B (diamonds); bars: 95% Student-t intervals, none for a "
    "single seed or for loaded weights that do not train. Sorted by A. The intervals are each study's own: whether a "
    "method differs is for the tests of the table to say, which compare in pairs where they can."
)
COLOURS = {"a": PALETTE[0], "b": PALETTE[1]}
MARKERS = {"a": "o", "b": "D"}
SHIFT = {"a": -0.15, "b": 0.15}
"""Rows apart from the method's line, so that intervals do not cover each other."""
ROW, BLOCK = 0.3, 0.75
"""Heights of a method and of what stands around a data set's, inches."""
FEW = 6
"""A sentence names no more."""


@styled
def draw(comparison: Comparison) -> Figure:
    """A row of two panels for each data set, MAP@R beside P@1: a line from A to B for each method, A's best on top."""
    table = comparison.numbers
    table = table[(table["embedding"] == "separated") & ~(table["mean_a"].isna() & table["mean_b"].isna())]
    methods = {dataset: list(dict.fromkeys(own["method"])) for dataset, own in table.groupby("dataset", sort=False)}
    if not methods:
        return empty_figure("No method in both studies has a result.")
    heights = [BLOCK + ROW * len(of_dataset) for of_dataset in methods.values()]
    figure = Figure(figsize=(8.6, 0.3 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(methods), len(METRICS), squeeze=False, sharey="row", height_ratios=heights)
    for (dataset, of_dataset), row in zip(methods.items(), panels, strict=True):
        for metric, axes in zip(METRICS, row, strict=True):
            own = table[(table["dataset"] == dataset) & (table["metric"] == metric)].set_index("method")
            _draw_panel(axes, own.loc[[method for method in of_dataset if method in own.index]])
            axes.set_xlabel(f"{metric_title(metric)}, %")
        row[0].set_title(comparison.a.datasets[dataset], **HEADING)
        row[0].set_yticks(range(len(of_dataset)), [comparison.a.methods[method] for method in of_dataset])
        row[0].set_ylim(len(of_dataset) - 0.5, -0.5)
    names = {side: results.study["study"] for side, results in zip("ab", comparison.both, strict=True)}
    figure.legend(handles=[_handle(side, f"{side.upper()}: {name}") for side, name in names.items()],
                  loc="outside upper right", ncols=2)  # fmt: skip
    return figure


def verdict(comparison: Comparison, dataset: str) -> Markup:
    """Which methods are better or worse in B, which are not told apart, and what warns of comparing them at all."""
    table = comparison.numbers
    embedding, metric = RANKING
    own = table[(table["dataset"] == dataset) & (table["embedding"] == embedding) & (table["metric"] == metric)]
    sentence = Markup("<strong>{}.</strong> ").format(comparison.a.datasets[dataset])
    return sentence + " ".join(
        filter(None, [_flag(comparison, dataset), _differences(comparison, own), _order(comparison, dataset, own)])
    )


def render(comparison: Comparison, cells: Mapping[str, pd.DataFrame], svg: str) -> str:
    """The page as HTML: `cells` are the presented tables, `svg` the figure."""
    a, b = comparison.both
    return template("compare").render(
        sides=[_side(results) for results in comparison.both],
        summary=[
            _what_changed(comparison),
            *(verdict(comparison, dataset) for dataset in common(a.datasets, b.datasets)),
        ],
        only=[sentence for of_side in _only(comparison) for sentence in of_side],
        tables={name: (*TABLES[name], laid_out(of_table)) for name, of_table in cells.items()},
        figure=(FIGURE_TITLE, FIGURE_CAPTION, inline_svg(svg, "figure-numbers", FIGURE_TITLE)),
    )


def _draw_panel(axes: Axes, own: pd.DataFrame) -> None:
    for position, (_, found) in enumerate(own.iterrows()):
        ends = [100 * found[f"mean_{side}"] for side in "ab"]
        axes.plot(ends, [position + SHIFT[side] for side in "ab"], color=CONTEXT, linewidth=2.5, zorder=1)
        for side, mean in zip("ab", ends, strict=True):
            at, half_width = position + SHIFT[side], 100 * found[f"half_width_{side}"]
            axes.plot(mean, at, MARKERS[side], color=COLOURS[side], markersize=4.5)
            if not math.isnan(half_width):
                axes.plot([mean - half_width, mean + half_width], [at] * 2, color=COLOURS[side], linewidth=1.2)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)


def _handle(side: str, label: str) -> Line2D:
    return Line2D([], [], marker=MARKERS[side], color=COLOURS[side], markersize=4.5, linewidth=1.2, label=label)


def _flag(comparison: Comparison, dataset: str) -> str:
    """A warning where data sets of one name are not the same images."""
    changes, title = comparison.changes, comparison.a.datasets[dataset]
    own = changes[(changes["part"] == DATA) & (changes["of"] == title)]
    halves = [key.partition(" ")[0] for key in own["key"] if key in FINGERPRINTS.values()]
    if not halves:
        return ""
    return f"Not the same images: the {listed(halves)} half has another fingerprint in B, so the tasks differ too."


def _differences(comparison: Comparison, own: pd.DataFrame) -> str:
    titles = comparison.a.methods
    told = ~own["tied"].fillna(True).astype(bool)
    with_numbers = {
        "better in B": own[told & (own["difference"] > 0)],
        "worse in B": own[told & (own["difference"] < 0)],
    }
    others = {
        "not told apart": own[own["tied"].fillna(False).astype(bool)],
        "not tested": own[own["difference"].notna() & own["p"].isna()],
        "without a value in A": own[own["failure_a"] != ""],
        "without a value in B": own[own["failure_b"] != ""],
    }
    named = {
        words: [_with_difference(titles, row) for _, row in rows.iterrows()] for words, rows in with_numbers.items()
    }
    named |= {words: [titles[method] for method in rows["method"]] for words, rows in others.items()}
    return f"By separated MAP@R, {'; '.join(f'{words}: {_named(names)}' for words, names in named.items() if names)}."


def _with_difference(titles: Mapping[str, str], row: pd.Series) -> str:
    return f"{titles[row['method']]} ({signed(row['difference'], row['half_width'])} points)"


def _order(comparison: Comparison, dataset: str, own: pd.DataFrame) -> str:
    ranked = own[own["rank_a"].notna()]
    if len(ranked) < 2:
        return ""
    tau = comparison.agreement.set_index("dataset").loc[dataset, "tau"]
    first = [comparison.a.methods[ranked.loc[ranked[f"rank_{side}"].idxmin(), "method"]] for side in "ab"]
    best = f"{first[0]} is first in both" if first[0] == first[1] else f"first is {first[0]} in A, {first[1]} in B"
    measured = "" if math.isnan(tau) else f"; Kendall's tau of the two orders is {tau:.2f}".replace("-", MINUS)
    return f"Of {len(ranked)} methods with all seeds in both, {best}{measured}."


def _what_changed(comparison: Comparison) -> Markup:
    changes = comparison.changes
    sentence = Markup("<strong>What changed.</strong> ")
    if changes.empty:
        return sentence + "Nothing: protocol, methods, images, code and machines are the same."
    keys = {part: list(dict.fromkeys(rows["key"])) for part, rows in changes.groupby("part", sort=False)}
    counted = " ".join(f"{part}: {_named(of_part)}." for part, of_part in keys.items())
    together = " All of this changed at once: a difference cannot be put down to one of them."
    return sentence + counted + (together if len(changes) > 1 else "")


def _only(comparison: Comparison) -> list[list[str]]:
    """What only one of them has, in sentences."""
    a, b = comparison.both
    return [
        [
            f"Only in {name}, and left out here: the {noun}{'s' if len(own) > 1 else ''} {listed(own)}."
            for noun, of_own, of_other in (
                ("data set", results.datasets, other.datasets),
                ("method", results.methods, other.methods),
            )
            if (own := [title for key, title in of_own.items() if key not in of_other])
        ]
        for name, results, other in (("A", a, b), ("B", b, a))
    ]


def _side(results: Results) -> dict[str, str]:
    return {
        "title": results.study.get("title") or results.study["study"],
        "name": results.study["study"],
        "seeds": f"{results.seeds} seed{'s' if results.seeds != 1 else ''}",
        "commits": listed(sorted(set(results.runs["commit"]))),
    }


def _named(names: Sequence[str]) -> str:
    return listed(names) if len(names) <= FEW else f"{', '.join(names[:FEW])} and {len(names) - FEW} more"
