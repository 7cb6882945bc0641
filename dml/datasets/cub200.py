"""CUB-200-2011: 200 bird species, 11,788 photographs.

Wah, Branson, Welinder, Perona and Belongie, The Caltech-UCSD Birds-200-2011 Dataset, Caltech 2011. A class is a
species. Its own train and test flags, for closed-set classification, are not used: the benchmark splits by class.
"""

from collections.abc import Sequence
from pathlib import Path

from dml.archives import Files, check, copies, find, unpack
from dml.downloading import obtain
from dml.images import Image

TITLE = "CUB-200-2011"
SOURCE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
TERMS = (
    "non-commercial research and teaching; the photographs are from Flickr, and their copyright is the photographers'"
)
ARCHIVES = [
    {
        "name": "CUB_200_2011.tgz",
        "urls": [
            "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
            "https://s3.amazonaws.com/fast-ai-imageclas/CUB_200_2011.tgz",
        ],
        "sha256": "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
        "md5": "97eceeb196236b17998738112f37df78",
        "size": 1150585339,
    },
]
CLASSES = 200
IMAGES = 11788
TRAINVAL_IMAGES = 5864
SPOTS = {
    "001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111.jpg": "4c84da568f89519f84640c54b7fba7c2",
}
RECALL_AT = [1, 2, 4, 8]


def prepare(destination: Path, mirrors: Sequence[str] = (), source: Path | None = None) -> list[Image]:
    """List the images of a copy in `destination` or `source`; without both, get the archive and unpack it.

    A copy is the folder CUB_200_2011, only its images in class folders (001.Black_footed_Albatross, ...), or a .tgz or
    .zip of these. Where images.txt, image_class_labels.txt and classes.txt are there, they decide.
    """
    if source is not None:
        places = copies(source, destination, *(archive["name"] for archive in ARCHIVES))
        images = next(filter(None, map(_images, places)), None)
    else:
        images = _images(destination)
        if images is None:
            file = obtain(**ARCHIVES[0], destination=destination, mirrors=mirrors)
            images = _images(unpack(file, destination / "CUB_200_2011"))
    if images is None:
        raise ValueError(
            f"cub200: {source or destination}: neither the lists images.txt, image_class_labels.txt and classes.txt "
            "beside a folder images/, nor folders 001.Black_footed_Albatross ...; give the folder CUB_200_2011, its "
            "images/ or CUB_200_2011.tgz"
        )
    return check("cub200", images, CLASSES, IMAGES, SPOTS, TRAINVAL_IMAGES)


def _images(container: Path) -> list[Image] | None:
    if not container.exists():
        return None
    files = find(container, "images", "images.txt", "image_class_labels.txt", "classes.txt")
    if files is not None:
        return _listed(files)
    files = find(container, "001.Black_footed_Albatross")
    if files is not None:
        return [
            files.image(f"{name}/{file}", name)
            for name in files.folders()
            for file in files.files(name)
            if file.lower().endswith(".jpg")
        ]
    return None


def _listed(files: Files) -> list[Image]:
    name_of = dict(files.rows("classes.txt", 2))
    class_of = dict(files.rows("image_class_labels.txt", 2))
    folder, images = files.below("images"), []
    for number, path in files.rows("images.txt", 2):
        name = name_of.get(class_of.get(number))
        if name is None:
            raise ValueError(
                f"cub200: {files}: image {number} has no class in image_class_labels.txt and classes.txt: "
                "unpack CUB_200_2011.tgz again"
            )
        images.append(folder.image(path, name))
    return images
