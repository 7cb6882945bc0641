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
    output: Path,
) -> None:
    """Write metrics.csv (`output`) and the tables beside it; `papers` is the folder of published numbers."""
    collect(load_study(study, images), name, measured, histories, best, folds, papers, output.parent)


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
        output=Path,
    )
