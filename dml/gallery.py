"""Pictures of retrieval: some test queries with their nearest neighbours, right and wrong. Made after all numbers."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from dml.embedding import concatenate
from dml.images import PackedImages
from dml.neighbours import nearest
from dml.seeds import generator

QUERIES = 6
NEIGHBOURS = 8
THUMBNAIL = 96
"""Longer side of a picture in the report, pixels."""


def gallery(
    dataset: str, method: str, embeddings: Sequence[Path], test: PackedImages, class_names: Mapping[int, str], seed: int
) -> dict:
    """Queries drawn from the test images (half of them among those whose nearest neighbour is wrong, if there are so
    many) with the neighbours that the concatenated embedding of one seed finds.

    Pictures are PNG as base64 text; the drawing depends on `seed` and the data set's name alone.
    """
    vectors = concatenate([np.load(path) for path in embeddings])
    everything = np.arange(len(test))
    wrong = test.labels[nearest(vectors, everything, 1)[:, 0]] != test.labels
    draw = generator(seed, "gallery", dataset)
    shuffled = draw.permutation(everything)
    failures = [i for i in shuffled if wrong[i]][: QUERIES // 2]
    chosen = [i for i in shuffled if i not in failures][: QUERIES - len(failures)] + failures
    found = nearest(vectors, np.array(chosen), min(NEIGHBOURS, len(test) - 1))

    def picture(i: int) -> dict:
        return {"png": thumbnail(test[i]), "class": class_names[int(test.labels[i])]}

    rows = [
        {
            "query": picture(i),
            "neighbours": [picture(j) | {"right": bool(test.labels[j] == test.labels[i])} for j in neighbours],
        }
        for i, neighbours in zip(chosen, found, strict=True)
    ]
    return {"dataset": dataset, "method": method, "rows": rows}


def thumbnail(pixels: np.ndarray) -> str:
    """A (H, W, 3) uint8 image as a small PNG, base64."""
    image = PIL.Image.fromarray(np.asarray(pixels))
    scale = THUMBNAIL / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
