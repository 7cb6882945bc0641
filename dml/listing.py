"""images.csv: which images a data set has, where they are, and their classes."""

import csv
import zlib
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dml.files import whole
from dml.images import Image, read

COLUMNS = ["class", "container", "path", "part", "crc32"]


def write_image_list(images: Sequence[Image], path: Path) -> None:
    """Write one row per image, sorted by class and path, with a checksum of its bytes: same images, same file."""
    ordered = sorted(images, key=lambda image: (image.label_name, image.path, image.container))
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for image in tqdm(ordered, unit="image", desc="reading", mininterval=5):
            rows.writerow([image.label_name, image.container, image.path, image.part, f"{zlib.crc32(read(image)):08x}"])


def read_image_list(path: Path) -> list[Image]:
    """The images of an images.csv, in its order. Lists of earlier versions have no parts."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Image(row["container"], row["path"], row["class"], row.get("part", "")) for row in csv.DictReader(file)]
