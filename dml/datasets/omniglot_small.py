"""Omniglot's two small background sets as one: 242 handwritten characters of eight alphabets, 20 drawers each.

Lake, Salakhutdinov and Tenenbaum, Human-level concept learning through probabilistic program induction, Science 2015.
105x105 pixels, black on white. A class is a character of an alphabet. Both archives hold the alphabets Greek and Latin,
with the same files: each is taken once.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from dml.datasets.omniglot import super_class  # noqa: F401
from dml.downloading import obtain
from dml.images import Image

TITLE = "Omniglot (small)"
SOURCE = "https://github.com/brendenlake/omniglot"
TERMS = "MIT licence"
ARCHIVES = [
    {
        "name": "images_background_small1.zip",
        "urls": [
            "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background_small1.zip",
            "https://github.com/brendenlake/omniglot/raw/master/python/images_background_small1.zip",
        ],
        "sha256": "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        "size": 1319022,
    },
    {
        "name": "images_background_small2.zip",
        "urls": [
            "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background_small2.zip",
            "https://github.com/brendenlake/omniglot/raw/master/python/images_background_small2.zip",
        ],
        "sha256": "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
        "size": 1580917,
    },
]
CLASSES = 242
IMAGES = 4840


def prepare(destination: Path, mirrors: Sequence[str] = (), source: Path | None = None) -> list[Image]:
    """Get the archives into `destination` and list their images. A `source` is refused: use `mirrors`."""
    if source is not None:
        raise ValueError(f"omniglot_small: has its own archives, not {source}; to give them yourself, use `mirror`")
    images = {}
    for archive in ARCHIVES:
        file = obtain(**archive, destination=destination, mirrors=mirrors)
        with zipfile.ZipFile(file) as opened:
            for path in opened.namelist():
                if path.endswith(".png"):
                    _, alphabet, character, drawing = path.split("/")
                    label_name = f"{alphabet}/{character}"
                    images.setdefault((label_name, drawing), Image(str(file), path, label_name))
    classes = {image.label_name for image in images.values()}
    assert (len(classes), len(images)) == (CLASSES, IMAGES), f"{len(classes)} classes, {len(images)} images"
    return list(images.values())
