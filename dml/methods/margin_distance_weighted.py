"""Margin loss with distance-weighted sampling (Wu et al., ICCV 2017): Margin (D) of Roth et al., ICML 2020.

With the distance d of normalised embeddings and a learnt boundary beta for each class, over triplets (a, p, n)

    sum of [d_ap - beta_a + margin]+ + [beta_a - d_an + margin]+, divided by how many of these terms are above zero

with one triplet an anchor, drawn as in triplet_distance_weighted.py. Boundaries start from one searched value (Roth et
al. have a row for 0.6 and one for 1.2) and have neither a penalty (nu = 0) nor weight decay. The divisor is that of Wu
et al. Departure from the code behind Revisiting Training Strategies (Roth et al.): its divisor counts the triplets with
a term above zero. Departures from Wu et al.: their boundary is a sum of one for all, one for the class and one for the
image, they leave out negatives beyond 1.4, and an anchor has as many triplets as it has positives. An image without a
positive or without a negative is the anchor of none.
"""

import torch
from torch import Tensor

from dml import mining, pairs
from dml.methods.margin_class import MarginClass

TITLE = "Margin (D)"
RANGES = {
    "margin": {"low": 0.0, "high": 1.0},
    "beta": {"low": 0.2, "high": 1.6},
    "loss_lr": {"low": 1e-6, "high": 1.0, "log": True},
}
DEFAULTS = {"margin": 0.2, "beta": 1.2, "loss_lr": 5e-4}  # Roth et al.
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class MarginDistanceWeighted(mining.DrawnByDistance, MarginClass):
    """Wants the drawn positive `margin` nearer than the class's boundary, the drawn negative `margin` beyond it."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float, beta: float):
        super().__init__(num_classes, embedding_size, margin, beta)
        self.embedding_size = embedding_size

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance = pairs.distances(embeddings)
        triplets = self.draw(distance.detach(), *pairs.positives_and_negatives(labels))
        near, far = triplets.of(distance - self.boundaries(labels))
        return pairs.mean_of_nonzero(torch.stack([near, -far]) + self.margin, triplets.exist)
