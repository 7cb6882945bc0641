"""Write every table of a study as CSV, Markdown and LaTeX."""

from pathlib import Path

from dml import plugins
from dml.results import Results
from dml.stages import run
from dml.tabulation import write_csv, write_latex, write_markdown


def main(results: Path, output: list[Path]) -> None:
    """`output` names the CSV files, one per file of dml/tables/; the other forms lie beside them."""
    found = Results.load(results.parent)
    for path in output:
        plugin = plugins.load("tables", path.stem)
        table = plugin.build(found)
        cells = plugin.present(table, found)
        write_csv(table, path)
        write_markdown(plugin.TITLE, plugin.CAPTION, cells, path.with_suffix(".md"))
        write_latex(plugin.TITLE, plugin.CAPTION, cells, path.with_suffix(".tex"))


if __name__ == "__main__":
    run(main, results=Path, output=[Path])
