"""The league as a figure for each of its tables, and as one page in the style of the studies' reports."""

import math
from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dml import league
from dml.page import laid_out, template
from dml.plotting import HEADING, INK, PALETTE, UNTRAINED, empty_figure, styled
from dml.report import inline_svg
from dml.results import Results
from dml.tabulation import listed, number, percent, presented

FIGURE_TITLE = "Measured and claimed"
FIGURE_CAPTION = (
    "Left: separated MAP@R. Right of it: separated P@1 (dots), and what was claimed: by the method's paper (diamonds), "
    "by another paper that ran it as a baseline, or with sources that disagree (crosses). Claims on other images than "
    "those measured have a panel of their own. Lines: 95% Student-t intervals; a dot without one is a single seed, or "
    "loaded weights that do not train. Grey, and the dotted line: a trunk that does not train. Sorted as the table; "
    "methods without a rank are left out."
)
MEASURED, CLAIMED = PALETTE[0], PALETTE[1]
ROW = 0.2
"""Height of a method, inches."""
OWN, DOUBTFUL = "D", "x"
"""Markers of claims."""


@styled
def draw(table: pd.DataFrame) -> Figure:
    """The rows of one league as dots with intervals, MAP@R beside P@1, best method on top.

    Claims stand with the measured P@1, or in a third panel where they are of another data set.
    """
    ranked = table[table["rank"].notna()].reset_index(drop=True)
    if ranked.empty:
        return empty_figure("No method has a result of every seed.")
    elsewhere = _claimed_elsewhere(ranked)
    figure = Figure(figsize=(8.6, 1.1 + ROW * len(ranked)), layout="constrained")
    panels = figure.subplots(1, 3 if elsewhere else 2, sharey=True)
    for axes, metric in zip(panels, ("map_at_r", "precision_at_1"), strict=False):
        _draw_measured(axes, ranked, f"separated_{metric}")
    _draw_claimed(panels[-1], ranked)
    titles = ["Measured", "Measured", f"Claimed, on {elsewhere}"] if elsewhere else ["Measured", FIGURE_TITLE]
    for axes, metric, title in zip(panels, ("MAP@R", "P@1", "P@1"), titles, strict=False):
        axes.set_xlabel(f"{metric}, %")
        axes.set_title(title, **HEADING)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
    panels[0].set_yticks(range(len(ranked)), ranked["title"])
    panels[0].set_ylim(len(ranked) - 0.5, -0.5)
    figure.legend(handles=_legend(ranked), loc="outside upper right", ncols=4)
    return figure


def verdict(of_league: league.League, table: pd.DataFrame) -> Markup:
    """Which method is first, which others may be, and how far all that is above the trunk as it comes."""
    ranked = table[table["rank"].notna()]
    sentence = Markup("<strong>{}.</strong> ").format(of_league.heading)
    return sentence + (_ranking(ranked) if len(ranked) else "No method has a result of every seed.") + _left_out(table)


def render(
    studies: Sequence[Results],
    found: Sequence[league.League],
    table: pd.DataFrame,
    cells: pd.DataFrame,
    drawings: Sequence[str],
) -> str:
    """The page as HTML: `table` and `cells` as `league` builds and presents them, one SVG of each league."""
    parts = []
    for position, (of_league, svg) in enumerate(zip(found, drawings, strict=True), 1):
        own = (table["league"] == position).to_numpy()
        parts.append(
            {
                "id": f"league-{position}",
                "heading": of_league.heading,
                "verdict": verdict(of_league, table[own]),
                "table": laid_out(cells[own])[0],
                "svg": inline_svg(svg, f"figure-{position}", f"{FIGURE_TITLE}, {of_league.heading}"),
                "shared": list(of_league.shared.items()),
            }
        )
    return template("league").render(
        leagues=parts,
        caption=league.CAPTION,
        figure={"title": FIGURE_TITLE, "caption": FIGURE_CAPTION},
        claims=laid_out(_claims(table)),
        studies=laid_out(_studies(studies)),
    )


def _claimed_elsewhere(ranked: pd.DataFrame) -> str:
    """The title of the data set of the claims, where it is not that of the league: those have no axis in common."""
    places = set(ranked["claimed_on"]) - {"", *map(league.benchmark_of, ranked["dataset"])}
    return league.dataset_title(places.pop()) if places else ""


def _draw_measured(axes: Axes, ranked: pd.DataFrame, column: str) -> None:
    for position, entry in ranked.iterrows():
        colour = MEASURED if entry["trains"] else UNTRAINED
        mean, half_width = 100 * entry[column], 100 * entry[f"{column}_half_width"]
        axes.plot(mean, position, "o", color=colour, markersize=4)
        if not math.isnan(half_width):
            axes.plot([mean - half_width, mean + half_width], [position] * 2, color=colour, linewidth=1.2)
        if not entry["trains"]:
            axes.axvline(mean, color=UNTRAINED, linewidth=0.8, linestyle=":", zorder=0)


def _draw_claimed(axes: Axes, ranked: pd.DataFrame) -> None:
    for position, entry in ranked[ranked["claimed"].notna()].iterrows():
        marker = DOUBTFUL if league.is_doubtful(entry) else OWN
        axes.plot(100 * entry["claimed"], position, marker, color=CLAIMED, markersize=4.2, markerfacecolor="none")


def _legend(ranked: pd.DataFrame) -> list[Line2D]:
    doubtful = [league.is_doubtful(entry) for _, entry in ranked[ranked["claimed"].notna()].iterrows()]
    kinds = [
        (ranked["trains"].any(), "o", MEASURED, MEASURED, "measured here"),
        (not ranked["trains"].all(), "o", UNTRAINED, UNTRAINED, "no training"),
        (not all(doubtful), OWN, CLAIMED, "none", "claimed by its paper"),
        (any(doubtful), DOUBTFUL, CLAIMED, "none", "by another paper, or doubtful"),
    ]
    return [
        Line2D([], [], marker=marker, color=edge, markerfacecolor=face, markersize=4.2, linestyle="none", label=label)
        for shown, marker, edge, face, label in kinds
        if shown
    ]


def _ranking(ranked: pd.DataFrame) -> Markup:
    best = ranked.iloc[0]
    mean = percent(best["separated_map_at_r"], best["separated_map_at_r_half_width"])
    if len(ranked) == 1:
        return Markup("Only <strong>{}</strong> has all seeds, with a separated MAP@R of {}%.").format(
            best["title"], mean
        )
    first = Markup("Of the {} methods with all seeds <strong>{}</strong> has the highest separated MAP@R, {}%.")
    return first.format(len(ranked), best["title"], mean) + _certainty(ranked) + _floors(ranked)


def _certainty(ranked: pd.DataFrame) -> str:
    """What other seeds might change in who is first: of a method with a single seed that is not known."""
    best, single = ranked.iloc[0], ranked["rank_low"].isna()
    if single.all():
        return " With a single seed the order may be chance."
    if single.iloc[0]:
        return " It has a single seed: that it is first may be chance."
    others = ranked[(ranked["rank_low"] == 1).fillna(False) & (ranked["rank"] > 1)]["title"]
    if len(others):
        sentence = f" With other seeds the first might as well be {listed(list(others), 'or')}."
    elif best["rank_high"] > 1:
        sentence = f" With other seeds its rank might be {best['rank_high']}."
    else:
        sentence = f" With other seeds no other method{' of several seeds' if single.any() else ''} would be first."
    return sentence + {0: "", 1: " One method has a single seed, and no range of ranks."}.get(
        single.sum(), f" {single.sum()} methods have a single seed, and no range of ranks."
    )


def _floors(ranked: pd.DataFrame) -> str:
    sentences = ""
    for _, floor in ranked[~ranked["trains"]].iterrows():
        below = int((ranked["trains"] & (ranked["rank"] > floor["rank"])).sum())
        trained = {0: "no trained method is", 1: "one trained method is"}.get(below, f"{below} trained methods are")
        value = percent(floor["separated_map_at_r"])
        sentences += f" {floor['title']}, which does not train, has {value}%: {trained} below."
    return sentences


def _left_out(table: pd.DataFrame) -> str:
    """The methods that could not be first, as failed seeds must not pay."""
    partial = table[~table["complete"] & (table["n"] > 0)]
    names = [f"{entry['title']} ({entry['n']} of {entry['seeds']} seeds)" for _, entry in partial.iterrows()]
    failed = list(table[table["n"] == 0]["title"])
    with_failures = f" With failed seeds: {listed(names)}." if names else ""
    return with_failures + (f" Without a result: {listed(failed)}." if failed else "")


def _claims(table: pd.DataFrame) -> pd.DataFrame:
    """What was claimed, once each: several methods may be forms of one paper's."""
    claims = table[table["claimed"].notna()]
    names = ["Method", "Year", "Claimed by", "Data set", "P@1", "Trunk", "Dim.", "Note", "Source"]
    rows = []
    for _, same in claims.groupby(["year", "claimed_by", "claimed_on", "claimed_as_printed"]):
        claim = same.iloc[0]
        doubts = [f"doubtful: {doubt}" for doubt in same["claim_doubt"].unique() if doubt]
        row = {"Method": listed(list(same["title"].unique())), "Year": number(claim["year"])}
        row |= {"Claimed by": claim["claimed_by"], "Data set": league.dataset_title(claim["claimed_on"])}
        row |= {"P@1": claim["claimed_as_printed"], "Trunk": claim["claimed_backbone"]}
        row |= {"Dim.": claim["claimed_dimension"], "Source": claim["claim_source"]}
        rows.append(row | {"Note": "; ".join([*doubts, *(note for note in same["claim_note"].unique() if note)])})
    return presented(rows, [""] * len(rows), names)


def _studies(studies: Sequence[Results]) -> pd.DataFrame:
    names = ["Study", "Title", "Methods", "Seeds", "Commits"]
    rows = [
        {
            "Study": results.study["study"],
            "Title": results.study["title"],
            "Methods": str(len(results.methods)),
            "Seeds": str(results.seeds),
            "Commits": ", ".join(sorted({commit[:12] for commit in results.runs["commit"]})),
        }
        for results in studies
    ]
    return presented(rows, [""] * len(rows), names)
