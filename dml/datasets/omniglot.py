"""Omniglot: 1,623 handwritten characters of fifty alphabets, 20 drawers each.

Lake, Salakhutdinov and Tenenbaum, Human-level concept learning through probabilistic program induction, Science 2015.
105x105 pixels, black on white. A class is a character of an alphabet. Its own halves, background and evaluation, are
taken together: the benchmark halves the classes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dml.archives import Files, check, copies, find
from dml.downloading import obtain
from dml.images import Image

TITLE = "Omniglot"
SOURCE = "https://github.com/brendenlake/omniglot"
TERMS = "MIT licence"
ARCHIVES = [
    {
        "name": "images_background.zip",
        "urls": [
            "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_background.zip",
            "https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip",
        ],
        "sha256": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
        "md5": "68d2efa1b9178cc56df9314c21c6e718",
        "size": 9464212,
    },
    {
        "name": "images_evaluation.zip",
        "urls": [
            "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/images_evaluation.zip",
            "https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip",
        ],
        "sha256": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
        "md5": "6b91aef0f799c5bb55b94e3f2daec811",
        "size": 6462886,
    },
]
CLASSES = 1623
IMAGES = 32460

SETS = ("images_background", "images_evaluation")


def prepare(destination: Path, mirrors: Sequence[str] = (), source: Path | None = None) -> list[Image]:
    """List the images of `source`, or get the archives. A .zip is read in place.

    A `source` is a folder, or a .zip or .tgz of one, with images_background/ and images_evaluation/; or a folder with
    the two as .zip.
    """
    if source is None:
        halves = [Files(obtain(**archive, destination=destination, mirrors=mirrors)) for archive in ARCHIVES]
    else:
        halves = next(filter(None, map(_halves, copies(source, destination))), None)
        if halves is None:
            raise ValueError(
                f"omniglot: {source}: expected images_background/ and images_evaluation/, or the two as .zip, in one "
                "folder; give that folder"
            )
    return check("omniglot", _images(halves), CLASSES, IMAGES)


def super_class(image: Image) -> str:
    """The alphabet of a character."""
    return image.label_name.partition("/")[0]


def _halves(container: Path) -> list[Files] | None:
    files = find(container, *SETS)
    if files is not None:
        return [files]
    files = find(container, *(f"{name}.zip" for name in SETS))
    if files is None or not files.container.is_dir():
        return None
    return [Files(files.container / f"{name}.zip") for name in SETS]


def _images(halves: Iterable[Files]) -> list[Image]:
    return [
        files.image(f"{name}/{alphabet}/{character}/{drawing}", f"{alphabet}/{character}")
        for files in halves
        for name in SETS
        if files.has(name)
        for alphabet in files.folders(name)
        for character in files.folders(f"{name}/{alphabet}")
        for drawing in files.files(f"{name}/{alphabet}/{character}")
        if drawing.endswith(".png")
    ]
