"""Contrastive loss (Hadsell, Chopra and LeCun, CVPR 2006) in the form of the Reality Check.

With the distance d of normalised embeddings, over all pairs of the batch:

    mean of the non-zero [d_positive - pos_margin]+  +  mean of the non-zero [neg_margin - d_negative]+

As in A Metric Learning Reality Check (Musgrave et al., ECCV 2020), distances are not squared (the original squares
them) and each mean is over the pairs that still contribute.
"""

from torch import Tensor

from dml import pairs
from dml.method import Method

TITLE = "Contrastive"
RANGES = {  # linear, as in the paper
    "pos_margin": {"low": -0.2, "high": 2.0},
    "neg_margin": {"low": -0.2, "high": 2.0},
}
DEFAULTS = {"pos_margin": 0.0, "neg_margin": 1.0}
IMAGES_PER_CLASS = 4


class Contrastive(Method):
    """Pulls positives nearer than `pos_margin`, pushes negatives beyond `neg_margin`."""

    def __init__(self, num_classes: int, embedding_size: int, pos_margin: float, neg_margin: float):
        super().__init__()
        self.pos_margin, self.neg_margin = pos_margin, neg_margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distance = pairs.distances(embeddings)
        positives, negatives = pairs.positives_and_negatives(labels)
        too_far = pairs.mean_of_nonzero(distance - self.pos_margin, positives)
        too_near = pairs.mean_of_nonzero(self.neg_margin - distance, negatives)
        return too_far + too_near
