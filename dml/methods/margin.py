"""Margin loss (Wu et al., ICCV 2017) with one learnt boundary.

With the distance d of normalised embeddings, over all triplets (a, p, n) of the batch:

    sum of [d_ap - beta + margin]+ + [beta - d_an + margin]+, divided by how many of these terms are above zero

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020), beta is a weight whose initial value is searched,
without the penalty on its size (nu = 0) and without weight decay, and all triplets are used instead of the original's
distance-weighted sampling.
"""

import torch
from torch import Tensor, nn

from dml import pairs
from dml.method import Method

TITLE = "Margin"
RANGES = {
    "margin": {"low": -0.2, "high": 2.0},  # linear, as in the paper
    "beta": {"low": -0.2, "high": 2.0},
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"margin": 0.2, "beta": 1.2, "loss_lr": 5e-4}
IMAGES_PER_CLASS = 4


class Margin(Method):
    """Wants positives `margin` nearer than the boundary `beta`, negatives `margin` beyond it."""

    loss_weight_decay = 0.0

    def __init__(self, num_classes: int, embedding_size: int, margin: float, beta: float):
        super().__init__()
        self.beta = nn.Parameter(torch.full((1,), float(beta)))
        self.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance = pairs.distances(embeddings)
        positives, negatives = pairs.positives_and_negatives(labels)
        boundary = self.boundaries(labels)
        # A triplet is a positive pair and a negative pair of one anchor: each pair counts once for each of the others.
        as_positive = positives * negatives.sum(dim=1, keepdim=True)
        as_negative = negatives * positives.sum(dim=1, keepdim=True)
        outwards = torch.where(negatives, -1.0, 1.0)
        wrong = ((distance - boundary) * outwards + self.margin).relu()
        counts = (as_positive + as_negative) * (wrong > 0)
        return (wrong * counts).sum() / counts.sum().clamp(min=1)

    def boundaries(self, labels: Tensor) -> Tensor:
        """The boundary of each anchor, (B, 1) or (1,)."""
        return self.beta
