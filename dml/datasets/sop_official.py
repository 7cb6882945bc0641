"""Stanford Online Products with the authors' lists: 11,318 products to train on, 11,316 to test on.

The images are those of `sop`. Most papers use these lists.
"""

from collections.abc import Sequence
from pathlib import Path

from dml.archives import check_parts
from dml.datasets.sop import super_class, with_parts  # noqa: F401
from dml.images import Image

TITLE = "Stanford Online Products (official split)"
SOURCE = "https://cvgl.stanford.edu/projects/lifted_struct/"
TERMS = "the authors' code is MIT, which is doubtful for the photographs, taken by sellers on eBay: research only"
ARCHIVES_OF = "sop"
CLASSES = 22634
IMAGES = 120053
PARTS = {"train": 59551, "test": 60502}
RECALL_AT = [1, 10, 100, 1000]


def prepare(destination: Path, mirrors: Sequence[str] = (), source: Path | None = None) -> list[Image]:
    """List the images as `sop` does, each with its part."""
    images = with_parts(destination, mirrors, source)
    check_parts("sop_official", images, PARTS)
    return images
