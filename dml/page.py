"""What the pages have in common: one style, values in words, and how tables are set."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from dml.tabulation import LONG_TEXT, Cell, Column, blocks, columns, groups, plain, row_cells

FOLDER = Path(__file__).parent


def template(name: str) -> jinja2.Template:
    """The template <name>.html.j2 of this folder; it may import `head`, `show_block` and `foot` from page.html.j2."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {"plain": plain, "script": Markup(script), "script_hash": f"sha256-{digest}"}
    return environment.get_template(f"{name}.html.j2")


def laid_out(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """What `show_block` needs to set each block of a presented table (see `dml.tabulation`)."""
    return [_block(heading, block) for heading, block in blocks(cells)]


def _block(heading: str, block: pd.DataFrame) -> dict[str, Any]:
    described = columns(block)
    rows = [_row(row, described) for row in block.itertuples(index=False, name=None)]
    apart = not any("more" in row["kind"] for row in rows)  # rows that belong to the one above cannot be sorted
    return {
        "heading": heading, "groups": groups(described), "columns": described, "rows": rows,
        "sortable": apart and len(rows) > 1,
    }  # fmt: skip


def _row(values: Sequence[str | Cell | None], described: Sequence[Column]) -> dict[str, Any]:
    cells = row_cells(values)
    starts = [position for position, value in enumerate(values) if value is not None]
    row_kinds = {"best": cells[0].bold, "failed": any(cell.span > 1 for cell in cells), "more": not cells[0].text}
    cell_kinds = [_cell_kind(cell, described[start]) for start, cell in zip(starts, cells, strict=True)]
    return {
        "kind": " ".join(kind for kind, true in row_kinds.items() if true),
        "cells": list(zip(cells, cell_kinds, strict=True)),
    }


def _cell_kind(cell: Cell, column: Column) -> str:
    if cell.span == 1 and column.numeric:
        return "number"
    return "long" if len(cell.text) > LONG_TEXT else ""
