"""Halve the classes and make the folds."""

from pathlib import Path

from dml import plugins
from dml.listing import read_image_list
from dml.splits import write_folds
from dml.stages import run


def main(plugin: str, images: Path, folds: int, output: Path) -> None:
    """Write which classes are trainval and test, in which fold each trainval class validates, and its super-class."""
    super_class = getattr(plugins.load("datasets", plugin), "super_class", None)
    write_folds(images.parent.name, read_image_list(images), folds, output, super_class)


if __name__ == "__main__":
    run(main, plugin=str, images=Path, folds=int, output=Path)
