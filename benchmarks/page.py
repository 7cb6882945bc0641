"""One HTML page with what was measured: nothing is loaded from elsewhere, it needs no script, and it prints."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from benchmarks.comparing import three_digits, times
from dml.report import inline_svg
from dml.tabulation import LONG_TEXT, MINUS, MISSING, number

TEMPLATE = Path(__file__).with_suffix(".html.j2")
HEADINGS = {
    "case": "Case", "device": "On", "ours": "Ours", "peer": "Peer", "ratio": "Ratio", "goal": "Goal", "limit": "Limit",
    "of_limit": "Of the limit", "ours_mb": "Memory, ours", "peer_mb": "Memory, peer", "repetitions": "Repetitions",
    "peer_is": "The peer", "limit_is": "The limit", "note": "Note",
}  # fmt: skip
"""Of the columns of `comparing.table`; others are called what they are."""
FOOTNOTES = {"peer_is": "peer", "limit_is": "limit"}
FOOTNOTE = 60
"""Columns of words that, if one has more than `FOOTNOTE` letters, stand below the table; marks in these columns."""
SECONDS, MEGABYTES = ("ours", "peer", "limit"), ("ours_mb", "peer_mb", "megabytes")


@dataclass
class Topic:
    """What the page shows of one topic."""

    name: str
    title: str
    about: Markup = Markup()
    facts: list[str] = field(default_factory=list)
    earlier: str = ""
    """Why its numbers are not of the newest run; empty if they are."""
    failure: str = ""
    figure: Markup | None = None
    columns: list[dict[str, Any]] = field(default_factory=list)
    rows: list[list[dict[str, Any]]] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    goals: dict[str, str] = field(default_factory=dict)
    """How many of its goals are reached, the range of these ratios, and which are missed; empty if it has none."""


def write(folder: Path, names: Sequence[str]) -> None:
    """Write `<folder>/index.html` from the files that the topics left there."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    made = {name: json.loads(file.read_text()) for name in names if (file := folder / f"{name}.json").exists()}
    newest = max(made.values(), key=lambda one: datetime.fromisoformat(one["run"]), default=None)
    shown = [_topic(folder, name, made.get(name), newest) for name in names]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    (folder / "index.html").write_text(
        template.render(topics=shown, newest=newest, run=_when(newest)), encoding="utf-8"
    )


def _topic(folder: Path, name: str, made: Mapping[str, Any] | None, newest: Mapping[str, Any] | None) -> Topic:
    failed, figure = folder / f"{name}.failed", folder / f"{name}.svg"
    topic = Topic(name, made["title"] if made else _sentence(name))
    topic.failure = failed.read_text().strip() if failed.exists() else ""
    if made is None:
        return topic
    topic.about = _with_code(" ".join(made["about"].split()))
    topic.facts = [f"measured {_when(made)}", f"in {_seconds(made['seconds'])}", f"repetitions: {made['repetitions']}"]
    topic.earlier = _earlier(made, newest)
    if figure.exists():
        topic.figure = inline_svg(figure.read_text(encoding="utf-8"), f"figure-{name}", f"{topic.title}, as a figure")
    _lay_out(topic, pd.read_csv(folder / f"{name}.csv"))
    return topic


def _earlier(made: Mapping[str, Any], newest: Mapping[str, Any]) -> str:
    if made["run"] == newest["run"]:
        return ""
    others = {key: value for key, value in made["machine"].items() if value != newest["machine"].get(key)}
    differences = "; ".join(f"{key}: {value}" for key, value in others.items())
    return f"From an earlier run. {differences and f'What was different then: {differences}.'}"


def _lay_out(topic: Topic, table: pd.DataFrame) -> None:
    """Columns without a value are left out; long words that rows may share stand once, below the table."""
    known = [column for column in table.columns if table[column].notna().any()]
    below = {
        column: place
        for column, place in FOOTNOTES.items()
        if column in known and place in known and table[column].dropna().str.len().max() > FOOTNOTE
    }
    kept = _ordered([column for column in known if column not in below])
    topic.columns = [
        {"name": HEADINGS.get(column, _sentence(column)), "number": pd.api.types.is_numeric_dtype(table[column])}
        for column in kept
    ]
    for row in table.to_dict("records"):
        marks = _marks(topic, row, below)
        topic.rows.append([_cell(column, row, marks) for column in kept])
    topic.goals = _goals(table) if {"case", "ratio", "goal"} <= set(known) else {}


def _ordered(columns: Sequence[str]) -> list[str]:
    """The goal beside the ratio, notes at the end."""
    others = [column for column in columns if column not in ("goal", "note")]
    if "goal" in columns:
        others.insert(others.index("ratio") + 1 if "ratio" in others else len(others), "goal")
    return [*others, *(["note"] if "note" in columns else [])]


def _marks(topic: Topic, row: Mapping[str, Any], below: Mapping[str, str]) -> dict[str, int]:
    """The numbers of a row's footnotes by the column where they are set; new ones are taken up."""
    marks = {}
    for column, place in below.items():
        if not _missing(row[column]) and not _missing(row[place]):
            if row[column] not in topic.footnotes:
                topic.footnotes.append(row[column])
            marks[place] = topic.footnotes.index(row[column]) + 1
    return marks


def _goals(table: pd.DataFrame) -> dict[str, str]:
    aimed = table[table["goal"].notna() & table["ratio"].notna()]
    if aimed.empty:
        return {}
    missed = aimed[aimed["ratio"] < aimed["goal"]]
    low, high = times(aimed["ratio"].min()), times(aimed["ratio"].max())
    listed = [
        f"{case} ({times(ratio)}, goal {_text('goal', goal)})"
        for case, ratio, goal in zip(missed["case"], missed["ratio"], missed["goal"], strict=True)
    ]
    return {
        "reached": f"{len(aimed) - len(missed)} of {len(aimed)}",
        "ratios": low if low == high else f"{low} to {high}",
        "missed": "; ".join(listed) or MISSING,
    }


def _cell(column: str, row: Mapping[str, Any], marks: Mapping[str, int]) -> dict[str, Any]:
    value = row[column]
    text = MISSING if _missing(value) else _text(column, value)
    kind = "number" if isinstance(value, int | float) else "long" if len(text) > LONG_TEXT else ""
    if column == "ratio" and not _missing(value) and not _missing(row.get("goal")):
        kind += " reached" if value >= row["goal"] else " missed"
    return {"text": text, "kind": kind, "mark": marks.get(column)}


def _text(column: str, value: Any) -> str:
    if column in SECONDS or column.endswith("seconds"):
        return _seconds(value)
    if column in MEGABYTES:
        return f"{value:,.0f} MB" if value >= 10 else f"{value:.1f} MB"
    if column == "ratio":
        return times(value)
    if column == "goal":
        return f"{value:g}\N{MULTIPLICATION SIGN}"
    if column.endswith("exponent"):
        return f"{value:.2f}".replace("-", MINUS)
    if column == "of_limit":
        return f"{100 * value:.0f} %"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int) and float(value).is_integer():
        return f"{int(value):,}"
    if isinstance(value, float) and 1e-3 <= value < 1e9:
        return three_digits(value)
    return number(value, 3)


def _seconds(value: float) -> str:
    """With three digits and the unit that suits them."""
    for unit, size in (("min", 60), ("s", 1), ("ms", 1e-3)):
        if value >= (2 if unit == "min" else 1) * size:
            return f"{three_digits(value / size)} {unit}"
    return f"{three_digits(value * 1e6)} µs"


def _sentence(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _when(made: Mapping[str, Any] | None) -> str:
    return datetime.fromisoformat(made["run"]).strftime("%Y-%m-%d %H:%M") if made else ""


def _with_code(text: str) -> Markup:
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
