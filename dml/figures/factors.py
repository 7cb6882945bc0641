"""What is varied beside the methods: curves where a factor has an axis, else the levels side by side."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator, NullLocator

from dml.plotting import CONTEXT, HEADING, INK, empty_figure, method_colours, styled
from dml.results import Results, ranked_methods
from dml.tables import factors, retrieval
from dml.tabulation import number

NEEDS = "factors"
TITLE = "MAP@R on the levels of factors"
CAPTION = (
    "Separated MAP@R, mean over seeds with its 95% Student-t interval; one factor is varied at a time. Where levels "
    "are numbers, each method is a curve, named at its end; lines of the legend are factors with the same axis, and "
    "the same models by another way of retrieval (of the first two that the study has; thinner, without intervals). "
    "Grey vertical line: the study's own value. Where levels are no numbers, they are rows, grouped by method; black, "
    "with a line down its group: the study's own value. Axes do not begin at 0."
)
METRIC = "map_at_r"
WAYS = 2
"""How many other ways of retrieval are drawn beside the plain one."""
LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
LOGARITHMIC_FROM = 4
"""An axis that spans more than this factor is logarithmic."""
LABEL_HEIGHT, LABEL_SIZE = 0.125, 7
"""Of the name of a curve: inches, points."""
LEGEND_ROW = 14
"""Points."""
ROW = 0.175
"""Inches."""
FAINT = {"color": "#59626C", "fontsize": 7.5, "fontstyle": "italic"}
TICKS = 9
"""At most so many of the levels on an axis have a tick."""


@styled
def draw(results: Results) -> Figure:
    """One panel for each data set and title of factors; two panels side by side."""
    table = factors.measured(results)
    ways = ["", *list(results.study["retrieval"])[:WAYS]]
    table = table[(table["metric"].isin([METRIC, ""])) & table["retrieval"].isin(ways)]  # a failed run has no metric
    titles = {factor["name"]: factor["title"] for factor in results.study["factors"]}
    panels = list(table.groupby([table["dataset"], table["factor"].map(titles)], sort=False))
    panels = [(place, own) for place, own in panels if own["mean"].notna().any()]
    if not panels:
        return empty_figure("No level of a factor has a result.")
    across = min(2, len(panels))
    heights = [max(map(_height, (own for _, own in panels[i : i + across]))) for i in range(0, len(panels), across)]
    figure = Figure(figsize=(7.2 if across == 1 else 10.4, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), across, squeeze=False, gridspec_kw={"height_ratios": heights}).flat
    labels = []
    for place, ((dataset, title), own) in zip(axes, panels, strict=False):
        place.set_title(f"{results.datasets[dataset]}: {title}", **HEADING)
        if _is_curve(own):
            place.set_xlabel(title)
            labels.append((place, _draw_curves(place, results, own)))
        else:
            draw_rows(place, results, _rows(own, ranked_methods(results, dataset)))
    for place in axes[len(panels) :]:
        place.set_visible(False)
    figure.get_layout_engine().execute(figure)  # only now it is known how high the axes are
    for place, of_curves in labels:
        _move_apart(place, of_curves)
    return figure


def draw_rows(axes: Axes, results: Results, rows: pd.DataFrame) -> None:
    """Dots with intervals, one below the other, under the name of each method (a column of `rows`).

    `rows` also has `label`, `mean` and `half_width`, shares (NaN where there is no result), and `first`: the row that
    the others of its method stand beside.
    """
    colours, ticks, heads = method_colours(results), [], []
    for method, own in rows.groupby("method", sort=False):
        heads.append(len(ticks))
        ticks.append(results.methods[method])
        places = range(len(ticks), len(ticks) + len(own))
        for place, (_, row) in zip(places, own.iterrows(), strict=True):
            if pd.isna(row["mean"]):
                axes.text(0.01, place, "no result", transform=axes.get_yaxis_transform(), va="center", **FAINT)
                continue
            half_width = 0 if pd.isna(row["half_width"]) else row["half_width"]
            axes.errorbar(
                100 * row["mean"], place, xerr=100 * half_width, fmt="o", markersize=4, elinewidth=1.2,
                color=INK if row["first"] else colours[method],
            )  # fmt: skip
            if row["first"]:
                axes.vlines(100 * row["mean"], places[0] - 0.5, places[-1] + 0.5, color=CONTEXT, linewidth=1, zorder=0)
        ticks += list(own["label"])
    axes.set_yticks(range(len(ticks)), ticks)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    for head in heads:
        axes.get_yticklabels()[head].set_fontweight("bold")
        axes.axhline(head - 0.5, color=CONTEXT, linewidth=0.5)
    axes.set_ylim(len(ticks) - 0.5, -0.5)
    axes.set_xlabel("MAP@R, %")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")


def height_of_rows(rows: pd.DataFrame) -> float:
    """Inches of a panel of `draw_rows`."""
    return 0.8 + ROW * (len(rows) + rows["method"].nunique())


def _is_curve(own: pd.DataFrame) -> bool:
    return own.loc[own["level"] != "", "at"].notna().all()


def _height(own: pd.DataFrame) -> float:
    if _is_curve(own):
        return max(2.9, 1.2 + LABEL_HEIGHT * own.groupby(["factor", "method"]).ngroups)
    return height_of_rows(_rows(own, list(dict.fromkeys(own["method"]))))


def _rows(own: pd.DataFrame, ranking: Sequence[str]) -> pd.DataFrame:
    """The levels as `draw_rows` takes them, the study's own value first, methods in the order of `ranking`."""
    plain = own[own["retrieval"] == ""]
    labels = [", ".join(filter(None, pair)) for pair in zip(plain["title"], plain["curve"], strict=True)]
    plain = plain.assign(label=labels, first=plain["level"] == "", rank=plain["method"].map(ranking.index))
    return plain.sort_values(["rank", "first"], ascending=[True, False], kind="stable")


def _draw_curves(axes: Axes, results: Results, own: pd.DataFrame) -> list[Annotation]:
    """One curve for each method, factor and way of retrieval over their common axis; gives the names at the ends."""
    own = own.dropna(subset=["at", "mean"])
    styles = sorted(dict.fromkeys(zip(own["retrieval"], own["factor"], strict=True)), key=lambda style: style[0] != "")
    styles = dict(zip(styles, cycle(LINES), strict=False))
    colours, names = method_colours(results), []
    for (way, factor), line in styles.items():
        of_style = own[(own["retrieval"] == way) & (own["factor"] == factor)]
        for method, curve in of_style.sort_values("at", kind="stable").groupby("method"):
            x, y, half_width = curve["at"].to_numpy(), 100 * curve["mean"].to_numpy(), 100 * curve["half_width"]
            drawn = {"color": colours[method], "linestyle": line, "marker": "o", "markeredgewidth": 0}
            axes.plot(x, y, linewidth=0.9 if way else 1.4, markersize=2 if way else 3.4, **drawn)
            if not way:
                axes.vlines(x, y - half_width, y + half_width, colours[method], linewidth=0.8)
                names.append(_name_end(axes, results.methods[method], x[-1], y[-1], colours[method]))
    _set_axis(axes, own)
    if len(styles) > 1:
        _explain_lines(axes, results, styles)
    return names


def _name_end(axes: Axes, name: str, x: float, y: float, colour: str) -> Annotation:
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 2}
    return axes.annotate(
        name, (x, y), (1.04, y), textcoords=axes.get_yaxis_transform(), va="center", fontsize=LABEL_SIZE, color=colour,
        arrowprops=line,
    )  # fmt: skip


def _explain_lines(axes: Axes, results: Results, styles: Mapping[tuple[str, str], Any]) -> None:
    """A legend between title and axes: which factor and which way of retrieval a kind of line belongs to."""
    ways = {name: way["title"] for name, way in results.study["retrieval"].items()}
    curves = {factor["name"]: factor["curve"] for factor in results.study["factors"]}
    lines = [
        Line2D(
            [],
            [],
            color=INK,
            linestyle=line,
            linewidth=0.9 if way else 1.4,
            label=_label(curves[factor], ways.get(way)),
        )
        for (way, factor), line in styles.items()
    ]
    axes.legend(handles=lines, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=3)
    axes.set_title(axes.get_title(loc="left"), pad=6 + LEGEND_ROW * -(-len(lines) // 2), **HEADING)


def _label(curve: str, way: str | None) -> str:
    return ", ".join(filter(None, [curve, way])) or retrieval.PLAIN.lower()


def _set_axis(axes: Axes, own: pd.DataFrame) -> None:
    at = sorted(set(own["at"]))
    if at[0] > 0 and at[-1] > LOGARITHMIC_FROM * at[0]:
        axes.set_xscale("log", base=2)
    ticks = at[:: -(-len(at) // TICKS)]
    axes.set_xticks(ticks, [number(place) for place in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    for place in sorted(set(own.loc[own["level"] == "", "at"])):
        axes.axvline(place, color=CONTEXT, linewidth=1.5, zorder=0)
    axes.set_ylabel("MAP@R, %")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y")


def _move_apart(axes: Axes, names: Sequence[Annotation]) -> None:
    """Move the names of curves up and down until none stands on another."""
    bottom, top = axes.get_ylim()
    inches = axes.get_position().height * axes.figure.get_figheight()
    names = sorted(names, key=lambda name: name.xy[1])
    places = spread([name.xy[1] for name in names], (top - bottom) * LABEL_HEIGHT / inches, bottom, top)
    for name, place in zip(names, places, strict=True):
        name.xyann = (name.xyann[0], place)


def spread(places: Sequence[float], gap: float, bottom: float, top: float) -> list[float]:
    """Ascending places moved apart to at least `gap`, those that touch around their mean; inside the ends if they fit.

    Between groups that touch, nothing moves: a name stays beside its curve where there is room.
    """
    groups: list[list[float]] = []  # the wanted places of names that touch
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _ends(groups[-1], gap)[0] - _ends(groups[-2], gap)[1] < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    apart = [_ends(group, gap)[0] + i * gap for group in groups for i in range(len(group))]
    apart = [min(place, top - gap * (len(apart) - 1 - i)) for i, place in enumerate(apart)]
    return [max(place, bottom + gap * i) for i, place in enumerate(apart)]


def _ends(group: Sequence[float], gap: float) -> tuple[float, float]:
    """The first and the last place of names that touch."""
    middle, half = sum(group) / len(group), gap * (len(group) - 1) / 2
    return middle - half, middle + half
