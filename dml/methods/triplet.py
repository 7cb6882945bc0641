"""Triplet margin loss (Weinberger et al., NIPS 2005) in the form of the Reality Check.

With the distance d of normalised embeddings, over all triplets (anchor, positive, negative) of the batch:

    mean of the non-zero [d_ap - d_an + margin]+

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020), distances are not squared, nothing is mined, and the
mean is over the triplets that still contribute.
"""

import torch
from torch import Tensor

from dml import pairs
from dml.method import Method

TITLE = "Triplet"
RANGES = {"margin": {"low": -0.2, "high": 2.0}}  # linear, as in the paper
DEFAULTS = {"margin": 0.1}
IMAGES_PER_CLASS = 4


class Triplet(Method):
    """Wants every negative at least `margin` farther from the anchor than every positive."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float):
        super().__init__()
        self.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance = pairs.distances(embeddings)
        near, far = self._violations(distance.detach(), *pairs.positives_and_negatives(labels))
        count = near.sum(dtype=distance.dtype)
        return (((near - far) * distance).sum() + self.margin * count) / count.clamp(min=1)

    def _violations(self, distance: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """In how many triplets that contribute a pair is the positive one, and the negative one: two (B, B) counts.

        The sum over triplets is linear in the distances with these counts as weights; sorting finds them in B^2 log B
        instead of B^3. Both counts compare the same two numbers, so they agree to the last bit.
        """
        limits = torch.where(positives, distance + self.margin, -torch.inf)
        sorted_negatives, order = torch.where(negatives, distance, torch.inf).sort(dim=1)
        near = torch.searchsorted(sorted_negatives, limits)
        # The k-th nearest negative is too near for all but those whose limit has fewer than k negatives below it.
        size = len(distance)
        with_so_many = near.new_zeros(size, size + 1).scatter_add_(1, near, torch.ones_like(near))
        return near, order.scatter(1, order, size - with_so_many[:, :-1].cumsum(dim=1))
