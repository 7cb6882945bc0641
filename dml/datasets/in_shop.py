"""In-Shop Clothes Retrieval, a benchmark of DeepFashion: 7,982 clothing items, 52,712 shop photographs.

Liu, Luo, Qiu, Wang and Tang, DeepFashion, CVPR 2016. A class is an item. Its own split: 3,997 items to train on; of the
3,985 others, queries are searched in a gallery.
"""

from collections.abc import Sequence
from pathlib import Path

from dml.archives import Files, check, check_parts, copies, find
from dml.downloading import is_address
from dml.images import Image

TITLE = "In-Shop Clothes Retrieval"
SOURCE = "https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html"
TERMS = "non-commercial research and education only; the authors do not own the photographs"
# Nothing can be fetched and checked: the files are in a Drive folder, and no checksum of them is published.
ARCHIVES = []
CLASSES = 7982
IMAGES = 52712
PARTS = {"train": 25882, "query": 14218, "gallery": 12612}
RECALL_AT = [1, 10, 20, 30, 40]

LISTS = ("list_eval_partition.txt", "Eval/list_eval_partition.txt")
PHOTOGRAPHS = ("img.zip", "Img/img.zip", "img", "Img/img")
WANTED = (
    "expected img.zip (the images of 256x256 pixels, not img_highres) and list_eval_partition.txt, from the folders "
    "Img and Eval of 'In-shop Clothes Retrieval Benchmark': "
    "https://drive.google.com/drive/folders/0B7EVK8r0v71pVDZFQXRsMDZCX1E?resourcekey=0-4R4v6zl4CWhHTsUGOsTstw (linked "
    f"from {SOURCE})"
)


def prepare(destination: Path, mirrors: Sequence[str] = (), source: Path | None = None) -> list[Image]:
    """List the images of `source`, else of a copy in `destination` or in a mirror that is a folder.

    A copy is a folder with img.zip, read in place, or img/, and list_eval_partition.txt, or these in Img/ and Eval/; or
    a .zip or .tgz of the unpacked folder.
    """
    if source is None:
        folders = [destination, *(Path(mirror) for mirror in mirrors if not is_address(mirror))]
        places = [folder for folder in folders if folder.is_dir()]
    else:
        places = list(copies(_whole(Path(source).expanduser()), destination))
    images = next(filter(None, map(_images, places)), None)
    if images is None:
        where = (
            source
            or f"{destination} (put both there, or name their folder in config.yaml: copies: {{in_shop: FOLDER}})"
        )
        found = "".join(f"; {place} has no {name}" for place in places for name in _missing(place))
        raise ValueError(f"in_shop: no copy in {where}{found}; {WANTED}")
    check("in_shop", images, CLASSES, IMAGES)
    check_parts("in_shop", images, PARTS)
    return images


def super_class(image: Image) -> str:
    """What kind of clothes it shows, and whose: the two folders above that of the item."""
    return "/".join(image.path.split("/")[-4:-2])


def _whole(source: Path) -> Path:
    """The folder of the copy that somebody gives a part of."""
    while source.name in ("img.zip", "img", "Img", "Eval", "list_eval_partition.txt"):
        source = source.parent
    return source


def _images(container: Path) -> list[Image] | None:
    listed, files = find(container, LISTS), find(container, PHOTOGRAPHS)
    if listed is None or files is None:
        return None
    path = listed.first(*LISTS)
    rows = listed.rows(path, 3, skip=2)
    announced = listed.read(path).split(maxsplit=1)[:1]
    if announced != [str(len(rows)).encode()]:
        raise ValueError(
            f"in_shop: {listed}: {path} has {len(rows)} rows, not as many as its first line says; get it again"
        )
    photographs = files.first(*PHOTOGRAPHS)
    if not photographs.endswith(".zip"):
        files = files.below(photographs.rpartition("/")[0])
    elif files.container.is_dir():
        files = Files(files.container / photographs)
    else:
        raise ValueError(f"in_shop: {files}: {photographs} is an archive in an archive; unpack {files.container}")
    start = "" if files.has("img") else "img/"
    return [files.image(name.removeprefix(start), item, part) for name, item, part in rows]


def _missing(container: Path) -> list[str]:
    """What of a copy is not there, if some of it is."""
    missing = [names[0] for names in (LISTS, PHOTOGRAPHS) if find(container, names) is None]
    return missing if len(missing) == 1 else []
