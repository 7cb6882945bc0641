"""Halve the classes and make the folds."""

from pathlib import Path

from dml.listing import read_image_list
from dml.splits import write_folds
from dml.stages import run


def main(images: Path, folds: int, output: Path) -> None:
    """Write which classes are trainval and test, and in which fold each trainval class validates."""
    write_folds(images.parent.name, read_image_list(images), folds, output)


if __name__ == "__main__":
    run(main, images=Path, folds=int, output=Path)
