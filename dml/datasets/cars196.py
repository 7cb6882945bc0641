"""Cars196: 196 car models, 16,185 photographs.

Krause, Stark, Deng and Fei-Fei, 3D Object Representations for Fine-Grained Categorization, 3dRR 2013. A class is make,
model and year. All classes of both its own halves, which are for closed-set classification: the benchmark splits by
class, in the order of the class ids.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dml.archives import Files, check, check_spots, copies, find, unpack
from dml.downloading import obtain
from dml.images import Image

TITLE = "Cars196"
SOURCE = "https://ai.stanford.edu/~jkrause/cars/car_dataset.html"
TERMS = "no licence is stated; the photographs belong to others: research only"
# The files of the original host, which is gone since 2023, from a copy that is left. Size and sha256 of the images are
# that copy's; the md5 of the annotations is the original's, since a copy with other numbers is about.
ARCHIVES = [
    {
        "name": "cars_annos.mat",
        "urls": [
            "https://huggingface.co/datasets/XiN0919/FGVC/resolve/921e8dce38536cd5982739d85d5e9235d2cb2a76/cars_annos.mat",
            "https://huggingface.co/datasets/XiN0919/FGVC/resolve/main/cars_annos.mat",
        ],
        "md5": "b407c6086d669747186bd1d764ff9dbc",
    },
    {
        "name": "car_ims.tgz",
        "urls": [
            "https://huggingface.co/datasets/XiN0919/FGVC/resolve/921e8dce38536cd5982739d85d5e9235d2cb2a76/car_ims.tgz",
            "https://huggingface.co/datasets/XiN0919/FGVC/resolve/main/car_ims.tgz",
        ],
        "sha256": "4d96e3e3e892c6b7e4a71959325c7de4804037d27ba5aaf1c756100fd94a5342",
        "size": 1956628579,
    },
]
CLASSES = 196
IMAGES = 16185
TRAINVAL_IMAGES = 8054
SPOTS = {
    "car_ims/000001.jpg": "2d44a28f071aeaac9c0802fddcde452e",
    "car_ims/016185.jpg": "bab296d5e4b2290d024920bf4dc23d07",
}
RECALL_AT = [1, 2, 4, 8]

WANTED = (
    "expected either car_ims/ (or car_ims.tgz) with cars_annos.mat; or cars_train/ and cars_test/ "
    "(https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset) with devkit/cars_train_annos.mat and "
    "devkit/cars_meta.mat (https://github.com/pytorch/vision/files/11644847/car_devkit.tgz) and "
    "cars_test_annos_withlabels.mat (https://github.com/pytorch/vision/issues/7545#issuecomment-1631441616); or "
    "car_data/ with names.csv (https://www.kaggle.com/datasets/jutrera/stanford-car-dataset-by-classes-folder)"
)


def prepare(destination: Path, mirrors: Sequence[str] = (), source: Path | None = None) -> list[Image]:
    """List the images of a copy in `destination` or `source`; without both, get the archives and unpack them.

    A copy is a folder, or a .zip or .tgz of it, in one of three forms, see `WANTED`.
    """
    if source is not None:
        source = Path(source).expanduser()
        beside = Files(source if source.is_dir() else source.parent)
        places = copies(source, destination, "car_ims.tgz")
        images = next(filter(None, (_images(place, beside) for place in places)), None)
    else:
        images = _images(destination, None)
        if images is None:
            try:
                _, archive = [obtain(**known, destination=destination, mirrors=mirrors) for known in ARCHIVES]
            except ValueError as error:
                raise ValueError(
                    f"cars196: {error}; the original host is gone; put a copy into {destination}, or name its folder "
                    f"in config.yaml as copies: {{cars196: FOLDER}}: {WANTED}"
                ) from error
            images = _images(unpack(archive, destination / "cars196"), Files(destination))
    if images is None:
        raise ValueError(f"cars196: {source or destination}: no copy is there in any known form; {WANTED}")
    return check("cars196", images, CLASSES, IMAGES, trainval=TRAINVAL_IMAGES)


def _images(container: Path, beside: Files | None) -> list[Image] | None:
    """What `container` holds in one of the three forms; annotations may lie in the folder `beside`."""
    if not container.exists():
        return None
    if (files := find(container, "car_ims")) is not None:
        images = _one_set(files, container, beside)
        check_spots("cars196", images, SPOTS)  # the other forms have the images under other names
        return images
    if (files := find(container, "cars_train", "cars_test")) is not None:
        return _two_sets(files, container, beside)
    if (files := find(container, "names.csv", ("car_data", "train"))) is not None:
        return _class_folders(files)
    return None


def _one_set(files: Files, container: Path, beside: Files | None) -> list[Image]:
    keys = "class_names", "relative_im_path", "class"
    names, paths, numbers = _annotations("cars_annos.mat", keys, container, beside)
    return [files.image(str(path), _label(int(number), names)) for path, number in zip(paths, numbers, strict=True)]


def _two_sets(files: Files, container: Path, beside: Files | None) -> list[Image]:
    (names,) = _annotations("cars_meta.mat", ["class_names"], container, beside)
    images = []
    for half, file in (("cars_train", "cars_train_annos.mat"), ("cars_test", "cars_test_annos_withlabels.mat")):
        place = files.below(half) if files.has(f"{half}/{half}") else files  # Kaggle has one in the other
        rows = zip(*_annotations(file, ["fname", "class"], container, beside), strict=True)
        images += [place.image(f"{half}/{path}", _label(int(number), names)) for path, number in rows]
    return images


def _class_folders(files: Files) -> list[Image]:
    """Class folders under train/ and test/; the n-th line of names.csv names class n."""
    text = files.read("names.csv").decode("utf-8-sig", errors="replace")
    names = [row[0] for row in csv.reader(io.StringIO(text)) if row]
    number_of = {_folder_name(name): number for number, name in enumerate(names, 1)}
    halves = files.below(files.first("car_data/car_data", "car_data") or "")
    images = []
    for half in ("train", "test"):
        for folder in halves.folders(half) if halves.has(half) else []:
            number = number_of.get(_folder_name(folder))
            if number is None:
                raise ValueError(f"cars196: {halves}: the folder {half}/{folder} is no class of names.csv; {WANTED}")
            images += [
                halves.image(f"{half}/{folder}/{file}", _label(number, names))
                for file in halves.files(f"{half}/{folder}")
                if file.lower().endswith(".jpg")
            ]
    return images


def _annotations(name: str, keys: Iterable[str], container: Path, beside: Files | None) -> list[np.ndarray]:
    """Columns of a .mat file: its `class_names`, one per class, or fields of its `annotations`, one per image."""
    from scipy.io import loadmat  # here, so that other data sets do not wait for it

    files = find(container, name)
    if files is None and beside is not None and beside.has(name):
        files = beside
    if files is None:
        raise ValueError(f"cars196: {container}: {name} is missing; {WANTED}")
    try:
        found = loadmat(io.BytesIO(files.read(name)), squeeze_me=True)
        return [found[key] if key == "class_names" else found["annotations"][key] for key in keys]
    except Exception as error:  # scipy raises nearly anything on damaged files
        raise ValueError(f"cars196: {files}: {name} cannot be read ({error}); get it again") from error


def _label(number: int, names: Sequence[str]) -> str:
    if not 1 <= number <= len(names):
        raise ValueError(f"cars196: an image is of class {number}, and {len(names)} classes have names; {WANTED}")
    return f"{number:03d} {str(names[number - 1]).strip()}"


def _folder_name(name: str) -> str:
    """Ram C/V Cargo Van Minivan 2012 cannot be a folder: it is written with a minus."""
    return name.strip().replace("/", "-")
