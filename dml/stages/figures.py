"""Draw every figure of a study as SVG and PDF."""

from pathlib import Path

from dml import plugins
from dml.plotting import save
from dml.results import Results
from dml.stages import run


def main(results: Path, output: list[Path]) -> None:
    """`output` names the SVG files, one per file of dml/figures/; the PDFs lie beside them."""
    found = Results.load(results.parent)
    for path in output:
        save(plugins.load("figures", path.stem).draw(found), path.with_suffix(""))


if __name__ == "__main__":
    run(main, results=Path, output=[Path])
