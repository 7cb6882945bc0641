"""Write the report of a study: one page that needs nothing beside it."""

import json
from pathlib import Path

from dml import plugins
from dml.files import whole
from dml.report import render
from dml.results import Results
from dml.stages import run


def main(results: Path, tables: list[str], figures: list[Path], galleries: list[Path], output: Path) -> None:
    """Put sentence, tables, figures, gallery, protocol and provenance together."""
    found = Results.load(results.parent)
    presented, drawings = {}, {}
    for name in tables:
        plugin = plugins.load("tables", name)
        presented[name] = (plugin.TITLE, plugin.CAPTION, plugin.present(plugin.build(found), found))
    for path in figures:
        plugin = plugins.load("figures", path.stem)
        drawings[path.stem] = (plugin.TITLE, plugin.CAPTION, path.read_text())
    pictures = [json.loads(path.read_text()) for path in galleries]
    with whole(output) as temporary:
        temporary.write_text(render(found, presented, drawings, pictures), encoding="utf-8")


if __name__ == "__main__":
    run(main, results=Path, tables=[str], figures=[Path], galleries=[Path], output=Path)
