"""The league as a figure for each of its tables, and as one page in the style of the studies' reports."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from dml import league
from dml.plotting import HEADING, INK, PALETTE, UNTRAINED, empty_figure, styled
from dml.report import TEMPLATE as REPORT
from dml.report import inline_svg
from dml.results import Results
from dml.tabulation import LONG_TEXT, Cell, columns, groups, number, percent, presented, row_cells

TEMPLATE = Path(__file__).with_name("league.html.j2")
FIGURE_TITLE = "Measured and claimed"
FIGURE_CAPTION = (
    "Left: separated MAP@R. Right: separated P@1 (dots), and what the method's paper claims (diamonds; pale where it "
    "is doubtful). Lines: 95% Student-t intervals; a dot without one is a single seed, or loaded weights that do not "
    "train. Grey, and the dotted line: a trunk that does not train. Sorted as the table; methods without a rank are "
    "left out."
)
MEASURED, CLAIMED = PALETTE[0], PALETTE[1]
ROW = 0.2
"""Height of a method, inches."""


@styled
def draw(table: pd.DataFrame) -> Figure:
    """The rows of one league as dots with intervals, MAP@R beside P@1, best method on top."""
    ranked = table[table["rank"].notna()].reset_index(drop=True)
    if ranked.empty:
        return empty_figure("No method has a result of every seed.")
    figure = Figure(figsize=(8.6, 1.1 + ROW * len(ranked)), layout="constrained")
    of_map, of_precision = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.15))
    for axes, metric, title in ((of_map, "map_at_r", "MAP@R, %"), (of_precision, "precision_at_1", "P@1, %")):
        _draw_measured(axes, ranked, f"separated_{metric}")
        axes.set_xlabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="x")
    for position, entry in ranked[ranked["claimed"].notna()].iterrows():
        diamond = {"color": CLAIMED, "markersize": 4.2, "markerfacecolor": "none"}
        pale = {"alpha": 0.4} if league.is_doubtful(entry) else {}
        of_precision.plot(100 * entry["claimed"], position, "D", **diamond, **pale)
    of_map.set_yticks(range(len(ranked)), ranked["title"])
    of_map.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
    of_precision.tick_params(axis="y", length=0)
    of_map.set_ylim(len(ranked) - 0.5, -0.5)
    of_map.set_title("Measured", **HEADING)
    of_precision.set_title("Measured and claimed", **HEADING)
    figure.legend(handles=_legend(ranked), loc="outside upper right", ncols=3)
    return figure


def render(
    studies: Sequence[Results],
    found: Sequence[league.League],
    table: pd.DataFrame,
    cells: pd.DataFrame,
    drawings: Sequence[str],
) -> str:
    """The page as HTML: `table` and `cells` as `league` builds and presents them, one SVG of each league."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    parts = []
    for position, (of_league, svg) in enumerate(zip(found, drawings, strict=True), 1):
        own = (table["league"] == position).to_numpy()
        parts.append(
            {
                "id": f"league-{position}",
                "heading": of_league.heading,
                "verdict": _verdict(of_league, table[own]),
                "table": _laid_out(cells[own]),
                "svg": inline_svg(svg, f"figure-{position}", f"{FIGURE_TITLE}, {of_league.heading}"),
                "shared": list(of_league.shared.items()),
            }
        )
    return template.render(
        style=Markup(re.search("<style>.*?</style>", REPORT.read_text(encoding="utf-8"), re.DOTALL)[0]),
        leagues=parts,
        caption=league.CAPTION,
        figure={"title": FIGURE_TITLE, "caption": FIGURE_CAPTION},
        claims=_laid_out(_claims(table)),
        studies=_laid_out(_studies(studies)),
    )


def _draw_measured(axes: Axes, ranked: pd.DataFrame, column: str) -> None:
    for position, entry in ranked.iterrows():
        colour = MEASURED if entry["trains"] else UNTRAINED
        mean, half_width = 100 * entry[column], 100 * entry[f"{column}_half_width"]
        axes.plot(mean, position, "o", color=colour, markersize=4)
        if not math.isnan(half_width):
            axes.plot([mean - half_width, mean + half_width], [position] * 2, color=colour, linewidth=1.2)
        if not entry["trains"]:
            axes.axvline(mean, color=UNTRAINED, linewidth=0.8, linestyle=":", zorder=0)


def _legend(ranked: pd.DataFrame) -> list[Line2D]:
    kinds = [("o", MEASURED, MEASURED, "measured here")] if ranked["trains"].any() else []
    kinds += [] if ranked["trains"].all() else [("o", UNTRAINED, UNTRAINED, "no training")]
    claimed_on = sorted(set(ranked["claimed_on"]) - {""})
    if claimed_on:
        where = "" if set(claimed_on) == {league.OFFICIAL.get(d, d) for d in ranked["dataset"]} else ", on CUB-200-2011"
        kinds += [("D", CLAIMED, "none", f"claimed by its paper{where}")]
    return [
        Line2D([], [], marker=marker, color=edge, markerfacecolor=face, markersize=4.2, linestyle="none", label=label)
        for marker, edge, face, label in kinds
    ]


def _verdict(of_league: league.League, table: pd.DataFrame) -> Markup:
    """Which method is first, which others may be, and how far all that is above the trunk as it comes."""
    ranked = table[table["rank"].notna()]
    sentence = Markup("<strong>{}.</strong> ").format(of_league.heading)
    if ranked.empty:
        return sentence + "No method has a result of every seed."
    best = ranked.iloc[0]
    mean = percent(best["separated_map_at_r"], best["separated_map_at_r_half_width"])
    sentence += Markup("Of {} methods <strong>{}</strong> has the highest separated MAP@R, {}%.").format(
        len(table), best["title"], mean
    )
    others = ranked[(ranked["rank_low"] == 1).fillna(False) & (ranked["rank"] > 1)]["title"]
    if ranked["rank_low"].notna().sum() < 2:
        sentence += " With a single seed the order may be chance."
    elif others.empty:
        sentence += " With other seeds no other method would be first."
    else:
        sentence += f" With other seeds the first might as well be {_either(list(others))}."
    for _, floor in ranked[~ranked["trains"]].iterrows():
        below = int((ranked["trains"] & (ranked["rank"] > floor["rank"])).sum())
        trained = {0: "no trained method is", 1: "one trained method is"}.get(below, f"{below} trained methods are")
        value = percent(floor["separated_map_at_r"])
        sentence += f" {floor['title']}, which does not train, has {value}%: {trained} below."
    return sentence


def _either(titles: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(titles[:-1]), *titles[-1:]]))


def _claims(table: pd.DataFrame) -> pd.DataFrame:
    """What the papers of the methods claim, once each."""
    claims = table[table["claimed"].notna()].drop_duplicates(["claimed_in", "claimed_on", "claimed", "claim_note"])
    names = ["Paper", "Year", "Data set", "P@1", "Trunk", "Dim.", "Source", "Note"]
    rows = []
    for _, claim in claims.sort_values(["year", "claimed_in", "claimed_on"]).iterrows():
        row = {"Paper": claim["claimed_in"], "Year": number(claim["year"]), "Data set": claim["claimed_on"]}
        row |= {"P@1": percent(claim["claimed"]), "Trunk": claim["claimed_backbone"], "Note": claim["claim_note"]}
        rows.append(row | {"Dim.": claim["claimed_dimension"], "Source": claim["claim_source"]})
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


def _laid_out(cells: pd.DataFrame) -> dict[str, Any]:
    """What the template needs to set a table."""
    described = columns(cells)
    rows = []
    for values in cells.itertuples(index=False, name=None):
        starts = [position for position, value in enumerate(values) if value is not None]
        row = list(zip(row_cells(values), (described[start] for start in starts), strict=True))
        rows.append([(cell, _kind(cell, column.numeric)) for cell, column in row])
    return {"groups": groups(described), "columns": described, "rows": rows}


def _kind(cell: Cell, numeric: bool) -> str:
    if cell.span == 1 and numeric:
        return "number"
    return "long" if len(cell.text) > LONG_TEXT else ""
