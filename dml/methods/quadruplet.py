"""Quadruplet loss (Chen et al., CVPR 2017), negatives drawn by distance: Quadruplet (D) of Roth et al.

With the distance d of normalised embeddings, over quadruplets of an anchor, a positive and two images n, m of two
other classes

    mean of [d_ap - d_an + margin]+  +  mean of [d_ap - d_nm + second_margin]+

Each anchor has one, drawn as in triplet_distance_weighted.py, m being any that fits. As in the code behind Revisiting
Training Strategies (Roth et al., ICML 2020), distances are Euclidean and not squared, where the original squares those
of a learnt metric, margins are fixed, where the original's follow the distances of the batch, and the means are over
all quadruplets, those that contribute nothing included. Departures from that code: by a slip, its m may be of any
class, that of the anchor and that of n included, and its second mean is over every positive pair with every pair n, m
of the batch. An image without a positive or without a negative is the anchor of nothing; one without an m has the first
term only.
"""

from torch import Tensor

from dml import mining, pairs
from dml.method import Method

TITLE = "Quadruplet (D)"
RANGES = {
    "margin": {"low": 0.0, "high": 1.0},
    "second_margin": {"low": 0.0, "high": 1.0},
}
DEFAULTS = {"margin": 0.2, "second_margin": 0.2}  # Roth et al.
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class Quadruplet(Method):
    """Wants the drawn positive nearer than the drawn negative is, to the anchor and to an image of a third class."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float, second_margin: float):
        super().__init__()
        self.embedding_size, self.margin, self.second_margin = embedding_size, margin, second_margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance = pairs.distances(embeddings)
        positives, negatives = pairs.positives_and_negatives(labels)
        triplets = mining.triplets_by_distance(distance.detach(), positives, negatives, self.embedding_size)
        thirds = triplets.negatives
        of_third_class = negatives & negatives[thirds]
        fourths = mining.draw_one(of_third_class, distance)
        near, far = triplets.of(distance)
        between = distance.flatten().gather(0, thirds * len(distance) + fourths)
        loss = pairs.mean((near - far + self.margin).relu(), triplets.exist)
        complete = triplets.exist & of_third_class.any(dim=1)
        return loss + pairs.mean((near - between + self.second_margin).relu(), complete)
