"""Embeddings of a set of images by a model, and of several models joined."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from dml.images import PackedImages
    from dml.model import Model


BATCH_SIZE = 64


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
    return normalise_rows(raw_embeddings(model, batches, retrieval))


def raw_embeddings(
    model: "Model", batches: "Iterable[Tensor]", retrieval: "Callable[[Tensor], Tensor] | None" = None
) -> np.ndarray:
    """Embeddings (N, D), float32, as long as the network makes them."""
    import torch

    was_training = model.training
    model.eval()
    with torch.inference_mode():
        # Not read here, which would make the device wait; copied, as a view would keep all that it is a part of.
        embeddings = (model(crops).embeddings for crops in batches)
        compared = embeddings if retrieval is None else map(retrieval, embeddings)
        parts = [part.to(torch.float32, copy=True) for part in compared]
    model.train(was_training)
    return np.concatenate([part.cpu().numpy() for part in parts])


def concatenate(embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """Embeddings of several models, each (N, D_i), joined to (N, sum of D_i): each part and the whole L2-normalised."""
    return normalise_rows(np.concatenate([normalise_rows(part) for part in embeddings], axis=1))


def normalise_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)  # squares overflow in float32
    return (vectors / np.maximum(lengths, 1e-12)).astype(vectors.dtype)
