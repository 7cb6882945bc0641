"""Geometry of a batch, shared by the losses: all pairs at once, masks instead of index lists.

Nothing here waits for the device or has a shape that depends on values, so a training step can be captured in a CUDA
graph. Every gradient is finite, also between equal embeddings, whose distance counts as zero with zero gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 8
"""How many units of rounding a squared distance must exceed to count as more than zero."""


def normalised(vectors: Tensor) -> Tensor:
    """Vectors (..., D) of length one."""
    return F.normalize(vectors, dim=-1)


def cosine_similarities(embeddings: Tensor, others: Tensor | None = None) -> Tensor:
    """Cosines (B, N) of embeddings (B, D) with others (N, D); with each other if there are none."""
    embeddings = normalised(embeddings)
    return embeddings @ (embeddings if others is None else normalised(others)).T


def squared_distances(vectors: Tensor) -> Tensor:
    """Squared Euclidean distances (B, B) of vectors (B, D), taken as they are.

    |a|^2 + |b|^2 - 2 a.b; what rounding cannot tell from zero is zero, so that copies of an image are at distance 0.
    """
    products = vectors @ vectors.T
    squared_norms = products.diagonal()
    scale = squared_norms[:, None] + squared_norms[None, :]
    squares = scale - 2 * products
    return squares * (squares > ROUNDING * torch.finfo(squares.dtype).eps * scale)


def distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances (B, B) of the normalised embeddings."""
    return root(squared_distances(normalised(embeddings)))


def root(squares: Tensor) -> Tensor:
    """Square roots; zero with zero gradient where there is nothing positive to take the root of."""
    positive = squares > 0
    return torch.where(positive, squares, 1.0).sqrt() * positive


def positives_and_negatives(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (B, B): another image of the same class, an image of another class."""
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same


def own_class(labels: Tensor, num_classes: int) -> Tensor:
    """Mask (B, num_classes): the image's class."""
    return labels[:, None] == torch.arange(num_classes, device=labels.device)


def mean(terms: Tensor, mask: Tensor) -> Tensor:
    """Mean of the terms under the mask; 0 if there is none."""
    return (terms * mask).sum() / mask.sum().clamp(min=1)


def mean_of_nonzero(terms: Tensor, mask: Tensor) -> Tensor:
    """Mean of those terms under the mask that are above zero; 0 if there is none."""
    return mean(terms, mask & (terms > 0))
