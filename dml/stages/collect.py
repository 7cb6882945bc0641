"""Gather all results of a study into tidy tables."""

from pathlib import Path

from dml.collecting import collect
from dml.stages import run
from dml.study import load_study


def main(
    study: Path,
    name: str,
    images: list[str],
    measured: list[Path],
    histories: list[Path],
    best: list[Path],
    folds: list[Path],
    papers: Path,
    spaces: list[Path],
    selections: list[Path],
    output: Path,
) -> None:
    """Write metrics.csv (`output`) and the tables beside it; `papers` is the folder of published numbers."""
    checked = load_study(study, images)
    collect(checked, name, measured, histories, best, folds, papers, output.parent, spaces, selections)


if __name__ == "__main__":
    run(
        main,
        study=Path,
        name=str,
        images=[str],
        measured=[Path],
        histories=[Path],
        best=[Path],
        folds=[Path],
        papers=Path,
        spaces=[Path],
        selections=[Path],
        output=Path,
    )
