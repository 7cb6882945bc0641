"""Embeddings of a set of images by a model, and of several models joined."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from dml.images import PackedImages
    from dml.model import Model


BATCH_SIZE = 64
ROWS = 4096


def embed(
    model: "Model",
    images: "PackedImages",
    crop_size: int,
    device: str = "cpu",
    batch_size: int = BATCH_SIZE,
    retrieval: "Callable[[Tensor], Tensor] | None" = None,
) -> np.ndarray:
    """L2-normalised embeddings (N, D), float32, of the centre crops of N images, in their order.

    `retrieval` is that of the method that trained the model, where it has one: see `dml.method.Method`.
    """
    from dml.loading import CentreCrops

    return embed_batches(model, CentreCrops(images, crop_size, device, batch_size), retrieval)


def embed_batches(
    model: "Model", batches: "Iterable[Tensor]", retrieval: "Callable[[Tensor], Tensor] | None" = None
) -> np.ndarray:
    """L2-normalised embeddings (N, D), float32, of the N crops of all batches, which lie on the model's device."""
    return normalise_rows(raw_embeddings(model, batches, retrieval)[0])


def raw_embeddings(
    model: "Model",
    batches: "Iterable[Tensor]",
    retrieval: "Callable[[Tensor], Tensor] | None" = None,
    poolings: Sequence[str] = (),
) -> list[np.ndarray]:
    """Embeddings (N, D), float32, as long as the network makes them, in one pass through the trunk.

    The first are the model's own, the others those with each of `poolings` in the place of its own.
    """
    import torch

    from dml.model import Pooling

    others = [Pooling(kind, learns=False) for kind in poolings]
    was_training = model.training
    model.eval()
    parts: list[list[Tensor]] = [[] for _ in range(1 + len(others))]
    with torch.inference_mode():
        for crops in batches:
            outputs = model(crops)
            found = [outputs.embeddings, *(model.pooled(outputs.maps, pooling)[0].float() for pooling in others)]
            # Not read here, which would make the device wait; copied, as a view would keep all that it is a part of.
            for own, embeddings in zip(parts, found if retrieval is None else map(retrieval, found), strict=True):
                own.append(embeddings.to(torch.float32, copy=True))
    model.train(was_training)
    return [np.concatenate([part.cpu().numpy() for part in own]) for own in parts]


def concatenate(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Embeddings of several models, each (N, D_i), joined to (N, sum of D_i): each part and the whole L2-normalised."""
    joined = np.concatenate([normalise_rows(part) for part in embeddings], axis=1)
    return normalise_rows(joined, joined)


def normalise_rows(vectors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Rows scaled to length 1, in a new array or in `out`, which may be the same; a row of zeros stays zero."""
    out = np.empty_like(vectors) if out is None else out
    for start in range(0, len(vectors), ROWS):  # a few at a time: in float64 all of them are four times as large
        rows = vectors[start : start + ROWS]
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)  # squares overflow in float32
        out[start : start + ROWS] = rows / np.maximum(lengths, 1e-12)
    return out
