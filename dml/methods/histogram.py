"""Histogram loss (Ustinova and Lempitsky, NIPS 2016): how often a negative is more similar than a positive.

The cosines of all positive pairs of the batch, and those of all negative pairs, each fall on their two nearest of
num_bins + 1 equally spaced nodes on [-1, 1] in linear shares. With the two histograms h+ and h-, each of sum 1, the
loss is

    sum over the nodes r: h-_r * (sum over the nodes q up to r: h+_q)

and 0 in a batch without positives or without negatives.
"""

import torch
from torch import Tensor

from dml import pairs
from dml.method import Method

TITLE = "Histogram"
RANGES = {"num_bins": {"low": 2, "high": 256, "log": True, "integer": True}}
DEFAULTS = {"num_bins": 64}  # Roth et al. (ICML 2020) on CUB and Cars; 10 on SOP
IMAGES_PER_CLASS = 4


class Histogram(Method):
    """Draws the similarities of positives and those of negatives apart as two distributions."""

    def __init__(self, num_classes: int, embedding_size: int, num_bins: int):
        super().__init__()
        self.num_bins = num_bins

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        place = (1 + pairs.cosine_similarities(embeddings)).flatten() * (self.num_bins / 2)
        weights = torch.stack(pairs.positives_and_negatives(labels)).flatten(1).to(place.dtype)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
        of_positives, of_negatives = self._histograms(place, weights)
        return of_negatives @ of_positives.cumsum(dim=0)

    def _histograms(self, place: Tensor, weights: Tensor) -> Tensor:
        """Places (N,) between 0 and num_bins, and weights (K, N), to K histograms."""
        lower = place.detach().long().clamp(0, self.num_bins - 1)  # of a training that diverged places may be anything
        to_upper = weights * (place - lower)
        node = lower.expand_as(weights)
        empty = weights.new_zeros(len(weights), self.num_bins + 1)
        return empty.scatter_add(1, node, weights - to_upper).scatter_add(1, node + 1, to_upper)
