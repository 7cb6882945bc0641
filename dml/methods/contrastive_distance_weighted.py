"""Contrastive loss with negatives drawn by distance: Contrastive (D) of Roth et al., ICML 2020.

With the distance d of normalised embeddings, the mean over triplets (anchor, positive, negative) of

    [d_ap - pos_margin]+ + [neg_margin - d_an]+

with one triplet an anchor, drawn as in triplet_distance_weighted.py. As in the code behind Revisiting Training
Strategies (Roth et al.), distances are not squared, as they are in the original (Hadsell, Chopra and LeCun, CVPR 2006),
and the mean is over all triplets, those that contribute nothing included. An image without a positive or without a
negative is the anchor of none.
"""

from torch import Tensor

from dml import mining, pairs
from dml.method import Method

TITLE = "Contrastive (D)"
RANGES = {
    "pos_margin": {"low": 0.0, "high": 1.0},
    "neg_margin": {"low": 0.0, "high": 2.0},  # no distance is longer
}
DEFAULTS = {"pos_margin": 0.0, "neg_margin": 1.0}  # Roth et al.
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class ContrastiveDistanceWeighted(mining.DrawnByDistance, Method):
    """Pulls the drawn positive nearer than `pos_margin`, pushes the drawn negative beyond `neg_margin`."""

    def __init__(self, num_classes: int, embedding_size: int, pos_margin: float, neg_margin: float):
        super().__init__()
        self.embedding_size, self.pos_margin, self.neg_margin = embedding_size, pos_margin, neg_margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance = pairs.distances(embeddings)
        triplets = self.draw(distance.detach(), *pairs.positives_and_negatives(labels))
        near, far = triplets.of(distance)
        return pairs.mean((near - self.pos_margin).relu() + (self.neg_margin - far).relu(), triplets.exist)
