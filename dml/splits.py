"""Which classes are for training, validating and testing. Always whole classes, always in sorted order."""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from dml.files import whole
from dml.images import Image
from dml.seeds import generator

PARTS = ("train", "test", "query", "gallery")
"""The parts that a data set with a split of its own gives its images: see `dml.images.Image`."""


class Fold(NamedTuple):
    """One fold of the trainval classes, as positions 0..C-1 in their sorted order."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    super_classes: tuple[str, ...] = ()
    """Of each train class, where the data set tells them."""


def halves(num_classes: int) -> tuple[range, range]:
    """Positions of the trainval classes (the first half, rounded down) and of the test classes.

    As in A Metric Learning Reality Check: 200 CUB classes give 100 and 100, 196 Cars classes 98 and 98, 22,634 SOP
    classes 11,317 and 11,317.
    """
    middle = num_classes // 2
    return range(middle), range(middle, num_classes)


def folds(num_classes: int, num_folds: int = 4) -> list[Fold]:
    """The paper's folds of `num_classes` trainval classes: contiguous, deterministic, disjoint in validation.

    Fold p starts at int(p / num_folds * num_classes); its train classes are the next ones (wrapping round), its
    num_classes // num_folds validation classes the block after those, so fold 0 validates on the last block. Where
    the division leaves a rest, the train classes take it: some classes are then in no validation block.

    Source: the released code of the paper (its split manager); the default of the later code base differs.
    """
    if num_classes < 2 * num_folds:
        raise ValueError(
            f"{num_classes} trainval classes cannot make {num_folds} folds: each needs at least 2 validation classes; "
            f"use at least {4 * num_folds} classes in all, or set protocol.folds lower"
        )
    num_validation = num_classes // num_folds
    result = []
    for p in range(num_folds):
        start = int(p / num_folds * num_classes)
        order = [(start + i) % num_classes for i in range(num_classes)]
        result.append(Fold(tuple(order[: num_classes - num_validation]), tuple(order[num_classes - num_validation :])))
    check_folds(result, num_classes)
    return result


def check_folds(result: Sequence[Fold], num_classes: int) -> None:
    """What must hold of any folds: train and validation part the classes, validation blocks never overlap."""
    seen: set[int] = set()
    for fold in result:
        assert not set(fold.train) & set(fold.validation)
        assert set(fold.train) | set(fold.validation) == set(range(num_classes))
        assert not seen & set(fold.validation)
        seen |= set(fold.validation)


def check_number_of_classes(dataset: str, num_classes: int, num_folds: int) -> None:
    """ValueError if the trainval half of `num_classes` cannot make the folds."""
    try:
        folds(len(halves(num_classes)[0]), num_folds)
    except ValueError as error:
        raise ValueError(f"{dataset}: {num_classes} classes in all, so {error}") from None


class Classes(NamedTuple):
    """The names of the classes of each half, sorted. A class's label is its place among all, trainval first."""

    trainval: list[str]
    test: list[str]


def class_halves(dataset: str, images: Sequence[Image]) -> Classes:
    """Which classes make which half: the sorted classes halved, or as the data set itself says with `Image.part`.

    ValueError if only some images have a part, or one class lies in both halves.
    """
    parts = {image.part for image in images}
    if parts == {""}:
        classes = sorted({image.label_name for image in images})
        return Classes(*([classes[label] for label in half] for half in halves(len(classes))))
    unknown = sorted(parts - set(PARTS))
    if unknown:
        raise ValueError(f"{dataset}: an image has the part '{unknown[0]}'; expected one of {', '.join(PARTS)} for all")
    trainval = {image.label_name for image in images if image.part == "train"}
    test = {image.label_name for image in images if image.part != "train"}
    if trainval & test:
        raise ValueError(f"{dataset}: class '{min(trainval & test)}' is in the training and in the test part")
    return Classes(sorted(trainval), sorted(test))


def check_class_sizes(dataset: str, images: Sequence[Image]) -> None:
    """ValueError if a trainval class has a single image: it has no positive pair.

    But the split that a data set fixes itself is taken as it is: its classes cannot be changed.
    """
    if any(image.part for image in images):
        return
    sizes = Counter(image.label_name for image in images)
    alone = [name for name in class_halves(dataset, images).trainval if sizes[name] < 2]
    if alone:
        raise ValueError(
            f"{dataset}: class '{alone[0]}' has a single image"
            f"{f' (and {len(alone) - 1} more classes)' if alone[1:] else ''}: "
            "a class to train on needs at least 2; add images or take the class out"
        )


def half_of(images: Sequence[Image], half: str) -> tuple[list[int], list[int]]:
    """Positions of the images of a half ("trainval" or "test"), and their labels: the class's place among all.

    The order is shuffled, always alike. Exact ties go to the image that stands first, so in an order by class a model
    that maps all images to one point would score far better than chance.
    """
    classes = class_halves("images", images)
    first = {"trainval": 0, "test": len(classes.trainval)}[half]
    label_of = {name: label for label, name in enumerate(getattr(classes, half), first)}
    positions = [i for i, image in enumerate(images) if image.label_name in label_of]
    positions = generator("order of", half).permutation(positions).tolist()
    return positions, [label_of[images[i].label_name] for i in positions]


def queries_of(images: Sequence[Image]) -> list[bool] | None:
    """Which images are queries, the others being the gallery; None where every image is both."""
    parts = {image.part for image in images}
    return [image.part == "query" for image in images] if parts & {"query", "gallery"} else None


def write_folds(
    dataset: str,
    images: Sequence[Image],
    num_folds: int,
    path: Path,
    super_class: Callable[[Image], str] | None = None,
) -> None:
    """Write one row per class: label, name, images, half, and the fold that validates on it (empty for none).

    `super_class` tells the super-class of a class by one of its images; without it that column is empty.

    ValueError if there are too few classes for the folds, or a trainval class with a single image.
    """
    classes = class_halves(dataset, images)
    check_number_of_classes(dataset, 2 * len(classes.trainval), num_folds)
    check_class_sizes(dataset, images)
    sizes = Counter(image.label_name for image in images)
    validates = {
        label: k for k, fold in enumerate(folds(len(classes.trainval), num_folds)) for label in fold.validation
    }
    one_of = {image.label_name: image for image in images}
    halved = [(name, half) for half in ("trainval", "test") for name in getattr(classes, half)]
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["label", "class", "images", "half", "validation_fold", "super_class"])
        for label, (name, half) in enumerate(halved):
            of = super_class(one_of[name]) if super_class else ""
            rows.writerow([label, name, sizes[name], half, validates.get(label, ""), of])


def read_folds(path: Path) -> list[Fold]:
    """The folds of a file written by `write_folds`."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["half"] == "trainval"]
    numbers = sorted({int(row["validation_fold"]) for row in rows if row["validation_fold"]})
    result = []
    for k in numbers:
        validation = tuple(int(row["label"]) for row in rows if row["validation_fold"] == str(k))
        train = [row for row in rows if int(row["label"]) not in validation]
        super_classes = tuple(row["super_class"] for row in train) if rows[0]["super_class"] else ()
        result.append(Fold(tuple(int(row["label"]) for row in train), validation, super_classes))
    check_folds(result, len(rows))
    return result
