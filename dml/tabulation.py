"""Tables for reading and for reuse: the CSV keeps the raw numbers, Markdown, LaTeX and HTML show formatted cells.

A table is a file in `dml/tables/`: the literals `TITLE` and `CAPTION`, `build(results)`, a frame of raw numbers, and
`present(table, results)`, the same for reading: a frame of texts and `Cell`s whose index is the heading of the block
(usually the data set) in which a row stands. Columns may be pairs (group, name); None continues a spanning cell.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
TIED = "\N{DAGGER}"
EDGE = "\N{WARNING SIGN}"
LONG_TABLE_ROWS = 45
"""A LaTeX table with more rows does not fit a page and becomes a longtable."""
LONG_TEXT = 40
"""Only a longer cell is broken into lines."""
REASON_LENGTH = 60


@dataclass(frozen=True)
class Cell:
    """A formatted cell: `mark` is set raised after the text, `span` counts the columns it fills."""

    text: str
    bold: bool = False
    mark: str = ""
    span: int = 1


@dataclass(frozen=True)
class Column:
    """Group and name of a column, and whether its cells are numbers (set flush right) or words."""

    group: str
    name: str
    numeric: bool


def blocks(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The parts of a presented table, each with its heading, in the order of their first rows."""
    headings = list(dict.fromkeys(cells.index))
    return [(heading, cells[[other == heading for other in cells.index]]) for heading in headings]


def columns(cells: pd.DataFrame) -> list[Column]:
    """What stands above and how the cells are set."""
    pairs = [pair if isinstance(pair, tuple) else ("", pair) for pair in cells.columns]
    return [Column(group, name, _numeric(cells.iloc[:, i])) for i, (group, name) in enumerate(pairs)]


def groups(described: Sequence[Column]) -> list[tuple[str, int]]:
    """The upper header row: runs of equal groups with the number of columns of each; empty if no column has one."""
    runs: list[list] = []
    for column in described:
        if runs and runs[-1][0] == column.group:
            runs[-1][1] += 1
        else:
            runs.append([column.group, 1])
    return [tuple(run) for run in runs] if any(column.group for column in described) else []


def row_cells(row: Sequence[str | Cell | None]) -> list[Cell]:
    """One row, without the places that a spanning cell covers."""
    return [value if isinstance(value, Cell) else Cell(value) for value in row if value is not None]


def number(value: float | str, digits: int = 4) -> str:
    """A raw value for reading, with so many significant digits; words and choices as they are."""
    if value is None or (not isinstance(value, str | bool | list | dict) and pd.isna(value)):
        return MISSING
    if isinstance(value, float):
        value = f"{value:.{digits}g}"
        if "e" in value:
            mantissa, exponent = value.split("e")
            value = f"{mantissa}e{int(exponent)}"
    return re.sub(r"^-(?=\d)|(?<=e)-", MINUS, str(value))


def plain(value: Any) -> str:
    """A value of a study in words: "none", "yes", "0.2, 1", "file: a.pth; sha256: 01ab"."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return number(value, 6)


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names in a sentence: "a, b and c"."""
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def percent(value: float, half_width: float = math.nan) -> str:
    """A share as "21.18 ± 0.28" percent; without an interval where there is none."""
    if pd.isna(value):
        return MISSING
    text = f"{100 * value:.2f}".replace("-", MINUS)
    return text if pd.isna(half_width) else f"{text} ± {100 * half_width:.2f}"


def signed(difference: float, half_width: float = math.nan) -> str:
    """A difference of shares as "+1.20 ± 0.30" percentage points."""
    if abs(difference) < 0.00005:
        return percent(0.0, half_width)
    return ("+" if difference > 0 else "") + percent(difference, half_width)


def marked(difference: float, half_width: float, tied: bool) -> Cell:
    """A `signed` difference, marked where a test does not tell it from none."""
    return Cell(signed(difference, half_width), mark=TIED if not pd.isna(tied) and tied else "")


def p_value(p: float) -> str:
    """A p value with two significant digits, "< 0.001" where it is smaller."""
    if pd.isna(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def counts(values: pd.Series, planned: int | None = None) -> str:
    """The different counts of a row, "128 / 512"; with how many were `planned`, "2 of 3"."""
    text = " / ".join(str(value) for value in dict.fromkeys(values.dropna())) or MISSING
    return text if planned is None else f"{text} of {planned}"


def failed(reason: str, span: int) -> Cell:
    """What stands in place of values: the beginning of the reason. The table of failures has all of it."""
    return Cell(f"failed: {shorten(reason, REASON_LENGTH, placeholder='…')}", span=span)


def presented(rows: Sequence[Mapping], headings: Sequence[str], names: Sequence) -> pd.DataFrame:
    """A frame of formatted cells from one mapping a row; pairs in `names` become two header rows."""
    header = pd.MultiIndex.from_tuples(names) if names and isinstance(names[0], tuple) else list(names)
    table = [[row[name] for name in names] for row in rows]
    return pd.DataFrame(table, index=pd.Index(headings, dtype=object), columns=header, dtype=object)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Raw numbers with every digit: a float reads back as the very same float, a missing value is an empty cell."""
    table.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def write_markdown(title: str, caption: str, cells: pd.DataFrame, path: Path) -> None:
    """A section with one pipe table for each block."""
    parts = [f"# {title}", caption]
    for heading, block in blocks(cells):
        parts += [f"## {_markdown_escaped(heading)}"] * bool(heading) + [_markdown_table(block)]
    _write_text(path, "\n\n".join(parts + ["none"] * cells.empty) + "\n")


def write_latex(title: str, caption: str, cells: pd.DataFrame, path: Path) -> None:
    """One booktabs table for each block, ready for \\input; labels are tab:<file name>-<number>."""
    lines = ["% needs \\usepackage{booktabs,graphicx,longtable}"]
    for position, (heading, block) in enumerate(blocks(cells), 1):
        name = f"{title}: {heading}" if heading else title
        label = f"tab:{path.stem}-{position}"
        lines += _latex_table(f"{latex_escaped(name)}. {latex_escaped(caption)}", label, block)
    if cells.empty:
        lines.append(f"\\paragraph{{{latex_escaped(title)}}} none")
    _write_text(path, "\n".join(lines) + "\n")


def latex_escaped(text: str) -> str:
    """Text that LaTeX prints as it is. Scripts that pdfLaTeX's default encoding lacks need LuaLaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}", "\n": " ",
    "✓": r"$\surd$", "✗": r"$\times$",
    "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "→": r"$\to$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$",
    "∞": r"$\infty$", "…": r"\dots{}", MINUS: "$-$", MISSING: "--", TIED: r"\dag{}", EDGE: "(!)",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\varepsilon$", "λ": r"$\lambda$",
    "μ": r"$\mu$", "σ": r"$\sigma$", "τ": r"$\tau$",
}  # fmt: skip


def _numeric(values: pd.Series) -> bool:
    texts = [cell.text for cell in row_cells(values) if cell.span == 1 and cell.text not in ("", MISSING)]
    numbers = [text for text in texts if re.fullmatch(rf"[\d.e{MINUS}+<±/ ]+", text)]
    return bool(texts) and 2 * len(numbers) >= len(texts)


def _markdown_table(block: pd.DataFrame) -> str:
    described = columns(block)
    names = [_markdown_escaped(f"{column.group} {column.name}".strip()) for column in described]
    rules = ["---:" if column.numeric else ":---" for column in described]
    rows = [[_markdown_cell(value) for value in row] for row in block.itertuples(index=False, name=None)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [names, rules, *rows])


def _markdown_cell(value: str | Cell | None) -> str:
    if value is None:
        return ""
    cell = value if isinstance(value, Cell) else Cell(value)
    text = _markdown_escaped(cell.text)
    return (f"**{text}**" if cell.bold and text else text) + cell.mark


def _markdown_escaped(text: str) -> str:
    return re.sub(r"([\\|*_`<\[\]])", r"\\\1", text).replace("\n", " ")


def _latex_table(caption: str, label: str, block: pd.DataFrame) -> list[str]:
    described = columns(block)
    layout = "@{}" + "".join(map(_latex_layout, described, (block.iloc[:, i] for i in range(len(described))))) + "@{}"
    head = ["\\toprule", *_latex_groups(described)]
    head += [" & ".join(latex_escaped(column.name) for column in described) + r" \\", "\\midrule"]
    rows = [" & ".join(map(_latex_cell, row_cells(row))) + r" \\" for row in block.itertuples(index=False, name=None)]
    title = f"\\caption{{{caption}}}\\label{{{label}}}"
    if len(rows) > LONG_TABLE_ROWS:
        start = [f"\\begin{{longtable}}{{{layout}}}", title + r" \\", *head, "\\endfirsthead", *head, "\\endhead"]
        return [*start, *rows, "\\bottomrule", "\\end{longtable}"]
    fit = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"
    above = ["\\begin{table}[htbp]", "\\centering\\small", title + "\\par\\smallskip", fit]
    start = [*above, f"\\begin{{tabular}}{{{layout}}}", *head]
    return [*start, *rows, "\\bottomrule", "\\end{tabular}}", "\\end{table}"]


def _latex_layout(column: Column, values: pd.Series) -> str:
    longest = max((len(cell.text) for cell in row_cells(values) if cell.span == 1), default=0)
    return "r" if column.numeric else "l" if longest <= LONG_TEXT else "p{0.3\\linewidth}"


def _latex_groups(described: Sequence[Column]) -> list[str]:
    runs = groups(described)
    if not runs:
        return []
    above, rules, first = [], [], 1
    for group, width in runs:
        above.append(f"\\multicolumn{{{width}}}{{c}}{{{latex_escaped(group)}}}")
        rules += [f"\\cmidrule(lr){{{first}-{first + width - 1}}}"] * bool(group)
        first += width
    return [" & ".join(above) + r" \\", "".join(rules)]


def _latex_cell(cell: Cell) -> str:
    text = latex_escaped(cell.text)
    text = f"\\textbf{{{text}}}" if cell.bold else text
    text += f"\\rlap{{\\textsuperscript{{{latex_escaped(cell.mark)}}}}}" if cell.mark else ""
    return f"\\multicolumn{{{cell.span}}}{{l}}{{{text}}}" if cell.span > 1 else text


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
