"""Pictures of retrieval: some test queries with their nearest neighbours, right and wrong. Made after all numbers."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from dml.embedding import concatenate
from dml.finished import load_embeddings
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
    vectors = concatenate([load_embeddings(path) for path in embeddings])
    queries = np.arange(len(test)) if test.queries is None else np.flatnonzero(test.queries)
    wrong = test.labels[_nearest(vectors, test, queries, 1)[:, 0]] != test.labels[queries]
    failing = set(queries[wrong].tolist())
    draw = generator(seed, "gallery", dataset)
    shuffled = draw.permutation(queries)
    failures = [i for i in shuffled if i in failing][: QUERIES // 2]
    chosen = [i for i in shuffled if i not in failures][: QUERIES - len(failures)] + failures
    found = _nearest(vectors, test, np.array(chosen), NEIGHBOURS)

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


def _nearest(vectors: np.ndarray, test: PackedImages, queries: np.ndarray, k: int) -> np.ndarray:
    """The up to k nearest images (len(queries), k) of each query, among all others or among the gallery."""
    if test.queries is None:
        return nearest(vectors, queries, min(k, len(test) - 1))
    gallery = np.flatnonzero(~test.queries)
    return gallery[nearest(vectors, queries, min(k, len(gallery)), vectors[gallery])]


def thumbnail(pixels: np.ndarray) -> str:
    """A (H, W, 3) uint8 image as a small PNG, base64."""
    image = PIL.Image.fromarray(np.asarray(pixels))
    scale = THUMBNAIL / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
