"""Stanford Online Products: 22,634 products of 12 kinds, 120,053 photographs of offers on eBay.

Song, Xiang, Jegelka and Savarese, Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016. A class is a
product. The classes are halved, 11,317 each, as in A Metric Learning Reality Check; for the authors' own lists, 11,318
and 11,316, see `sop_official`.
"""

from collections.abc import Sequence
from pathlib import Path

from dml.archives import check, copies, find
from dml.downloading import obtain
from dml.images import Image

TITLE = "Stanford Online Products"
SOURCE = "https://cvgl.stanford.edu/projects/lifted_struct/"
TERMS = "the authors' code is MIT, which is doubtful for the photographs, taken by sellers on eBay: research only"
ARCHIVES = [
    {
        "name": "Stanford_Online_Products.zip",
        "urls": [
            "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
            "https://drive.usercontent.google.com/download?id=1TclrpQOF_ullUP99wk_gjGN8pKvtErG8&export=download&confirm=t",
            "ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
        ],
        "sha256": "b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",
        "md5": "7f73d41a2f44250d4779881525aea32e",
        "size": 3083860082,
    },
]
CLASSES = 22634
IMAGES = 120053
SPOTS = {
    "bicycle_final/111265328556_0.JPG": "77420a4db9dd9284378d7287a0729edb",
    "chair_final/111182689872_0.JPG": "ce78d10ed68560f4ea5fa1bec90206ba",
    "table_final/111194782300_0.JPG": "8203e079b5c134161bbfa7ee2a43a0a1",
    "toaster_final/111157129195_0.JPG": "d6c24ee8c05d986cafffa6af82ae224e",
}
RECALL_AT = [1, 10, 100, 1000]


def prepare(destination: Path, mirrors: Sequence[str] = (), source: Path | None = None) -> list[Image]:
    """List the images of `source`, or get the archive. A .zip is read in place.

    A `source` is the folder Stanford_Online_Products, or a .zip or .tgz of it.
    """
    return [image._replace(part="") for image in with_parts(destination, mirrors, source)]


def with_parts(destination: Path, mirrors: Sequence[str], source: Path | None) -> list[Image]:
    """The images as `prepare` lists them, with the part of the authors' lists: train or test."""
    if source is None:
        places = [obtain(**ARCHIVES[0], destination=destination, mirrors=mirrors)]
    else:
        places = copies(source, destination, *(archive["name"] for archive in ARCHIVES))
    images = next(filter(None, map(_images, places)), None)
    if images is None:
        raise ValueError(
            f"sop: {source or destination}: no Ebay_train.txt and Ebay_test.txt; give the folder "
            "Stanford_Online_Products with both and the folders bicycle_final/ ... toaster_final/, or "
            "Stanford_Online_Products.zip"
        )
    return check("sop", images, CLASSES, IMAGES, SPOTS)


def super_class(image: Image) -> str:
    """What kind of product it shows: one of twelve."""
    return image.label_name.partition(" ")[2]


def _images(container: Path) -> list[Image] | None:
    files = find(container, "Ebay_train.txt", "Ebay_test.txt")
    if files is None:
        return None
    return [
        files.image(path, f"{class_id.zfill(5)} {path.partition('/')[0].removesuffix('_final')}", part)
        for part in ("train", "test")
        for _, class_id, _, path in files.rows(f"Ebay_{part}.txt", 4, skip=1)
    ]
