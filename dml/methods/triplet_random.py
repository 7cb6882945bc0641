"""Triplet loss of randomly drawn triplets: Triplet (R) of Roth et al., ICML 2020.

With the distance d of normalised embeddings, the mean over the drawn triplets (anchor, positive, negative) of

    [d_ap^2 - d_an^2 + margin]+

which is the loss of FaceNet (Schroff et al., CVPR 2015). As in the code behind Revisiting Training Strategies
(Roth et al.), the mean is over all triplets, those that contribute nothing included. Departure: that code draws as many
of the batch's triplets as the batch has images; here each image is the anchor of one, its positive and its negative
being any, and an image without a positive or without a negative is the anchor of none.
"""

from torch import Tensor

from dml import mining, pairs
from dml.method import Method

TITLE = "Triplet (R)"
RANGES = {"margin": {"low": 0.0, "high": 2.0}}  # up to the squared distance of orthogonal embeddings
DEFAULTS = {"margin": 0.2}  # FaceNet, Roth et al.
IMAGES_PER_CLASS = 4  # Roth et al.: 2


class TripletRandom(Method):
    """Wants an anchor's drawn negative farther than its drawn positive, by squared distance."""

    def __init__(self, num_classes: int, embedding_size: int, margin: float):
        super().__init__()
        self.embedding_size, self.margin = embedding_size, margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance = pairs.distances(embeddings)
        triplets = self.draw(distance.detach(), *pairs.positives_and_negatives(labels))
        near, far = triplets.of(distance.square())
        return pairs.mean((near - far + self.margin).relu(), triplets.exist)

    def draw(self, distance: Tensor, positives: Tensor, negatives: Tensor) -> mining.Triplets:
        """One triplet for each anchor, of all pairs' distances and masks (B, B)."""
        return mining.random_triplets(distance, positives, negatives)
